"""What modules hold beside parameters: buffers, plain tensors, numbers, containers; kept and given back."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_WRAPPERS = frozenset({"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel"})
"""Modules whose attributes say how far processes have agreed, which no snapshot takes back."""

_NUMBERS = (bool, int, float, complex, str)
_CONTAINERS = (dict, list, set, deque, tuple)
_GENERATORS = (torch.Generator, random.Random, np.random.Generator)
_NO_OBJECTS = (type, FunctionType, MethodType, BuiltinFunctionType, ModuleType)


class Held:
    """The attributes of all modules as they are now, and what stands in them.

    Tensors, arrays and containers are written into, so that whoever holds one still does. Of objects of
    other kinds the attributes that are numbers, tensors or containers are kept, and nothing deeper.

    Args:
        model: parameters and modules are left alone.
        kept: tensors whose values are kept by someone else.

    """

    def __init__(self, model: nn.Module, kept: Iterable[Tensor]) -> None:
        self._back: list[Callable[[], object]] = []
        self._known: dict[int, Any] = {
            id(t): t for t in kept
        }  # with the things, so that none takes the id of one
        for module in model.modules():
            self._module(module)

    def restore(self) -> None:
        """Make everything what it was."""
        with torch.no_grad():
            for back in self._back:
                back()

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
        self._all(before.values())

    def _all(self, values: Iterable[Any]) -> None:
        for value in values:
            self._keep(value)

    def _keep(self, value: Any) -> None:
        if isinstance(value, nn.Module):  # in a list, where the model does not know of it
            for module in value.modules():
                self._module(module)
            self._all(value.parameters())
        elif isinstance(value, (*_NUMBERS, *_NO_OBJECTS, NoneType)) or not self._new(value):
            pass
        elif isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, np.ndarray):
            self._array(value)
        elif isinstance(value, _GENERATORS):
            self._generator(value)
        elif isinstance(value, _CONTAINERS):
            self._container(value)
        elif hasattr(value, "__dict__") and not type(value).__module__.startswith("torch"):
            plain = (*_NUMBERS, *_CONTAINERS, *_GENERATORS, Tensor, np.ndarray)
            own = {k: v for k, v in vars(value).items() if isinstance(v, plain)}
            self._back.append(lambda: vars(value).update(own))
            self._all(v for v in own.values() if not isinstance(v, _CONTAINERS))
            for v in own.values():
                if isinstance(v, _CONTAINERS) and self._new(v):
                    self._container(v, deeper=False)

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
                value.copy_(before)
            if value.is_leaf:
                value.grad = gradient

        self._back.append(back)
        self._keep(gradient)

    def _array(self, value: np.ndarray[Any, Any]) -> None:
        before = value.copy()
        if value.flags.writeable:
            self._back.append(lambda: np.copyto(value, before))

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

    def _container(self, value: Any, *, deeper: bool = True) -> None:
        """Keep what stands in a container; of what belongs to an object, no more objects."""
        inside = list(value.values() if isinstance(value, dict) else value)
        if not isinstance(value, tuple):
            before = copy.copy(value)
            self._back.append(lambda: _refill(value, before))
        for one in inside:
            if deeper or isinstance(one, (Tensor, np.ndarray, *_GENERATORS)):
                self._keep(one)
            elif isinstance(one, _CONTAINERS) and self._new(one):
                self._container(one, deeper=False)


def _refill(container: Any, before: Any) -> None:
    container.clear()
    if isinstance(container, dict | set):
        container.update(before)
    else:
        container.extend(before)


def _of_the_house(name: str) -> bool:
    """Return whether an attribute of a module is one of those that torch keeps parameters and hooks in."""
    return name in ("_parameters", "_modules") or (name.startswith("_") and "_hooks" in name)


def alike(a: Tensor, b: Tensor) -> bool:
    """Return whether the numbers of one tensor can be written into the other."""
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
