"""Watch one forward pass: two modes see every operation, and the record keeps what they show.

The dispatch mode sees what is computed, after composite operations have come apart. The function
mode sees what the author wrote, and that says one thing the arithmetic does not: which argument
of `linear` or of attention stands for the data, even where it is a parameter (a learned query).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch._C import DispatchKey
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._ops import HigherOrderOperator
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from downslope.grouping.facts import Kind
from downslope.grouping.flow.info import CONSTANT, NOISE, Info
from downslope.grouping.torch import contract, lookup, names, pointwise, recurrent, views
from downslope.grouping.torch.record import Record

F = torch.nn.functional
# Which arguments are the data, by the meaning of the function.
DATA_ARGUMENTS: dict[Any, tuple[int, ...]] = {
    F.linear: (0,),
    F.bilinear: (0, 1),
    F.conv1d: (0,),
    F.conv2d: (0,),
    F.conv3d: (0,),
    F.conv_transpose1d: (0,),
    F.conv_transpose2d: (0,),
    F.conv_transpose3d: (0,),
    F.scaled_dot_product_attention: (0, 1, 2),
    F.multi_head_attention_forward: (0, 1, 2),
}
DATA_NAMES = {"input", "input1", "input2", "query", "key", "value"}
# What these are given leaves the forward pass: all that follows is made of its derivative.
DERIVATIVES = {torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward}
RANDOM = {
    "randn",
    "rand",
    "randint",
    "randn_like",
    "rand_like",
    "randint_like",
    "randperm",
    "normal",
    "poisson",
}

Handler = Callable[[Record, str, dict[str, Any], Any], None]


def _handlers() -> dict[str, Handler]:
    table: dict[str, Handler] = dict.fromkeys(views.VIEWS, lambda r, n, a, o: views.view(r, n, a, o))
    table |= dict.fromkeys(contract.LETTERS, contract.contract)
    table |= dict.fromkeys(
        ("convolution", "_convolution", "convolution_overrideable"),
        lambda r, n, a, o: contract.convolution(r, a, o),
    )
    table |= dict.fromkeys(contract.ATTENTION, contract.attention)
    table |= dict.fromkeys(names.ADD | names.SCALE, pointwise.elementwise)
    table |= dict.fromkeys(names.NORMS, pointwise.norm)
    table |= dict.fromkeys(names.JOIN, pointwise.join)
    table |= dict.fromkeys(names.LOOKUP, lookup.lookup)
    table |= dict.fromkeys(names.RANKING, lookup.rank)
    table |= dict.fromkeys(names.REDUCING, pointwise.reduce)
    table["_trilinear"] = lambda r, n, a, o: contract.bilinear(r, a, o)
    table["glu"] = lambda r, n, a, o: views.gated(r, a, o)
    return table | recurrent.HANDLERS


HANDLERS = _handlers()


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Let every operation run, and enter what it did."""

    supports_higher_order_operators = True

    def __init__(self, record: Record, protect: Callable[[torch.Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.record, self.protect = record, protect

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return self._holding_functions(func, args, kwargs)
        named = _named(func, args, kwargs)
        changed = [
            named[a.name]
            for a in func._schema.arguments
            if a.alias_info and a.alias_info.is_write and a.name in named
        ]
        for target in changed:
            for t in pointwise.tensors((target,)):
                self.protect(t)
        out = func(*args, **kwargs)
        self._enter(func, named, args, kwargs, changed, out)
        return out

    def _holding_functions(self, operator: HigherOrderOperator, args: Any, kwargs: Any) -> Any:
        """Run an operator that holds functions of its own; of attention, watch what those do."""
        name = str(operator)
        if name == "flex_attention":
            contract.note_heads(self.record, args[:3])
            with self:
                return operator.py_kernels[DispatchKey.CompositeExplicitAutograd](*args, **kwargs)
        out = operator(*args, **kwargs)
        pointwise.anything(self.record, name, pointwise.tensors((*args, *kwargs.values())), out)
        return out

    def _enter(
        self, func: Any, named: dict[str, Any], args: Any, kwargs: Any, changed: list[Any], out: Any
    ) -> None:
        record, name = self.record, func._schema.name.split("::")[-1]
        results = pointwise.tensors((out,) if not isinstance(out, (list, tuple)) else out)
        inputs = pointwise.tensors((*args, *kwargs.values()))
        if not results and not changed:
            return
        before = [record.get(t) for target in changed for t in pointwise.tensors((target,))]
        known = func._schema.name.startswith(("aten::", "prims::"))
        if name in RANDOM:
            _mark(record, results, NOISE)
        elif name in names.FACTORIES or (not inputs and name not in RANDOM):
            _mark(record, results, CONSTANT)
        elif _differentiating():
            pointwise.derivative(record, inputs, results)
        elif known and any(t.is_nested for t in (*inputs, *results)):
            (contract.nested if name == "linear" else pointwise.nested)(record, name, named, results)
        elif known and name in HANDLERS:
            HANDLERS[name](record, name, named, out)
        else:
            pointwise.anything(record, name, inputs, out)
        self._written(changed, before)

    def _written(self, changed: list[Any], before: list[Info]) -> None:
        """An operation in place wrote its result into memory that other tensors may show."""
        targets = [t for target in changed for t in pointwise.tensors((target,))]
        for t, old in zip(targets, before, strict=True):
            new = self.record.infos.get(t, old)
            if new.data or new.choices:
                self.record.write(t, new)


def _differentiating() -> bool:
    """Whether this is a backward pass, of a model that differentiates by itself."""
    return bool(torch._C._current_graph_task_id() >= 0)


def _named(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    names = [a.name for a in func._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _mark(record: Record, results: list[torch.Tensor], info: Info) -> None:
    for t in results:
        record.set(t, info)


class Meaning(TorchFunctionMode):
    """Treat as data what a function takes as its data, though it be made from parameters."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in DERIVATIVES:
            given = kwargs.get("tensors", kwargs.get("outputs", args[:1]))
            self.record.leave(self.record.get(t) for t in pointwise.tensors((given,)))
        if func in DATA_ARGUMENTS:
            given = [args[i] for i in DATA_ARGUMENTS[func] if i < len(args)]
            for t in (*given, *(v for k, v in kwargs.items() if k in DATA_NAMES)):
                # What vmap or grad of torch.func has wrapped is seen below, where they have come apart.
                if isinstance(t, torch.Tensor) and not is_functorch_wrapped_tensor(t):
                    as_data(self.record, t)
        return func(*args, **kwargs)


def as_data(record: Record, tensor: torch.Tensor) -> None:
    """Turn weights or a constant into data: a learned query, a fixed grid of coordinates."""
    info = record.get(tensor)
    if info.data:
        return
    whole = Info(data=True, depth=1 if info.weights or _is_zero(tensor) else 0)
    record.absorb(info, Kind.JOIN, "data", whole)
    record.set(tensor, replace(whole, choices=info.choices))


def _is_zero(tensor: torch.Tensor) -> bool:
    """Whether this is an empty state, which is no data to read."""
    return tensor.device.type != "meta" and not bool(torch.any(tensor))


@contextmanager
def watching(record: Record, protect: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Watch the operations within."""
    with Meaning(record), Watch(record, protect):
        yield
