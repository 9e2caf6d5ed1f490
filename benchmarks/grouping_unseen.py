"""A forecast of grouping: models that the policy was not written beside, and that nobody labelled.

    python benchmarks/grouping_unseen.py [--wrong RULE] [--json] [--only language|vision] [--like PATTERN]

Every language model of transformers that can be built from a few small numbers, and of every family of timm
the smallest model. What should go to Muon is taken from what the libraries themselves say of their models:
not an embedding or a router (by the name of its class), not what timm calls the first convolution and the
classifier or transformers the output embeddings, no depthwise kernel, no matrix with a side below 4, and not
what no layer holds and is called a position, a token, a scale, a rate or a bias. All other parameters of two
axes or more that get a gradient should. Where a rule differs from that, one of the two is wrong: `--wrong`
lists it, to be looked at by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from grouping import PEERS
from rich.console import Console
from rich.progress import track
from scoring import Score, table
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))
warnings.simplefilter("ignore")

Model = tuple[str, nn.Module, tuple[Any, ...], dict[str, Any], set[str]]  # and the names of the ends' layers
LARGEST = 60_000_000
"""Models with more parameters are left out."""

SMALL: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "n_embed", "embed_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "n_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 96),
    **dict.fromkeys(("d_ff", "n_inner"), 96),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("head_dim", "d_kv", "state_size", "ssm_state_size", "mamba_d_state", "v_head_dim"), 16),
    **dict.fromkeys(("moe_intermediate_size", "expert_intermediate_size"), 32),
    "shared_expert_intermediate_size": 32, "num_key_value_heads": 2, "num_experts_per_tok": 2,
    "vocab_size": 101, "max_position_embeddings": 64, "n_positions": 64, "word_embed_proj_dim": 64,
    "embedding_size": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "rotary_dim": 8,
    "sliding_window": 16, "attention_window": 16, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip

LOOSE = re.compile("pos|token|latent|rel_|relative|lambda|gamma|alpha|temperature|scale|A_log|time_|bias")
"""What parameters are called that no layer holds, and that are no matrices."""


def language(like: str) -> Iterator[Callable[[], Model | None]]:
    """Yield what builds each language model of transformers, or nothing where these numbers do not do."""
    import transformers as hf
    from transformers.models.auto import modeling_auto as auto

    hf.logging.set_verbosity(50)
    for names in (auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES):
        for kind, name in names.items():
            if re.search(like, kind):
                yield lambda kind=kind, name=name: _language(hf, kind, name)


def _language(hf: Any, kind: str, name: Any) -> Model | None:
    try:
        made = hf.CONFIG_MAPPING[kind]
        default = made()
        chosen = {k: v for k, v in SMALL.items() if getattr(default, k, None) is not None}
        whole = getattr(hf, name if isinstance(name, str) else name[0])
        with torch.device("meta"):
            if sum(p.numel() for p in whole(made(**chosen)).parameters()) > LARGEST:
                return None
        model = whole(made(**chosen)).eval()
        model.config.use_cache = False
        ids = torch.randint(3, 100, (2, 16))
        model(ids)
    except Exception:  # whatever a config or a model makes of numbers that were not meant for it
        return None
    head = model.get_output_embeddings()
    ends = {n for n, m in model.named_modules() if m is head or isinstance(m, nn.Embedding)}
    return f"{kind} ({whole.__name__})", model, (ids,), {}, ends


def vision(like: str) -> Iterator[Callable[[], Model | None]]:
    """Yield what builds the smallest model of every family of timm."""
    import timm

    families: dict[tuple[str, str], list[str]] = {}
    for name in timm.list_models():
        entry = timm.model_entrypoint(name)
        families.setdefault((entry.__module__, re.split(r"[_\d.]", name)[0]), []).append(name)
    for names in families.values():
        if any(re.search(like, name) for name in names):
            yield lambda names=names: _vision(timm, names)


def _vision(timm: Any, names: list[str]) -> Model | None:
    sizes = {}
    for name in names[:12]:
        with torch.device("meta"):
            try:
                sizes[name] = sum(p.numel() for p in timm.create_model(name).parameters())
            except Exception:  # not to be had without its data
                continue
    name = min(sizes, key=lambda n: sizes[n], default=None)
    if name is None or sizes[name] > LARGEST:
        return None
    model = timm.create_model(name, num_classes=10).eval()
    about = model.default_cfg
    ends = [about.get("first_conv") or (), about.get("classifier") or ()]
    inputs = torch.randn(1, *about["input_size"])
    return name, model, (inputs,), {}, {e for end in ends for e in ([end] if isinstance(end, str) else end)}


def expected(model: nn.Module, ends: set[str]) -> set[str]:
    """Return the names of the parameters that should go to Muon, by what the library says."""
    found = set()
    for name, module in model.named_modules():
        layer = isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
        router = re.search(r"Router|Gate$", type(module).__name__) or re.search(r"\brouter\b|\bgate$", name)
        groups = getattr(module, "groups", 1) if layer else 1
        depthwise = 1 < groups == getattr(module, "in_channels", 0)
        if name in ends or router or depthwise or "Embedding" in type(module).__name__:
            continue
        for own, p in module.named_parameters(name, recurse=False):
            loose = not layer and LOOSE.search(own.rsplit(".", 1)[-1])
            if p.dim() > 1 and p.numel() and not loose and _side(p, layer, groups) >= 4:
                found.add(own)
    return found


def _side(p: nn.Parameter, layer: bool, groups: int) -> int:
    """Return the smaller side of a layer's matrices, one a group, or of those of a stack."""
    return min(p.shape[0] // groups, p[0].numel()) if layer else min(p.shape[-2:])


def trained(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, nn.Parameter]:
    """Return the parameters that get a gradient from what the model returns."""
    out = model(*inputs)
    leaves = torch.utils._pytree.tree_leaves(dict(out) if hasattr(out, "items") else out)
    parts = [t.sum() for t in leaves if isinstance(t, torch.Tensor) and t.requires_grad]
    torch.stack(parts).sum().backward()
    found = {n: p for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def score(builders: list[Callable[[], Model | None]]) -> tuple[Score, list[str]]:
    """Return the score, and the models on which tracing failed."""
    from downslope.torch import partition

    total, failed = Score(), []
    for build in track(builders, "models", console=Console(stderr=True)):
        torch.manual_seed(0)
        if (made := build()) is None:
            continue
        name, model, inputs, named, ends = made
        own = trained(model, inputs)
        begun = time.perf_counter()
        try:
            found = partition(model, *inputs, **named)
        except Exception as error:
            failed.append(f"{name}: {error}")
            continue
        total.seconds += time.perf_counter() - begun
        muon = expected(model, ends) & own.keys()
        answers = {"Downslope": {a.name for a in found if a.rule == "muon"} & own.keys()}
        answers |= {n: rule(model, own) for n, rule in PEERS.items()}
        total.enter(name, {n: tuple(p.shape) for n, p in own.items()}, muon, answers)
    return total, failed


def main() -> None:
    """Score the rules on all models, or list what one of them says otherwise."""
    import tests.zoo  # noqa: F401  (declares what torchvision lacks here)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--wrong", metavar="RULE", help="list where a rule differs")
    parser.add_argument("--only", choices=("language", "vision"))
    parser.add_argument("--like", default="", help="only models whose name has this pattern")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the models are small
    scores = {}
    for name, source in {"language": language, "vision": vision}.items():
        if options.only in (None, name):
            total, failed = score(list(source(options.like)))
            scores[name] = total.to_dict()
            if options.wrong:
                print("\n".join([f"{name}:", *total.wrong.get(options.wrong, []), *failed]))
    if options.json:
        print(json.dumps(scores, indent=1))
    elif not options.wrong:
        for name, s in scores.items():
            Console().print(table(f"As the libraries say: {name} models", s))


if __name__ == "__main__":
    main()
