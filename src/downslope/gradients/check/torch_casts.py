"""What a PyTorch function casts down, kept in a finer dtype while it is checked.

Mixed precision casts inside a function: to bfloat16 for speed, to float32 for a norm. The gradient takes a
cast for the identity, and so does the check where the whole function can be run in one fine dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

FINENESS = {
    torch.bfloat16: 1, torch.float16: 1, torch.float32: 2, torch.float64: 3,
    torch.complex32: 1, torch.complex64: 2, torch.complex128: 3,
}  # fmt: skip
FINENESS |= {v: 0 for k, v in vars(torch).items() if k.startswith("float8_")}
COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


class Lifted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Run in `dtype` each operation that would run in a narrower one, of a function and of its backward pass.

    Casts to narrower dtypes go to `dtype`, tensors that a function holds in them are cast to it where
    they are used. `casts` are the dtypes that floating tensors would have been cast down to, `held` those of
    tensors that were cast up.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype = dtype
        self.casts, self.held = set[torch.dtype](), set[torch.dtype]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operation of ATen with what it is given lifted."""
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and kwargs.get("dtype") is not None:
            self._note(args[0].dtype, kwargs["dtype"])
        written = {a.name for a in func._schema.arguments if a.alias_info and a.alias_info.is_write}
        names = [a.name for a in func._schema.arguments]
        given = [a if n in written else tree_map(self._lift, a) for n, a in zip(names, args, strict=False)]
        named = {n: a if n in written else tree_map(self._lift, a) for n, a in kwargs.items()}
        return func(*given, **named)

    def _note(self, before: torch.dtype, after: torch.dtype) -> None:
        if FINENESS.get(after, 9) < FINENESS.get(before, 0):
            self.casts.add(after)

    def _lift(self, a: Any) -> Any:
        if isinstance(a, torch.dtype):
            return self._finer(a)
        if isinstance(a, Tensor) and self._finer(a.dtype) != a.dtype:
            self.held.add(a.dtype)
            return a.to(self._finer(a.dtype))
        return a

    def _finer(self, dtype: torch.dtype) -> torch.dtype:
        if FINENESS.get(dtype, 9) >= FINENESS[self.dtype]:
            return dtype
        return COMPLEX[self.dtype] if dtype.is_complex else self.dtype
