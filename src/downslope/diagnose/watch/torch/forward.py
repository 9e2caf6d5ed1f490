"""The forward pass: which operation was the first to make NaN or infinity of finite numbers.

Every operation's largest absolute value is kept on the device and read once, at the end of the pass.
An infinity alone is no finding, since attention masks are made of them: it counts once it reaches
the model's output, or turns into NaN on the way.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from downslope.diagnose.watch.origin import Operation

_EMPTY = frozenset({"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"})
"""Operations whose values mean nothing yet."""

NEAR = 1 / 8
"""A value above this share of the largest number of its dtype is near overflow."""


@dataclass
class Observed(Operation):
    """An operation of the pass, with what is to be read at its end."""

    peaks: list[Tensor] = field(default_factory=list)
    limit: float = math.inf
    asked: bool = False  # for a number near the largest of its dtype, as the masks of attention are


@dataclass
class Seen:
    """What a forward pass leaves to the backward passes that go through it.

    Attributes:
        number: of the call of the model, from 1.
        ill: whether its result was not finite: then a backward pass says nothing new.
        looked: whether the gradients of one have been looked at.
        used: the module in which each parameter is used first, whether with a gradient, and how many cuts
            there were before.
        looked_up: parameters that are tables.
        cuts: modules in which `detach` is called, if what it gives is used: torch calls it too.
        reached: leaves that the graph of the outputs leads to, by id.

    """

    number: int
    ill: bool = False
    looked: bool = False
    used: dict[str, tuple[str, bool, int]] = field(default_factory=dict)
    looked_up: set[str] = field(default_factory=set)
    cuts: list[str] = field(default_factory=list)
    reached: frozenset[int] = frozenset()


class Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation of its thread between the start and the end of a forward pass.

    One that holds functions of its own, as `flex_attention`, is one operation.
    """

    supports_higher_order_operators = True

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], number: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.module = ""
        self.operations: list[Observed] = []
        self.names = {id(p): name for name, p in parameters}
        self.seen = Seen(number)
        self.inputs: frozenset[int] = frozenset()
        self._detached: dict[int, tuple[weakref.ref[Tensor], str]] = {}
        self._writer: dict[int, int] = {}
        self._alive: list[Any] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, and keep what it gave."""
        kwargs = kwargs or {}
        whole = isinstance(func, HigherOrderOperator)
        name = str(func) if whole else func._schema.name.partition("::")[2]
        leaves = tree_leaves((args, kwargs))
        given = [t for t in leaves if isinstance(t, Tensor)]
        sources = tuple(self.number(t) for t in given)
        self._note(name, given)
        out = func(*args, **kwargs)
        if name == "detach":
            self._detached[id(out)] = weakref.ref(out), self.module
        if whole or not func.is_view:
            made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
            number = len(self.operations)
            op = self._operation(name, sources, made)
            op.asked = any(isinstance(v, (int, float)) and abs(v) > op.limit for v in leaves)
            self.operations.append(op)
            for t in made:
                self._wrote(t, number)
        return out

    def outside(self, held: Iterable[Tensor], inputs: Iterable[Tensor]) -> None:
        """Take note of the tensors that the model holds, and of those that it is given."""
        for t in held:
            self.number(t)
        self.inputs = frozenset(self.number(t) for t in inputs)

    def settle(self) -> None:
        """Read all peaks, waiting once for each device."""
        pending = [(op, peak) for op in self.operations for peak in op.peaks]
        for (op, _), value in zip(pending, read([peak for _, peak in pending]), strict=True):
            op.peak = value if math.isnan(value) or math.isnan(op.peak) else max(op.peak, value)
        for op in self.operations:
            op.peaks.clear()

    def nears_overflow(self, op: Observed) -> bool:
        """Whether an operation made a finite number near the largest of its dtype, of none that was."""
        made = bool(op.name) and math.isfinite(op.peak) and op.peak > op.limit and not op.asked
        return made and all(self.operations[i].peak <= op.limit for i in op.sources)

    def _operation(self, name: str, sources: tuple[int, ...], made: Sequence[Tensor]) -> Observed:
        numbers = [t for t in made if counts(t)]
        op = Observed(self.module, name, sources)
        op.peaks = [] if name in _EMPTY else [peak_of(t) for t in numbers]
        op.limit = min((torch.finfo(t.dtype).max * NEAR for t in numbers), default=math.inf)
        return op

    def number(self, tensor: Tensor) -> int:
        """Return the number of the operation that wrote to a tensor last."""
        key = _storage(tensor)
        if key not in self._writer:
            self._wrote(tensor, len(self.operations))
            self.operations.append(
                Observed(self.module, "", (), peaks=[peak_of(tensor.detach())] if counts(tensor) else [])
            )
        return self._writer[key]

    def _wrote(self, tensor: Tensor, number: int) -> None:
        """Remember which operation wrote to a tensor last."""
        key = _storage(tensor)
        if key not in self._writer:
            with suppress(NotImplementedError, RuntimeError):  # no storage of its own
                # keeps the number of one that is freed from one that no operation writes to, as NumPy's
                self._alive.append(StorageWeakRef(plain(tensor).untyped_storage()))  # type: ignore[no-untyped-call]
        self._writer[key] = number

    def use(self, given: Iterable[Tensor]) -> None:
        """Take note of what is made use of that was detached."""
        for t in given:
            made, module = self._detached.pop(id(t), (None, ""))
            if made is not None and made() is t:
                self.seen.cuts.append(module)

    def _note(self, name: str, given: Sequence[Tensor]) -> None:
        self.use(given)
        for position, t in enumerate(given if name != "detach" else ()):
            known = self.names.get(id(t))
            if known is not None:
                use = self.module, torch.is_grad_enabled(), len(self.seen.cuts)
                self.seen.used.setdefault(known, use)
                if position == 0 and name in ("embedding", "_embedding_bag", "index_select", "index"):
                    self.seen.looked_up.add(known)


def peak_of(t: Tensor) -> Tensor:
    """Return the least and the largest value, NaN where there is one, without waiting for the device."""
    t = plain(t)
    if t.is_complex():
        t = torch.view_as_real(t.conj() if t.is_conj() else t)  # the conjugate's numbers are as large
    with _untransformed():
        t = t.float() if t.element_size() == 1 else t  # float8 has no arithmetic of its own
        return torch.stack(torch.aminmax(_as_it_lies(t)))


def plain(t: Tensor) -> Tensor:
    """Return the tensor within what torch.func's transforms wrap around it."""
    while not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(t):
        t = torch._C._functorch.get_unwrapped(t)
    return t


def _untransformed() -> AbstractContextManager[None]:
    """Return a context whose operations torch.func's transforms take no part in."""
    disabled: AbstractContextManager[None] = (
        nullcontext() if torch.compiler.is_compiling() else torch._C._DisableFuncTorch()
    )
    return disabled


def _as_it_lies(t: Tensor) -> Tensor:
    """Return the same numbers in the order of memory, repeated ones once: a reduction then copies nothing."""
    if t.is_contiguous():
        return t
    strides = t.stride()
    t = t[tuple(0 if stride == 0 else slice(None) for stride in strides)]
    left = t.stride()
    return t.permute(sorted(range(t.ndim), key=lambda i: -left[i]))


def read(peaks: Sequence[Tensor]) -> list[float]:
    """Return the largest absolute values, waiting once for each device."""
    values = [math.nan] * len(peaks)
    for device in {peak.device for peak in peaks}:
        here = [i for i, peak in enumerate(peaks) if peak.device == device]
        wide = torch.float32 if device.type == "mps" else torch.float64
        with _untransformed():
            pairs = torch.stack([peaks[i].to(wide) for i in here]).abs().tolist()
        for i, value in zip(here, pairs, strict=True):
            values[i] = max(value)  # both are NaN where one is
    return values


def counts(t: Tensor) -> bool:
    """Return whether a tensor has numbers that can be NaN or infinite, to be read as they lie."""
    t = plain(t)
    floating = t.is_floating_point() or t.is_complex()
    there = t.layout is torch.strided and not (t.is_nested or t.is_meta or t._is_zerotensor())
    return floating and there and t.numel() > 0


def _storage(t: Tensor) -> int:
    t = plain(t)
    try:
        return int(t.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # a tensor without storage of its own, as a sparse one
        return id(t)
