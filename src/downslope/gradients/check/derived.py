"""Hessian-vector products, checked as gradients of a number made from them.

For a fixed u the product H u is the gradient of ∇f(x)ᵀu: what finds a wrong entry of a gradient finds
the wrong entry of H u.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from downslope.errors import UsageError
from downslope.gradients.check.adapter import problem_of, weights_for
from downslope.gradients.check.api import adapter_of, name_of
from downslope.gradients.check.examine import Settings, examine
from downslope.gradients.check.result import GradientReport


def check_hvp(
    fun: Any,
    x: Any,
    *,
    hvp: Callable[..., Any] | None = None,
    gradient: Callable[..., Any] | bool | None = None,
    directions: int = 2,
    evaluations: int = 3000,
    rtol: float = 1e-4,
    precision: str = "auto",
    seed: int = 0,
) -> GradientReport:
    """Check products of the Hessian with a vector against differences of the gradient.

    Args:
        fun: as for `check_gradient`.
        x: the point.
        hvp: `hvp(x, v)`, both nested alike; by default a second pass of automatic differentiation,
            which checks the second derivatives of custom functions.
        gradient: the gradient, which is trusted here: check it first.
        directions: random directions that all entries are tested along.
        evaluations: calls at most.
        rtol: relative differences up to this are let pass.
        precision: as for `check_gradient`.
        seed: of the directions, and of the vector.

    Raises:
        UsageError: as `check_gradient`; a NumPy function without `hvp` or `gradient`.

    >>> import numpy as np
    >>> x = np.array([1.0, 2.0])
    >>> report = check_hvp(
    ...     lambda x: np.sum(x**3), x, gradient=lambda x: 3 * x**2, hvp=lambda x, v: 6 * x * v
    ... )
    >>> report.verdict.name
    'PASS'

    """
    adapter = adapter_of(fun, x, gradient, None)
    if not hasattr(adapter, "product"):
        raise UsageError("check_hvp takes a function of arrays: for a module, one of its parameters")
    if hvp is not None:
        adapter.hvp = hvp
    first = problem_of(adapter, precision)
    assert first.product is not None
    u = weights_for(first.size)
    product = first.product
    problem = replace(
        first,
        value=lambda z: float(first.gradient(z) @ u),
        gradient=lambda z: product(z, u),
        complex_value=None,
        automatic=False,
    )
    report = examine(problem, Settings(directions, evaluations, rtol=rtol, seed=seed))
    return replace(report, what="Hessian-vector product", function=name_of(fun))
