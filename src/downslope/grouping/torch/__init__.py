"""Partition of a PyTorch model: one forward pass is watched, and the policy reads what it showed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal

import torch
from torch import nn

from downslope.errors import UsageError, a_type, one_line
from downslope.grouping.facts import ModelFacts, ParameterFacts
from downslope.grouping.flow.info import CONSTANT, RAW
from downslope.grouping.overrides import Overrides, applied
from downslope.grouping.partition import Partition
from downslope.grouping.policy import assign
from downslope.grouping.torch.record import Record
from downslope.grouping.torch.state import plain_execution, unchanged
from downslope.grouping.torch.trace import watching

__all__ = ["facts", "follow", "named_parameters", "partition"]
Call = tuple[tuple[Any, ...], Mapping[str, Any]]
# Names that wrappers put between a module and its parameters.
WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def partition(
    model: nn.Module,
    *example_inputs: Any,
    overrides: Overrides | None = None,
    heads: Literal["fused", "split"] = "fused",
    batches: Iterable[Any] | None = None,
    **example_kwargs: Any,
) -> Partition:
    """Say which rule each parameter of a model gets, and why, from one forward pass on one batch.

    The model is called as `model(*example_inputs, **example_kwargs)`, without gradients if it runs
    without, and is left exactly as it was: parameters, buffers, attributes, gradients and random states.

    Args:
        model: the model; wrappers (`torch.compile`, DDP) are looked through.
        *example_inputs: what the model takes, one batch of it; a batch of two is enough.
        overrides: what to assign whatever the trace shows: {pattern, module path or predicate:
            rule, role, MatrixView or Assignment}.
        heads: "split" cuts the query, key and value projections of attention into a matrix a head.
        batches: several batches instead of one, where one does not reach every parameter; each is
            a tuple of inputs, a dict of keyword inputs, or a single input.
        **example_kwargs: keyword arguments of the model.

    Raises:
        UsageError: no parameters; inputs that the model rejects or lacks; a model wrapped in FSDP1
            (`fully_shard` is looked through); an override that matches nothing.

    >>> model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    >>> [a.role.value for a in partition(model, torch.randn(2, 8)) if len(a.shape) == 2]
    ['input', 'hidden', 'output']

    """
    if heads not in ("fused", "split"):
        raise UsageError(f"heads = {heads!r}: expected 'fused' or 'split'")
    if batches is not None and (example_inputs or example_kwargs):
        raise UsageError("batches stands for the inputs of several calls: pass it, or the inputs of one call")
    calls = [(example_inputs, example_kwargs)] if batches is None else [_call_of(batch) for batch in batches]
    found = assign(facts(model, calls), split_heads=heads == "split")
    own = named_parameters(model)
    return Partition(applied(found, overrides or {}, _modules(model)), own)


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return each parameter under its first name, without what wrappers add to names."""
    return {clean(name): p for name, p in unwrapped(model).named_parameters()}


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside `torch.compile` and data-parallel wrappers.

    Raises:
        UsageError: a part is wrapped in FSDP1, which leaves flat parameters in the place of matrices.

    """
    for name, module in model.named_modules():
        if "_fsdp_wrapped_module" in module._modules:
            where = clean(name) or type(module).__name__
            raise UsageError(
                f"{where} is wrapped in FullyShardedDataParallel, which flattens its parameters, so that "
                "no matrices are left: shard it with torch.distributed.fsdp.fully_shard instead (the model "
                "can be looked at with partition before it is wrapped)"
            )
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = model.module
        if inner is None:
            return model
        model = inner


def clean(name: str) -> str:
    """Return a parameter's name without the parts that wrappers put in.

    >>> clean("_orig_mod.blocks.0._checkpoint_wrapped_module.weight")
    'blocks.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _call_of(batch: Any) -> Call:
    if isinstance(batch, dict):
        return (), batch
    return (tuple(batch), {}) if isinstance(batch, (tuple, list)) else ((batch,), {})


def facts(model: nn.Module, calls: Sequence[Call]) -> ModelFacts:
    """Return what forward passes show of each parameter, one for each (arguments, keyword arguments)."""
    if not isinstance(model, nn.Module):
        raise UsageError(f"expected a torch.nn.Module and one batch of its inputs, got {a_type(model)}")
    inner = unwrapped(model)
    own = dict(inner.named_parameters())
    if not own:
        raise UsageError(f"{type(inner).__name__} has no parameters: there is nothing to group")
    for name, p in own.items():
        if isinstance(p, nn.parameter.UninitializedParameter):
            raise UsageError(
                f"{clean(name)} has no shape yet: run the model once on a batch, then group its parameters"
            )
    try:
        record, depth = _watched(inner, own, calls)
    except UsageError as error:
        if "does not require grad" not in str(error.__cause__):
            raise
        record, depth = _watched(inner, own, calls, gradients=True)  # the model differentiates by itself
    return _facts(inner, own, record, depth)


def _watched(
    model: nn.Module, own: Mapping[str, nn.Parameter], calls: Sequence[Call], gradients: bool = False
) -> tuple[Record, int]:
    """Return all uses in some calls of a model, and the depth of the deepest output."""
    record, depth = Record(), 0
    for args, kwargs in calls:
        with unchanged(model) as protect, plain_execution(gradients):
            _enter(record, model, own, (args, kwargs))
            with watching(record, protect):
                out = _called(model, args, kwargs)
            depth = max(depth, record.finish(record.get(t) for t in _tensors(out, set())))
    return record, depth


def follow(
    call: Callable[..., Any],
    parameters: Sequence[torch.Tensor],
    constants: Iterable[torch.Tensor],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> tuple[Record, int]:
    """Return all uses of tensors in a call that keeps no state, and the depth of the deepest output."""
    record = Record()
    record.begin(parameters)
    for t in constants:
        record.set(t, CONSTANT)
    for t in _tensors((args, kwargs), set()):
        record.infos.setdefault(t, RAW)
    record.unknown = CONSTANT
    with torch.random.fork_rng(devices=[]), plain_execution(), watching(record, lambda _: None):
        out = call(*args, **kwargs)
    return record, record.finish(record.get(t) for t in _tensors(out, set()))


def _enter(record: Record, model: nn.Module, own: Mapping[str, nn.Parameter], given: Any) -> None:
    """Say what each tensor is that the model holds or is given."""
    numbers = {name: number for number, name in enumerate(own)}

    def slot(tensor: torch.Tensor) -> int | None:
        return next((numbers[n] for n, p in model.named_parameters() if p is tensor and n in numbers), None)

    record.begin(own.values(), slot)
    for b in model.buffers():
        record.set(b, CONSTANT)
    for t in _tensors(given, set()):
        record.infos.setdefault(t, RAW)
        # Given its data as tensors, a model's other tensors are constants, written in its code.
        record.unknown = CONSTANT


def _called(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    try:
        return model(*args, **kwargs)
    except Exception as error:
        if not args and not kwargs and isinstance(error, TypeError):
            raise UsageError(
                f"{type(model).__name__} needs inputs ({one_line(error)}): "
                "pass one batch after the model, as you would call it"
            ) from error
        raise UsageError(f"the call {_shown(model, args, kwargs)} failed with {one_line(error)}") from error


def _shown(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    given = [_brief(a) for a in args] + [f"{k}={_brief(v)}" for k, v in kwargs.items()]
    return f"{type(model).__name__}({', '.join(given)})"


def _brief(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_brief, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}: {_brief(v)}' for k, v in value.items())}}}"
    return repr(value) if isinstance(value, (int, float, str, bool, type(None))) else type(value).__name__


def _tensors(value: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    """Yield the tensors in what a model returned: nested, in dataclasses, in plain objects."""
    if isinstance(value, torch.Tensor):
        yield value
        return
    if id(value) in seen or isinstance(value, (str, bytes, int, float, type(None), nn.Module)):
        return
    seen.add(id(value))
    inner: Any = ()
    if isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, (list, tuple, set)):
        inner = value
    elif is_dataclass(value):
        inner = [getattr(value, f.name) for f in fields(value)]
    elif hasattr(value, "__dict__"):
        inner = vars(value).values()
    for v in inner:
        yield from _tensors(v, seen)


def _facts(model: nn.Module, own: Mapping[str, nn.Parameter], record: Record, depth: int) -> ModelFacts:
    names: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(clean(name))
    found = []
    for k, (name, p) in enumerate(own.items()):
        aliases = tuple(n for n in names[id(p)] if n != clean(name))
        known = (clean(name), tuple(p.shape), record.of(k), p.requires_grad, aliases, p.is_complex())
        found.append(ParameterFacts(*known))
    return ModelFacts(tuple(found), depth)


def _modules(model: nn.Module) -> Callable[[str], Any]:
    inner = {clean(name): m for name, m in unwrapped(model).named_modules()}
    return lambda path: inner.get(path)
