"""What modules hold beside parameters: buffers, plain tensors, numbers, containers; kept and given back."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from downslope.errors import one_line
from downslope.grouping.torch.contents import CONTAINERS, contents_of, refill

_WRAPPERS = frozenset({"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel"})
"""Modules whose attributes say how far processes have agreed, which no snapshot takes back."""

_AT_WORK = frozenset(
    {"asyncio", "concurrent", "logging", "multiprocessing", "queue", "subprocess", "threading", "weakref"}
)
"""Modules of Python whose objects say how far threads, processes or others have come: not taken back."""

_NUMBERS = (bool, int, float, complex, str)
_GENERATORS = (torch.Generator, random.Random, np.random.Generator)
_WRITTEN = (*CONTAINERS, *_GENERATORS, Tensor, np.ndarray)
_KEPT_OF_OBJECTS = (*_NUMBERS, *_WRITTEN)
_NO_OBJECTS = (*_NUMBERS, bytes, NoneType, type, FunctionType, MethodType, BuiltinFunctionType, ModuleType)
_PLAIN = frozenset(_NO_OBJECTS)  # most of what is held: told at once


class Held:
    """The attributes of all modules as they are now, and what stands in them.

    Tensors, arrays and containers are written into, so that whoever holds one still does. Of objects of
    other kinds the attributes that are numbers, tensors or containers are kept, and nothing deeper. What
    cannot be read is left alone, and so are arrays that lie in a file.

    Args:
        model: parameters and modules are left alone.
        kept: tensors whose values are kept by someone else.

    """

    def __init__(self, model: nn.Module, kept: Iterable[Tensor]) -> None:
        self._back: list[Callable[[], object]] = []
        self._known = {id(t): t for t in kept}  # with the things, so that none takes the id of one
        self._waiting: list[Any] = []
        self._of_objects: list[Any] = []
        for module in model.modules():
            self._module(module)
        while self._waiting or self._of_objects:
            deeper = bool(self._waiting)  # first: what both a module and an object hold is kept as a module's
            try:
                self._keep((self._waiting or self._of_objects).pop(), deeper)
            except Exception:  # of whatever kind: these are others' objects
                continue

    def restore(self) -> None:
        """Make everything what it was, but for what does not let itself be written: warn of that."""
        failed: list[Exception] = []
        with torch.no_grad():
            for back in self._back:
                try:
                    back()
                except Exception as error:  # the rest is given back all the same
                    failed.append(error)
        if failed:
            text = f"something that the model holds could not be given back: {one_line(failed[0])}"
            warnings.warn(text, stacklevel=2)

    def _module(self, module: nn.Module) -> None:
        if not self._new(module) or any(kind.__name__ in _WRAPPERS for kind in type(module).__mro__):
            return
        place = vars(module)
        before = {k: v for k, v in place.items() if not _of_the_house(k)}

        def back() -> None:
            for name in [n for n in place if n not in before and not _of_the_house(n)]:
                del place[name]
            place.update(before)

        self._back.append(back)
        self._waiting += [v for v in before.values() if type(v) not in _PLAIN]

    def _keep(self, value: Any, deeper: bool) -> None:
        if isinstance(value, nn.Module):  # in a list, where the model does not know of it
            for module in value.modules():
                self._module(module)
            self._waiting += value.parameters()
        elif isinstance(value, _NO_OBJECTS) or not self._new(value):
            pass
        elif isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, np.ndarray):
            self._array(value)
        elif isinstance(value, _GENERATORS):
            self._generator(value)
        elif isinstance(value, CONTAINERS):
            self._container(value, deeper)
        elif hasattr(value, "__dict__") and not _at_work(value):
            place = vars(value)
            own = {k: v for k, v in place.items() if isinstance(v, _KEPT_OF_OBJECTS)}
            self._back.append(partial(place.update, own))
            self._of_objects += [v for v in own.values() if type(v) not in _PLAIN]

    def _new(self, value: Any) -> bool:
        if id(value) in self._known:
            return False
        self._known[id(value)] = value
        return True

    def _tensor(self, value: Tensor) -> None:
        if value.layout is not torch.strided or value.is_meta or value.is_nested:
            return
        before = value.detach().clone()
        float8 = value.is_floating_point() and value.element_size() == 1
        ordinary = type(value) in (Tensor, nn.Parameter) and not float8  # to be compared
        gradient = value.grad if value.is_leaf else None

        def back() -> None:
            if not alike(value, before):
                value.data = before.clone()
            elif not (ordinary and torch.equal(value, before)):  # one that is in a graph stays usable there
                write(value, before)
            if value.is_leaf:
                value.grad = gradient

        self._back.append(back)
        if gradient is not None:
            self._waiting.append(gradient)

    def _array(self, value: np.ndarray[Any, Any]) -> None:
        if value.flags.writeable and not isinstance(value, np.memmap):
            before = value.copy()
            self._back.append(partial(np.copyto, value, before))

    def _generator(self, value: Any) -> None:
        if isinstance(value, torch.Generator):
            state = value.get_state()
            self._back.append(lambda: value.set_state(state))
        elif isinstance(value, random.Random):
            drawn = value.getstate()
            self._back.append(lambda: value.setstate(drawn))
        else:
            bits = copy.deepcopy(value.bit_generator.state)
            self._back.append(lambda: setattr(value.bit_generator, "state", bits))

    def _container(self, value: Any, deeper: bool) -> None:
        """Keep what stands in a container; of what belongs to an object, no more objects."""
        before = contents_of(value)
        if before.kind is not tuple:
            self._back.append(partial(refill, value, before))
        (self._waiting if deeper else self._of_objects).extend(
            [
                one
                for one in before.inside
                if type(one) not in _PLAIN and (deeper or isinstance(one, _WRITTEN))
            ]
        )


def _at_work(value: Any) -> bool:
    """Return whether an object belongs to torch, or to what runs beside the model."""
    kinds = type(value).__mro__
    return kinds[0].__module__.startswith("torch") or any(
        kind.__module__.partition(".")[0] in _AT_WORK for kind in kinds
    )


def _of_the_house(name: str) -> bool:
    """Return whether an attribute of a module is one of those that torch keeps parameters and hooks in."""
    return name in ("_parameters", "_modules") or (name.startswith("_") and "_hooks" in name)


def alike(a: Tensor, b: Tensor) -> bool:
    """Return whether the numbers of one tensor can be written into the other."""
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device


def write(tensor: Tensor, value: Tensor) -> None:
    """Write numbers into a tensor, also into one that was made under `inference_mode`."""
    with torch.inference_mode() if tensor.is_inference() else nullcontext():
        tensor.copy_(value)
