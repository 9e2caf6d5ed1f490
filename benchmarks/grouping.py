"""The scoreboard of grouping: which rules send which parameters of the zoo to Muon, and which rightly.

    python benchmarks/grouping.py [--json] [--wrong RULE] [--zoo torch|flax|keras]

Every rule says, for each trainable parameter of each architecture in `tests/zoo` (and in
`tests/jax/zoo.py` and `tests/keras/zoo.py`, in processes of their own), Muon or not. The
labels were written by hand. A model counts as right if all of its parameters are. Peers' rules come
from their installed packages where those have a function for it, else they are restated here from
their documents or sources:

- torch: the example of `torch.optim.Muon`'s documentation, every parameter of two axes;
- optax: the default of `optax.contrib.muon`, the same;
- Keras: `keras.optimizers.Muon`, two axes and no "embedding" in the path;
- DeepSpeed: `set_optimizer_flags`, two axes or more and neither "embed" nor "lm_head" in the name;
- timm: `timm.optim.muon`, by shape (installed);
- pytorch_optimizer: `prepare_muon_parameters`, by module class and "head" in the name (installed).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from scoring import Score, table

sys.path.insert(0, str(Path(__file__).parent.parent))
warnings.simplefilter("ignore")

Rule = Callable[[torch.nn.Module, Mapping[str, torch.nn.Parameter]], set[str]]


def two_axes(model: torch.nn.Module, parameters: Mapping[str, torch.nn.Parameter]) -> set[str]:
    return {n for n, p in parameters.items() if p.ndim == 2}


def keras_rule(model: torch.nn.Module, parameters: Mapping[str, torch.nn.Parameter]) -> set[str]:
    return {n for n, p in parameters.items() if p.ndim == 2 and "embedding" not in n.lower()}


def deepspeed_rule(model: torch.nn.Module, parameters: Mapping[str, torch.nn.Parameter]) -> set[str]:
    words = ("embed", "lm_head")
    return {n for n, p in parameters.items() if p.ndim >= 2 and not any(w in n.lower() for w in words)}


def timm_rule(model: torch.nn.Module, parameters: Mapping[str, torch.nn.Parameter]) -> set[str]:
    from timm.optim.muon import _is_suitable_for_muon

    return {n for n, p in parameters.items() if _is_suitable_for_muon(p)}


def pytorch_optimizer_rule(model: torch.nn.Module, parameters: Mapping[str, torch.nn.Parameter]) -> set[str]:
    from pytorch_optimizer.optimizer.muon import prepare_muon_parameters

    optimizer = prepare_muon_parameters(model, "muon", lr=0.02, weight_decay=0.0)
    muon = {id(p) for g in optimizer.param_groups if g["use_muon"] for p in g["params"]}
    return {n for n, p in parameters.items() if id(p) in muon}


PEERS: dict[str, Rule] = {
    "torch, documented example": two_axes,
    "optax, default": two_axes,
    "Keras": keras_rule,
    "DeepSpeed": deepspeed_rule,
    "timm": timm_rule,
    "pytorch_optimizer": pytorch_optimizer_rule,
}


def score() -> tuple[Score, str]:
    """Return the score on the PyTorch zoo, and what is to say of the labelled views."""
    import transformers

    from downslope.grouping.partition import Role
    from downslope.grouping.torch import named_parameters, partition
    from tests.zoo import ZOO

    transformers.logging.set_verbosity_error()
    peers = dict(PEERS)
    if importlib.util.find_spec("pytorch_optimizer") is None:
        print("pytorch_optimizer is not installed: left out (`make bench` installs it)", file=sys.stderr)
        del peers["pytorch_optimizer"]
    torch.set_num_threads(1)  # the models are small
    total, views, right = Score(), 0, 0
    for z in track(ZOO, "the zoo", console=Console(stderr=True)):
        torch.manual_seed(0)
        model, args, kwargs = z.build()
        own = {n: p for n, p in named_parameters(model).items() if p.requires_grad}
        shapes = {n: tuple(p.shape) for n, p in own.items()}
        muon = {n for n, shape in shapes.items() if Role(z.label(n, shape)).rule == "muon"}
        begun = time.perf_counter()
        found = partition(model, *args, **kwargs)
        total.seconds += time.perf_counter() - begun
        answers = {"Downslope": {a.name for a in found if a.rule == "muon"}}
        total.enter(z.name, shapes, muon, answers | {n: rule(model, own) for n, rule in peers.items()})
        views += len(z.matrices)
        right += sum(found[n].to_dict()["matrices"] == m for n, m in z.matrices.items())
    return total, f"Views labelled: {views}, right in Downslope: {right}. "


def elsewhere(zoo: str) -> dict[str, Any]:
    """Return the score of a zoo whose framework wants a process of its own."""
    script = Path(__file__).with_name(f"grouping_{'jax' if zoo == 'flax' else zoo}.py")
    done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


TITLES = {"torch": "PyTorch", "flax": "Flax and Equinox", "keras": "Keras"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Score rules of grouping on the labelled zoos.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--wrong", metavar="RULE", help="list what a rule gets wrong")
    parser.add_argument("--zoo", choices=TITLES, action="append", help="one zoo alone")
    options = parser.parse_args()
    scores, words = {}, dict.fromkeys(TITLES, "")
    for zoo in options.zoo or TITLES:
        if zoo == "torch":
            total, words[zoo] = score()
            scores[zoo] = {**total.to_dict(), "wrong": total.wrong}
        else:
            scores[zoo] = elsewhere(zoo)
    if options.wrong:
        lists = [s["wrong"].get(options.wrong, []) for s in scores.values()]
        print("\n".join(line for lines in lists for line in lines) or "nothing")
        return
    for s in scores.values():
        s.pop("wrong")
    if options.json:
        print(json.dumps(scores, indent=1))
        return
    for zoo, s in scores.items():
        Console().print(table(f"Muon or not, on the labelled {TITLES[zoo]} zoo", s))
        print(f"Parameters of two or more axes. {words[zoo]}All traces: {s['of']['seconds']} s.")


if __name__ == "__main__":
    main()
