"""A sum of squares as a driver sees it: values, gradients, and residuals with their Jacobian."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downslope.gradients import Residuals
from downslope.ops.protocol import Array
from downslope.solvers import losses, spaces
from downslope.solvers.method import Evaluation, Want

Vector = NDArray[np.floating]

LIBRARIES = {"torch": "torch", "jax": "jax.numpy", "jaxlib": "jax.numpy", "tensorflow": "tensorflow"}
"""The module of a framework's functions; it is loaded where there is an array of it."""


class Dense:
    """½ Σ rᵢ² (or a robust loss) with the Jacobian made smaller on its own device, as NumPy arrays.

    Where there are more residuals m than unknowns n, J = Q R and r are sent on as R (n, n) and Qᵀ r: all
    inner products that a method needs are theirs too, and what crosses to the host is small.
    """

    def __init__(self, residuals: Residuals, loss: losses.Loss, scale: float) -> None:
        self.residuals, self.loss, self.scale = residuals, loss, scale
        self.structure, self.counts = residuals.structure, residuals.counts
        self.x0: Vector = to_numpy(residuals.x0)
        self._seen: tuple[Vector, Array] | None = None

    def evaluate(self, x: Vector, want: int, vector: Any) -> Evaluation:
        """Return the value, or everything."""
        if want == Want.VALUE:
            return Evaluation(self._cost(to_numpy(self.residuals.value(self._sent(x)))))
        r, jacobian = self.residuals.value_and_jacobian(self._sent(x))
        cost = self._cost(to_numpy(r))
        if self.loss != "linear":
            r, jacobian = losses.reweighted(self.loss, self.scale, r, jacobian)
        small, parts = to_numpy(r), to_numpy(jacobian)
        if jacobian.shape[-2] > jacobian.shape[-1]:
            small, parts = reduced(r, jacobian)
        gradient = small @ parts
        return Evaluation(cost, gradient, residuals=small, jacobian=parts)

    def _sent(self, x: Vector) -> Array:
        """Return x in the framework; the same array for the same x, so that its work can be shared."""
        if self.structure.framework == "numpy":
            return x
        if self._seen is None or self._seen[0] is not x:
            self._seen = x, spaces.vector_like(self.residuals.x0, self.structure.framework, x)
        return self._seen[1]

    def _cost(self, r: Vector) -> float:
        with np.errstate(all="ignore"):
            wide = r.astype(np.float64, copy=False)
            if self.loss == "linear":
                return 0.5 * float(wide @ wide)
            return 0.5 * float(np.sum(losses.total(self.loss, self.scale, wide)))


class Squares:
    """½ Σ rᵢ² (or a robust loss) in a jitted loop or in lock step, where it is to stay in its framework.

    It is an `Objective` of `downslope.gradients`, and knows residuals and Jacobians besides. Points are
    (n,), or (B, n) with the problems first; what `linearized` returns has them last, as methods do.
    """

    def __init__(self, residuals: Any, loss: losses.Loss, scale: float, space: Any) -> None:
        self.residuals, self.loss, self.scale, self.space = residuals, loss, scale, space

    def __getattr__(self, name: str) -> Any:
        """Return structure, x0, counts, provenance and what else is of the residuals."""
        return getattr(self.residuals, name)

    @property
    def kernels(self) -> Any:
        """Compiled parts of the residuals, of JAX's."""
        return self.residuals.kernels

    @kernels.setter
    def kernels(self, kept: Any) -> None:
        self.residuals.kernels = kept

    def value(self, x: Array) -> Any:
        """½ Σ ρ: () or (B,)."""
        return self._cost(self.space.lanes_last(self.residuals.value(x)))

    def value_and_gradient(self, x: Array) -> tuple[Any, Array]:
        """½ Σ ρ, and its gradient as x."""
        value, r, jacobian = self._weighted(x)
        return value, self.space.lanes_first(self.space.combine(r, jacobian))

    def linearized(self, x: Array) -> Evaluation:
        """Return everything; of more residuals than unknowns R and Qᵀ r, as `Dense` does."""
        value, r, jacobian = self._weighted(x)
        if jacobian.shape[0] > jacobian.shape[1]:
            jacobian, r = self.space.reduced(jacobian, r)
        return Evaluation(value, self.space.combine(r, jacobian), residuals=r, jacobian=jacobian)

    def select(self, lanes: Array) -> Squares:
        """Return the problems of some lanes."""
        return Squares(self.residuals.select(lanes), self.loss, self.scale, self.space)

    def _weighted(self, x: Array) -> tuple[Any, Array, Array]:
        """Return ½ Σ ρ, and residuals and Jacobian weighted by the loss, the problems last."""
        last = self.space.lanes_last
        r, jacobian = self.residuals.value_and_jacobian(x)
        value = self._cost(last(r))
        if self.loss != "linear":
            r, jacobian = losses.reweighted(self.loss, self.scale, r, jacobian)
        return value, last(r), last(jacobian, 2)

    def _cost(self, r: Array) -> Any:
        if self.loss == "linear":
            return 0.5 * self.space.dot(r, r)
        return 0.5 * self.space.sum(losses.total(self.loss, self.scale, r), 0)


class Products:
    """½ Σ rᵢ² (or a robust loss) with Gauss and Newton's Hessian JᵀJ by products; no matrix is made."""

    def __init__(self, residuals: Residuals, loss: losses.Loss, scale: float) -> None:
        self.residuals, self.loss, self.scale = residuals, loss, scale
        self.structure, self.counts, self.x0 = residuals.structure, residuals.counts, residuals.x0

    @property
    def provenance(self) -> Any:
        """Where the derivatives come from."""
        return self.residuals.provenance

    def value(self, x: Array) -> Any:
        """½ Σ ρ."""
        return self._cost(self.residuals.value(x))

    def value_and_gradient(self, x: Array) -> tuple[Any, Array]:
        """½ Σ ρ and Jᵀ (ρ' r)."""
        r = self.residuals.value(x)
        first = 1.0 if self.loss == "linear" else losses.rho(self.loss, (r / self.scale) ** 2)[1]
        return self._cost(r), self.residuals.transposed_vector(x, first * r)

    def hessian_vector(self, x: Array, v: Array) -> Array:
        """Jᵀ W J v, W = ρ' + 2 ρ'' r² where that is positive."""
        along = self.residuals.jacobian_vector(x, v)
        if self.loss != "linear":
            z = (self.residuals.value(x) / self.scale) ** 2
            _, first, second = losses.rho(self.loss, z)
            weight = first + 2 * second * z
            along = along * (weight * (weight > 0))
        return self.residuals.transposed_vector(x, along)

    def _cost(self, r: Array) -> Any:
        if self.loss == "linear":
            return 0.5 * (r * r).sum() if hasattr(r, "sum") else 0.5 * float(np.sum(to_numpy(r) ** 2))
        return 0.5 * float(np.sum(to_numpy(losses.total(self.loss, self.scale, r))))


class OnHost:
    """The same for a method whose vectors are NumPy's, whatever the function's are."""

    def __init__(self, products: Products) -> None:
        self.products, self.x0 = products, to_numpy(products.x0)

    def value_and_gradient(self, x: Vector) -> tuple[float, Vector]:
        """½ Σ ρ and its gradient."""
        value, gradient = self.products.value_and_gradient(self._sent(x))
        return float(value), to_numpy(gradient)

    def value(self, x: Vector) -> float:
        """½ Σ ρ."""
        return float(self.products.value(self._sent(x)))

    def hessian_vector(self, x: Vector, v: Vector) -> Vector:
        """Jᵀ W J v."""
        return to_numpy(self.products.hessian_vector(self._sent(x), self._sent(v)))

    def _sent(self, x: Vector) -> Array:
        return spaces.vector_like(self.products.x0, self.products.structure.framework, x)


def to_numpy(array: Any) -> NDArray[Any]:
    """Return an array of any framework as NumPy's."""
    return np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)


def reduced(r: Array, jacobian: Array) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return Qᵀ r and R of J = Q R, computed where J is; r and J as they are where one is not finite."""
    if isinstance(jacobian, np.ndarray):
        if not np.isfinite(jacobian).all():
            return r, jacobian
        q, upper = np.linalg.qr(jacobian)
        return r @ q, upper
    for kind in type(jacobian).__mro__:
        framework = kind.__module__.partition(".")[0]
        if framework in LIBRARIES:
            q, upper = sys.modules[LIBRARIES[framework]].linalg.qr(jacobian)
            product = (q * r[..., None]).sum(0) if framework != "tensorflow" else r[None] @ q
            return to_numpy(product).reshape(-1), to_numpy(upper)
    raise TypeError(type(jacobian).__name__)
