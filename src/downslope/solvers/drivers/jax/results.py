"""What a solve within a transformation of JAX's returns: trees of arrays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from downslope.solvers.core import Core, Limits, Problem, projected_size, tolerance
from downslope.solvers.fitted import LeastSquaresResult, held
from downslope.solvers.result import Result
from downslope.solvers.spaces.jax import JaxSpace
from downslope.solvers.status import Status

jax.tree_util.register_dataclass(
    Result,
    data_fields=["x", "value", "gradient", "status", "success", "steps", "evaluations", "gradient_size",
                 "tolerance"],
    meta_fields=["message", "seconds", "method", "provenance", "history", "error", "state", "_solver"],
)  # fmt: skip
jax.tree_util.register_dataclass(
    LeastSquaresResult,
    data_fields=["x", "cost", "fun", "jac", "grad", "optimality", "offset", "tolerance", "active_mask",
                 "nfev", "njev", "nit", "status", "success"],
    meta_fields=["message", "method", "provenance", "seconds", "history", "error"],
)  # fmt: skip


def traced(objective: Any, state: Any, problem: Problem | None, limits: Limits, method: str) -> Result:
    """Return the result of a solve within a transformation: `status` and `success` are arrays.

    The state is left out, and messages: what they say depends on numbers that are not known yet.
    """
    core, restore = state.core, objective.structure.restore
    x, value, gradient = _chosen(core)
    space, size = JaxSpace(core.x), core.size
    if problem is not None:
        turned = (a if a.ndim < 2 else space.lanes_last(a) for a in (x, gradient))
        size = jnp.where(_at_iterate(core), size, projected_size(space, problem, *turned))
    return Result(
        restore(x), value, restore(gradient), core.status, _succeeded(core), "", core.steps,
        core.evaluations, size, tolerance(space, limits, core), 0.0, method,
        str(objective.provenance), (),
    )  # fmt: skip


def traced_fit(f: Any, state: Any, bounds: Any, limits: Limits, method: str) -> LeastSquaresResult:
    """Return the result of a fit within a transformation."""
    core = state.core
    x, value, gradient = _chosen(core)
    r, jacobian = f.value_and_jacobian(x)
    mask, size = held(jnp, x, gradient, bounds)
    return LeastSquaresResult(
        f.structure.restore(x), value, r, jacobian, gradient, size, core.size,
        tolerance(JaxSpace(core.x), limits, core), mask, core.evaluations, core.steps + 1, core.steps,
        core.status, _succeeded(core), "", method, str(f.provenance), 0.0, (),  # type: ignore[arg-type]
    )  # fmt: skip


def _chosen(core: Core) -> tuple[Any, Any, Any]:
    """Return x, value and gradient of the iterate, or of the best point seen."""
    at_iterate = _at_iterate(core)
    spread = at_iterate[..., None]
    return (
        jnp.where(spread, core.x, core.best_x),
        jnp.where(at_iterate, core.value, core.best_value),
        jnp.where(spread, core.gradient, core.best_gradient),
    )


def _at_iterate(core: Core) -> Any:
    named = jnp.isin(core.status, jnp.array([int(s) for s in Status.at_iterate()]))
    return named | ~(core.best_value < core.value)


def _succeeded(core: Core) -> Any:
    return jnp.isin(core.status, jnp.array([int(s) for s in Status if s.success]))
