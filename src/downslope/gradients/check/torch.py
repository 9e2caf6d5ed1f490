"""PyTorch: functions of tensors, custom autograd functions, modules with a loss."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from downslope.errors import UsageError, a_type, one_line
from downslope.gradients.check.adapter import (
    Arrays,
    labels,
    plain_number,
    refuse_complex,
    spread,
    weighting,
    weights_for,
)
from downslope.gradients.check.problem import Vector
from downslope.gradients.check.torch_casts import Lifted
from downslope.rules.loop import mapped, named


class _Common(ABC):
    """How tensors become numbers, and numbers tensors."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []
        self.arrays: list[Any] = []
        self.names: list[str] = []
        self._unused: set[str] = set()
        self.lifted = False
        self.casts: set[str] = set()
        self.held: set[str] = set()

    def look_for_casts(self, arrays: Arrays) -> None:
        """See `Adapter`; those of the backward pass count too."""
        self.lifted = True
        try:
            self.value(arrays, "float64")
            self.gradient(arrays, "float64")
        finally:
            self.lifted = False

    @abstractmethod
    def value(self, arrays: Arrays, wide: str) -> tuple[Any, str]:
        """See `Adapter`."""

    @abstractmethod
    def gradient(self, arrays: Arrays, wide: str) -> Arrays:
        """See `Adapter`."""

    @contextmanager
    def running_lifted(self) -> Iterator[None]:
        """Run what stands within in float64, casts and constants with it, where `lifted` says so."""
        if not self.lifted:
            yield
            return
        with Lifted(torch.float64) as mode:
            yield
        self.casts |= {_name(d) for d in mode.casts}
        self.held |= {_name(d) for d in mode.held}

    def dtype_of(self, array: Any) -> str:
        """See `Adapter`."""
        return _name(array.dtype)

    def numbers(self, array: Any) -> Vector:
        """See `Adapter`."""
        dense = array.detach().to_dense()  # the gradient of an embedding may be sparse
        # By force, as a second derivative may be a tensor of zeros that has no memory.
        return dense.to("cpu", torch.float64).numpy(force=True).ravel().copy()  # type: ignore[no-any-return]

    def made(self, numbers: NDArray[Any], like: Any, wide: str) -> Any:
        """See `Adapter`."""
        dtype = getattr(torch, wide) if wide else like.dtype
        return torch.as_tensor(np.asarray(numbers, order="C")).to(like.device, dtype, copy=True)

    def _scalar(self, returned: Any) -> Tensor:
        """Return the one number that is checked: the value, or a fixed weighting of all outputs."""
        refuse_complex("the function returned", [("", _name(t.dtype)) for t in _tensors(returned)])
        number = plain_number(returned)
        if number is not None:
            return torch.tensor(number, dtype=torch.float64)
        found = [t for t in _tensors(returned) if t.is_floating_point()]
        if not found:
            raise UsageError(
                f"the function returned {a_type(returned)}: expected a tensor of a floating dtype"
            )
        if len(found) == 1 and found[0].numel() == 1:
            return found[0].reshape(())
        count = sum(t.numel() for t in found)
        if "outputs" not in self.facts:
            self.facts["outputs"] = count
            self.notes.append(weighting([t.shape for t in found]))
        weights, total, start = weights_for(count), None, 0
        for t in found:
            w = torch.as_tensor(weights[start : start + t.numel()]).to(t.device, t.dtype).reshape(t.shape)
            start += t.numel()
            part = (w * t).sum()
            total = part if total is None else total + part
        assert total is not None
        return total

    def _differentiated(self, value: Tensor, arrays: Arrays) -> list[Tensor | None]:
        if not value.requires_grad:
            self._note_unused(set(self.names))
            return [None] * len(arrays)
        made: list[Tensor | None] = [*torch.autograd.grad(value, list(arrays), allow_unused=True)]
        self._note_unused({n for n, g in zip(self.names, made, strict=True) if g is None})
        return made

    def _note_unused(self, names: set[str]) -> None:
        new = names - self._unused
        if new:
            self._unused |= names
            self.notes.append(
                f"autograd finds no way from f to {', '.join(sorted(new))}: its gradient counts as zero"
            )


class TorchAdapter(_Common):
    """A function of tensors."""

    def __init__(self, fun: Callable[..., Any], x: Any, gradient: Any) -> None:
        super().__init__()
        if gradient is not None and gradient is not True and not callable(gradient):
            raise UsageError(f"gradient = {gradient!r}: expected a function, True, or None for autograd's")
        self.fun, self.given, self.tree = fun, gradient, x
        self.hvp: Callable[..., Any] | None = None
        self.apart = spread(fun, x)
        found = list(named(x))
        self.all = [a for _, a in found]
        for a in self.all:
            if isinstance(a, nn.Module):
                raise UsageError(
                    f"x holds {a_type(a)}, a module: check_gradient(module, batch, loss=…), or give a "
                    "function of dict(module.named_parameters()), with torch.func.functional_call"
                )
        self.floating = [i for i, a in enumerate(self.all) if _is_float(a)]
        called = labels([n for n, _ in found], fun, self.apart)
        tensors = [(n, a) for n, a in zip(called, self.all, strict=True) if isinstance(a, Tensor)]
        refuse_complex("x holds", [(n, _name(a.dtype)) for n, a in tensors])
        for name, a in tensors:
            if a.layout != torch.strided:
                raise UsageError(
                    f"x holds a tensor of layout {_name(a.layout)} ({name}): expected dense ones; give "
                    "a.to_dense(), or a function of its values"
                )
        self.names = [called[i] for i in self.floating]
        self.arrays = [self.all[i].detach() for i in self.floating]

    def value(self, arrays: Arrays, wide: str) -> tuple[Any, str]:
        """See `Adapter`."""
        with torch.no_grad(), self.running_lifted():
            value = self._scalar(self._returned(arrays))
        return value.item(), self.dtype_of(value)

    def gradient(self, arrays: Arrays, wide: str) -> Arrays:
        """See `Adapter`."""
        if self.given is not None:
            with torch.no_grad(), self.running_lifted():
                made = (
                    self._call(self.fun, arrays)[1] if self.given is True else self._call(self.given, arrays)
                )
            flat: list[Any] = []
            mapped(lambda _, a, g: flat.append(g), self.tree, made)
            return [flat[i] for i in self.floating]
        points = [a.requires_grad_(True) for a in arrays]
        with torch.enable_grad(), self.running_lifted():
            return self._differentiated(self._scalar(self._returned(points)), points)

    def _returned(self, arrays: Arrays) -> Any:
        returned = self._call(self.fun, arrays)
        return returned[0] if self.given is True else returned

    def _call(self, function: Callable[..., Any], arrays: Arrays) -> Any:
        tree = self._tree(arrays)
        return function(*tree) if self.apart else function(tree)

    def _tree(self, arrays: Arrays) -> Any:
        whole = list(self.all)
        for i, a in zip(self.floating, arrays, strict=True):
            whole[i] = a
        rest = iter(whole)
        return mapped(lambda _, __: next(rest), self.tree)

    def product(self, arrays: Arrays, vectors: Arrays, wide: str) -> Arrays:
        """Return the Hessian times a vector: as `hvp` gives it, or by a second pass of autograd."""
        if self.hvp is not None:
            with torch.no_grad(), self.running_lifted():
                made = self.hvp(self._tree(arrays), self._tree(vectors))
            flat: list[Any] = []
            mapped(lambda _, a, g: flat.append(g), self.tree, made)
            return [flat[i] for i in self.floating]
        points = [a.requires_grad_(True) for a in arrays]
        with torch.enable_grad(), self.running_lifted():
            value = self._scalar(self._returned(points))
            if not value.requires_grad:
                return [None] * len(points)
            first = torch.autograd.grad(value, points, create_graph=True, allow_unused=True)
            known = [(g * v).sum() for g, v in zip(first, vectors, strict=True) if g is not None]
            total = sum(known[1:], known[0]) if known else value
            if not total.requires_grad:  # a linear function
                return [None] * len(points)
            return list(torch.autograd.grad(total, points, allow_unused=True))


class ModuleAdapter(_Common):
    """A module and its loss on one batch, as a function of the parameters, on a copy of the module."""

    def __init__(self, module: nn.Module, batch: Any, loss: Callable[[Any, Any], Any] | None) -> None:
        super().__init__()
        self.batch, self.loss = batch, loss or _default_loss
        unready = [n for n, p in module.named_parameters() if is_lazy(p)]
        if unready:
            raise UsageError(
                f"the module has parameters without a shape yet ({', '.join(unready[:3])}): run it on a "
                "batch once, before the check"
            )
        try:
            self.own = copy.deepcopy(module)
        except Exception as error:
            raise UsageError(
                f"the module cannot be copied ({one_line(error)}): give a function of its parameters "
                "instead, with torch.func.functional_call"
            ) from error
        self._wide: dict[str, tuple[nn.Module, Any]] = {}
        parameters = [(n, p) for n, p in self.own.named_parameters() if p.requires_grad]
        frozen = [n for n, p in self.own.named_parameters() if not p.requires_grad]
        if not parameters:
            raise UsageError("the module has no parameter that requires a gradient")
        if frozen:
            self.notes.append(
                f"not checked, since frozen: {', '.join(frozen[:5])}{' …' if len(frozen) > 5 else ''}"
            )
        hooked = [
            n for n, p in module.named_parameters() if p._backward_hooks or p._post_accumulate_grad_hooks
        ]
        if hooked:  # which no copy has
            self.notes.append(f"not looked at: what hooks do to the gradient of {', '.join(hooked[:5])}")
        refuse_complex("the module has", [(n, _name(p.dtype)) for n, p in parameters])
        self.names = [n for n, _ in parameters]
        self.arrays = [p.detach().clone() for _, p in parameters]
        self._buffers = {n: b.detach().clone() for n, b in self.own.named_buffers()}
        self.facts["random"] = _random_layers(self.own)
        sizes = {int(t.shape[0]): "the batch" for t in _tensors(batch) if t.ndim}
        self.facts["sizes"] = sizes

    def value(self, arrays: Arrays, wide: str) -> tuple[Any, str]:
        """See `Adapter`."""
        self._model(wide)  # made in float64 here, so that its casts are not taken for the function's
        with torch.no_grad(), self.running_lifted():
            value = self._scalar(self._loss(arrays, wide)[0])
        return value.item(), self.dtype_of(value)

    def gradient(self, arrays: Arrays, wide: str) -> Arrays:
        """See `Adapter`."""
        with torch.enable_grad(), self.running_lifted():
            returned, parameters = self._loss(arrays, wide)
            return self._differentiated(self._scalar(returned), parameters)

    def _loss(self, arrays: Arrays, wide: str) -> tuple[Any, list[Tensor]]:
        module, batch = self._model(wide)
        known = dict(module.named_parameters())
        parameters: list[Tensor] = [known[n] for n in self.names]
        with torch.no_grad():
            for p, a in zip(parameters, arrays, strict=True):
                p.copy_(a)
            for n, b in module.named_buffers():  # running statistics move in training mode
                b.copy_(self._buffers[n])
        return self.loss(module, batch), parameters

    def _model(self, wide: str) -> tuple[nn.Module, Any]:
        if not wide:
            return self.own, self.batch
        if wide not in self._wide:
            dtype = getattr(torch, wide)
            batch = mapped(lambda _, a: a.to(dtype) if _is_float(a) else a, self.batch)
            self._wide[wide] = (copy.deepcopy(self.own).to(dtype), batch)
        return self._wide[wide]


def _name(dtype: torch.dtype | torch.layout) -> str:
    return str(dtype).removeprefix("torch.")


def _is_float(a: Any) -> bool:
    return isinstance(a, Tensor) and a.is_floating_point()


def _default_loss(module: nn.Module, batch: Any) -> Any:
    return module(*batch) if isinstance(batch, tuple) else module(batch)


def _tensors(tree: Any) -> list[Tensor]:
    return [a for _, a in named(tree) if isinstance(a, Tensor)]


def _random_layers(module: nn.Module) -> str:
    """Return a sentence's end that names the layers that draw at random."""
    found = []
    for name, m in module.named_modules():
        if m.training and ("Dropout" in type(m).__name__ or getattr(m, "dropout", 0)):
            found.append(f"{name} ({type(m).__name__})")
    if not found:
        return ""
    verb = "is" if len(found) == 1 else "are"
    return f"; {', '.join(found[:4])} {verb} in training mode: call model.eval() first"


def adapter_for(fun: Any, x: Any, gradient: Any, loss: Any) -> TorchAdapter | ModuleAdapter:
    """Return the adapter of a function, or of a module."""
    if torch.is_inference_mode_enabled():
        raise UsageError(
            "within torch.inference_mode() nothing is differentiated: check the gradient outside of it"
        )
    if isinstance(fun, nn.Module) and (loss is not None or fun_has_parameters(fun)):
        if gradient is not None:
            raise UsageError("gradient is given for a module: its gradient is that of autograd; leave it out")
        return ModuleAdapter(fun, x, loss)
    if loss is not None:
        raise UsageError(
            "loss is given for a function: it belongs to a module, check_gradient(module, batch, loss=…)"
        )
    return TorchAdapter(fun, x, gradient)


def fun_has_parameters(module: nn.Module) -> bool:
    """Return whether a module has parameters to check."""
    return any(p.requires_grad for p in module.parameters())
