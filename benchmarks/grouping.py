"""The scoreboard of grouping: which rules send which parameters of the zoo to Muon, and which rightly.

    python benchmarks/grouping.py [--json] [--wrong RULE]

Every rule says, for each trainable parameter of each architecture in `tests/zoo`, Muon or not. The
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
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

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


def score() -> tuple[dict[str, dict[str, float]], dict[str, list[str]]]:
    """Return, for each rule, its counts, and the parameters it gets wrong."""
    import transformers

    from downslope.grouping.partition import Role
    from downslope.grouping.torch import named_parameters, partition
    from tests.zoo import ZOO

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)  # the models are small
    names = ["Downslope", *PEERS]
    right = {n: {"models": 0, "matrices": 0, "views": 0} for n in names}
    wrong: dict[str, list[str]] = {n: [] for n in names}
    matrices, views, seconds = 0, 0, 0.0
    for z in track(ZOO, "the zoo", console=Console(stderr=True)):
        torch.manual_seed(0)
        model, args, kwargs = z.build()
        own = {n: p for n, p in named_parameters(model).items() if p.requires_grad}
        labels = {n: Role(z.label(n, tuple(p.shape))).rule == "muon" for n, p in own.items()}
        judged = [n for n, p in own.items() if p.ndim > 1]
        begun = time.perf_counter()
        found = partition(model, *args, **kwargs)
        seconds += time.perf_counter() - begun
        answers = {"Downslope": {a.name for a in found if a.rule == "muon"}}
        answers |= {n: rule(model, own) for n, rule in PEERS.items()}
        for name, muon in answers.items():
            mistakes = [n for n in own if (n in muon) != labels[n]]
            wrong[name] += [f"{z.name}: {n} {tuple(own[n].shape)}" for n in mistakes]
            right[name]["models"] += not mistakes
            right[name]["matrices"] += sum(n not in mistakes for n in judged)
        right["Downslope"]["views"] += sum(found[n].to_dict()["matrices"] == m for n, m in z.matrices.items())
        matrices, views = matrices + len(judged), views + len(z.matrices)
    of = {"models": len(ZOO), "matrices": matrices, "views": views, "seconds": round(seconds, 2)}
    return {"of": of, **right}, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description="Score rules of grouping on the labelled zoo.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--wrong", metavar="RULE", help="list what a rule gets wrong")
    options = parser.parse_args()
    scores, wrong = score()
    if options.wrong:
        print("\n".join(wrong[options.wrong]) or "nothing")
    elif options.json:
        print(json.dumps(scores, indent=1))
    else:
        of = scores.pop("of")
        t = Table("rule", "models right", "parameters right", title="Muon or not, on the labelled zoo")
        for name, s in scores.items():
            t.add_row(
                name,
                f"{s['models']} of {of['models']} ({s['models'] / of['models']:.0%})",
                f"{s['matrices']} of {of['matrices']} ({s['matrices'] / of['matrices']:.1%})",
            )
        Console().print(t)
        mine = scores["Downslope"]["views"]
        print(
            f"Parameters of two or more axes. Views labelled: {of['views']}, right in Downslope: {mine}. "
            f"All traces: {of['seconds']} s."
        )


if __name__ == "__main__":
    main()
