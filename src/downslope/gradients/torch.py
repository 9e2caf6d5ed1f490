"""Derivatives of PyTorch functions by automatic differentiation.

Batches of functions written for one problem go through `torch.func.vmap`; their gradients are those
of the sum of the values, which keeps the problems apart and costs one backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from downslope.errors import UsageError, a_type
from downslope.gradients.memory import free_memory, require_memory
from downslope.gradients.returned import (
    changed_argument,
    describe,
    is_whole,
    no_hessian,
    no_scalar,
    of_one_problem,
    pair,
    residual_parts,
)
from downslope.gradients.source import Counts, Given, Provenance
from downslope.gradients.structure import Structure

AUTOMATIC = Provenance("PyTorch's automatic differentiation")


def check_point(leaves: list[tuple[str, Tensor]]) -> None:
    """Raise where the parts of a starting point are on two devices, or an entry is not finite."""
    devices = {leaf.device: name for name, leaf in leaves}
    if len(devices) > 1:
        shown = ", ".join(f"{name} is on {device}" for device, name in devices.items())
        raise UsageError(f"x0 is on two devices ({shown}): expected one; move it with .to(device)")
    for name, leaf in leaves:
        bad = ~torch.isfinite(leaf)
        if bool(bad.any()):
            at = [int(i) for i in bad.nonzero()[0]]
            entry = f"[{', '.join(map(str, at))}]" if at else ""
            raise UsageError(f"{name}{entry} is {float(leaf[tuple(at)])}: expected finite numbers")


def owned(vector: Tensor) -> Tensor:
    """Return a copy that is the solver's own and apart from the user's graph."""
    return vector.detach().clone()


class _Function:
    """What scalar and vector functions share: the user's function of flat vectors, checked at first."""

    def __init__(self, given: Given, structure: Structure, x0: Tensor, counts: Counts | None = None) -> None:
        self.given, self.structure, self.x0 = given, structure, x0
        self.counts = Counts() if counts is None else counts
        self.batch = structure.batch is not None
        self._checked = False
        self._mapped = self.batch and not given.vectorized
        if isinstance(given.gradient, str) and given.gradient != "auto":
            raise UsageError(
                f"gradient = {given.gradient!r} is for NumPy functions: PyTorch differentiates this one "
                "itself; leave gradient out"
            )

    def _call(self, function: Callable[..., Any], x: Tensor, *more: Tensor) -> Any:
        """Call a function of the user's with x's arrays, `more` and the further arguments."""
        self.counts.values += 1
        rows = [x, *more]
        try:
            if self._mapped:
                with of_one_problem():
                    single, axes = self._single(function), self._axes(len(rows))
                    return torch.func.vmap(single, axes, randomness="different")(*rows, *self.given.args)
            return function(*(self.structure.restore(r) for r in rows), *self.given.args)
        except RuntimeError as error:
            raise self._explained(error) from error

    def _single(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def one(*all_of_it: Any) -> Any:
            point = self.structure.restore(all_of_it[0])
            return function(point, *all_of_it[1:])

        return one

    def _axes(self, rows: int) -> tuple[int | None, ...]:
        count = self.structure.batch
        own = [0 if isinstance(a, Tensor) and a.shape[:1] == (count,) else None for a in self.given.args]
        return (*[0] * rows, *own)

    def _explained(self, error: RuntimeError) -> Exception:
        text = str(error)
        if "leaf Variable that requires grad" in text or "modified by an inplace operation" in text:
            return changed_argument("", "clone")
        if self._mapped and "vmap" in text:
            return UsageError(
                "fun cannot be vectorised by torch.func.vmap: "
                f"{' '.join(text.split())[:160]}; write it for all problems at once and say vectorized=True"
            )
        return error

    @contextmanager
    def _unchanged(self, x: Tensor) -> Iterator[None]:
        """Raise where the first evaluation writes to x."""
        before = None if self._checked else x.detach().clone()
        yield
        if before is not None:
            for part in self.structure.parts:
                if not torch.equal(
                    x.detach()[..., part.start : part.stop], before[..., part.start : part.stop]
                ):
                    raise changed_argument(part.where, "clone")
            self._checked = True

    def _lane_arguments(self, lanes: Tensor) -> tuple[Given, Structure, Tensor]:
        args = tuple(
            a[lanes] if isinstance(a, Tensor) and a.shape[:1] == (self.structure.batch,) else a
            for a in self.given.args
        )
        chosen = self.x0[lanes]
        return replace(self.given, args=args), replace(self.structure, batch=chosen.shape[0]), chosen


class Objective(_Function):
    """`downslope.gradients.source.Objective` of a PyTorch function."""

    def __init__(self, given: Given, structure: Structure, x0: Tensor, counts: Counts | None = None) -> None:
        super().__init__(given, structure, x0, counts)
        self._graph: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def provenance(self) -> Provenance:
        """Where the gradient comes from."""
        gradient = self.given.gradient
        return Provenance("the gradient given") if callable(gradient) or gradient is True else AUTOMATIC

    def value(self, x: Tensor) -> Tensor:
        """f(x)."""
        with torch.no_grad(), self._unchanged(x):
            return self._scalar(self._returned(x), differentiable=False)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f(x) and ∇f(x)."""
        self.counts.gradients += 1
        gradient = self.given.gradient
        if gradient is True or callable(gradient):
            with torch.no_grad(), self._unchanged(x):
                returned = pair(self._call(self.given.fun, x), "gradient") if gradient is True else None
                value = self._scalar(returned[0] if returned else self._call(self.given.fun, x), False)
                made = returned[1] if returned else self._call(gradient, x)
                self.counts.values -= 0 if returned else 1
                return value, self._vector(made, "gradient")
        point = x.detach().requires_grad_(True)
        with torch.enable_grad(), self._unchanged(point):
            value = self._scalar(self._call(self.given.fun, point), differentiable=True)
            (made,) = torch.autograd.grad(value.sum(), point)
        return value.detach(), made

    def hessian_vector(self, x: Tensor, v: Tensor) -> Tensor:
        """∇²f(x) v; products at the same x share one graph."""
        self.counts.products += 1
        if self.given.hessian_vector is not None:
            with torch.no_grad():
                self.counts.values -= 1
                return self._vector(self._call(self.given.hessian_vector, x, v), "hessian_vector")
        if self.given.hessian is not None:
            return torch.einsum("...ij,...j->...i", self.hessian(x), v)
        gradient, point = self._gradient_graph(x)
        if not gradient.requires_grad:  # linear functions
            return torch.zeros_like(v)
        made = torch.autograd.grad(gradient, point, v, retain_graph=True, allow_unused=True)[0]
        return torch.zeros_like(v) if made is None else made

    def hessian(self, x: Tensor) -> Tensor:
        """∇²f(x), symmetric."""
        self.counts.matrices += 1
        n = self.structure.size
        shape = (*x.shape, n)
        if self.given.hessian is not None:
            with torch.no_grad():
                self.counts.values -= 1
                made = self._call(self.given.hessian, x)
            if getattr(made, "shape", None) != shape:
                raise no_hessian(made, shape)
            matrix: Tensor = made.detach().to(x.dtype)
            return matrix
        require_memory(
            shape, self.structure.dtype, _free(x), "a Hessian", "use method='newton-cg' or 'l-bfgs'"
        )
        gradient, point = self._gradient_graph(x)
        if not gradient.requires_grad:
            return x.new_zeros(shape)
        eye = torch.eye(n, dtype=x.dtype, device=x.device)
        seeds = eye if not self.batch else eye[:, None, :].expand(n, x.shape[0], n)
        (rows,) = torch.autograd.grad(
            gradient, point, seeds, retain_graph=True, is_grads_batched=True, allow_unused=True
        )
        matrix = x.new_zeros(shape) if rows is None else rows.movedim(0, -2)
        return (matrix + matrix.mT) / 2

    def select(self, lanes: Tensor) -> Objective:
        """Return the problems of some lanes."""
        made = Objective(*self._lane_arguments(lanes), self.counts)
        made._checked = self._checked
        return made

    def _gradient_graph(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ∇f with its graph, and the point it hangs on; that of the last x is kept."""
        if self._graph is None or self._graph[0] is not x:
            point = x.detach().requires_grad_(True)
            with torch.enable_grad(), self._unchanged(point):
                if callable(self.given.gradient):
                    gradient = self._vector(self._call(self.given.gradient, point), "gradient", detach=False)
                    self.counts.values -= 1
                elif self.given.gradient is True:
                    made = pair(self._call(self.given.fun, point), "gradient")[1]
                    gradient = self._vector(made, "gradient", detach=False)
                else:
                    value = self._scalar(self._call(self.given.fun, point), differentiable=True)
                    (gradient,) = torch.autograd.grad(value.sum(), point, create_graph=True)
            self._graph = (x, gradient, point)
        return self._graph[1], self._graph[2]

    def _returned(self, x: Tensor) -> Any:
        returned = self._call(self.given.fun, x)
        return pair(returned, "gradient")[0] if self.given.gradient is True else returned

    def _scalar(self, value: Any, differentiable: bool) -> Tensor:
        shape = () if self.structure.batch is None else (self.structure.batch,)
        expected = (
            f"a floating tensor of shape {shape}" if self.batch else "one floating number, a 0-d tensor"
        )
        if not isinstance(value, Tensor):
            if differentiable and (isinstance(value, float) or is_whole(value)):
                raise UsageError(
                    f"fun returned {a_type(value)}, which PyTorch cannot differentiate: return the tensor "
                    "itself, without .item() or float()"
                )
            raise no_scalar(value, expected)
        if not value.is_floating_point() or (value.numel() != 1 if not self.batch else value.shape != shape):
            raise no_scalar(value, expected)
        if hasattr(value, "full_tensor"):  # a sum over sharded parameters: every process gets all of it
            value = value.full_tensor()
        if differentiable and not value.requires_grad:
            raise UsageError(
                "fun returned a detached tensor, from which no gradient comes: expected one computed from x "
                "without .detach(), .item(), .numpy() or torch.no_grad()"
            )
        if value.device != self.x0.device:
            raise UsageError(f"fun returned a tensor on {value.device}, x0 is on {self.x0.device}")
        return torch.reshape(value, shape).to(self.x0.dtype)

    def _vector(self, made: Any, name: str, *, detach: bool = True) -> Tensor:
        if made is None:
            raise UsageError(f"{name} returned None: is a return missing?")
        vector = self.structure.flatten(made, name)
        return torch.clone(vector.detach().to(self.x0.dtype)) if detach else torch.as_tensor(vector)


class Residuals(_Function):
    """`downslope.gradients.source.Residuals` of a PyTorch function."""

    def __init__(self, given: Given, structure: Structure, x0: Tensor, counts: Counts | None = None) -> None:
        super().__init__(given, structure, x0, counts)
        self.size: int | None = None
        self._graph: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def provenance(self) -> Provenance:
        """Where the Jacobian comes from."""
        gradient = self.given.gradient
        return Provenance("the Jacobian given") if callable(gradient) or gradient is True else AUTOMATIC

    def value(self, x: Tensor) -> Tensor:
        """r(x)."""
        with torch.no_grad(), self._unchanged(x):
            returned = self._call(self.given.fun, x)
            return self._vector(pair(returned, "jacobian")[0] if self.given.gradient is True else returned)

    def value_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """r(x) and J(x), by columns where there are no fewer residuals than unknowns."""
        self.counts.gradients += 1
        self.counts.matrices += 1
        if callable(self.given.gradient) or self.given.gradient is True:
            return self._given_jacobian(x)
        value, residual, point = self._residual_graph(x)
        n, m = self.structure.size, value.shape[-1]
        _require_jacobian((*value.shape, n), self.structure.dtype, x)
        if not residual.requires_grad:
            raise UsageError("fun returned detached residuals, from which no Jacobian comes")
        if m >= n:
            return value, self._by_columns(residual, point)
        return value, self._by_rows(residual, point)

    def jacobian_vector(self, x: Tensor, v: Tensor) -> Tensor:
        """J(x) v: two reverse passes, which every operation has."""
        self.counts.products += 1
        if callable(self.given.gradient) or self.given.gradient is True:
            return torch.einsum("...ij,...j->...i", self._given_jacobian(x)[1], v)
        _, residual, point = self._residual_graph(x)
        seed = torch.zeros_like(residual, requires_grad=True)
        with torch.enable_grad():
            (pulled,) = torch.autograd.grad(residual, point, seed, create_graph=True)
        return torch.autograd.grad(pulled, seed, v)[0]

    def transposed_vector(self, x: Tensor, u: Tensor) -> Tensor:
        """J(x)ᵀ u."""
        self.counts.products += 1
        if callable(self.given.gradient) or self.given.gradient is True:
            return torch.einsum("...ij,...i->...j", self._given_jacobian(x)[1], u)
        _, residual, point = self._residual_graph(x)
        return torch.autograd.grad(residual, point, u, retain_graph=True)[0]

    def select(self, lanes: Tensor) -> Residuals:
        """Return the problems of some lanes."""
        made = Residuals(*self._lane_arguments(lanes), self.counts)
        made._checked, made.size = self._checked, self.size
        return made

    def _by_columns(self, residual: Tensor, point: Tensor) -> Tensor:
        """Return J from n reverse passes through Jᵀ u as a function of u, in which it is linear."""
        n = self.structure.size
        u = torch.zeros_like(residual, requires_grad=True)
        with torch.enable_grad():
            (pulled,) = torch.autograd.grad(residual, point, u, create_graph=True)
        eye = torch.eye(n, dtype=point.dtype, device=point.device)
        seeds = eye if not self.batch else eye[:, None, :].expand(n, residual.shape[0], n)
        (columns,) = torch.autograd.grad(pulled, u, seeds, retain_graph=True, is_grads_batched=True)
        return torch.movedim(columns, 0, -1)

    def _by_rows(self, residual: Tensor, point: Tensor) -> Tensor:
        m = residual.shape[-1]
        eye = torch.eye(m, dtype=point.dtype, device=point.device)
        seeds = eye if not self.batch else eye[:, None, :].expand(m, residual.shape[0], m)
        (rows,) = torch.autograd.grad(residual, point, seeds, retain_graph=True, is_grads_batched=True)
        return rows.movedim(0, -2)

    def _residual_graph(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return r, r with its graph and the point it hangs on; that of the last x is kept."""
        if self._graph is None or self._graph[0] is not x:
            point = x.detach().requires_grad_(True)
            with torch.enable_grad(), self._unchanged(point):
                residual = self._vector(self._call(self.given.fun, point), detach=False)
            self._graph = (x, residual, point)
        return self._graph[1].detach(), self._graph[1], self._graph[2]

    def _given_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            if self.given.gradient is True:
                first, made = pair(self._call(self.given.fun, x), "jacobian")
                value = self._vector(first)
            else:
                value, made = self.value(x), self._call(self.given.gradient, x)
                self.counts.values -= 1
        shape = (*value.shape, self.structure.size)
        if not isinstance(made, Tensor) or tuple(made.shape) != shape:
            raise UsageError(f"jacobian returned {describe(made)}: expected a tensor of shape {shape}")
        return value, made.detach().to(x.dtype)

    def _vector(self, returned: Any, *, detach: bool = True) -> Tensor:
        expected = "a floating tensor, or a nested dict, list or tuple of them"
        if returned is None:
            raise UsageError(f"fun returned {describe(returned)} Expected {expected}")
        parts, rows = residual_parts(returned), []
        for part in parts:
            if not isinstance(part, Tensor) or not part.is_floating_point():
                raise UsageError(f"fun returned {describe(part)}: expected {expected}")
            if self.batch and part.shape[:1] != (self.structure.batch,):
                raise UsageError(
                    f"fun returned the shape {tuple(part.shape)}: expected the {self.structure.batch} "
                    "problems along the leading axis"
                )
            rows.append(part.reshape(part.shape[0], -1) if self.batch else part.reshape(-1))
        vector = rows[0] if len(rows) == 1 else torch.cat(rows, dim=-1)
        if self.size is None:
            self.size = vector.shape[-1]
        elif vector.shape[-1] != self.size:
            raise UsageError(
                f"fun returned {vector.shape[-1]} residuals, before {self.size}: expected as many"
            )
        vector = vector.to(self.x0.dtype)
        return vector.detach().clone() if detach else vector


def _free(x: Tensor) -> int | None:
    return int(torch.cuda.mem_get_info(x.device)[0]) if x.device.type == "cuda" else free_memory()


def _require_jacobian(shape: tuple[int, ...], dtype: str, x: Tensor) -> None:
    require_memory(shape, dtype, _free(x), "a Jacobian", "use linear='cg', which needs products with it only")
