"""Hessian-vector products and Jacobians, checked as gradients of numbers made from them.

For a fixed u the product H u is the gradient of ∇f(x)ᵀu, and Jᵀw is that of wᵀF(x): what finds a wrong
entry of a gradient finds the wrong entry of H u, or the wrong column of J, whose rows are then
looked at one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from downslope.errors import UsageError
from downslope.gradients.check.adapter import problem_of, weights_for
from downslope.gradients.check.api import adapter_of, name_of
from downslope.gradients.check.examine import Settings, examine
from downslope.gradients.check.hints import hint
from downslope.gradients.check.line import Direction, Line
from downslope.gradients.check.problem import Problem, Vector
from downslope.gradients.check.result import Finding, GradientReport, Verdict

ROWS = 20
"""Rows of a wrong column that are measured one by one."""


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
    )
    report = examine(problem, Settings(directions, evaluations, rtol=rtol, seed=seed))
    return replace(report, what="Hessian-vector product", function=name_of(fun))


def check_jacobian(
    fun: Callable[..., Any],
    x: Any,
    jacobian: Callable[..., Any],
    *,
    directions: int = 2,
    evaluations: int = 3000,
    rtol: float = 1e-4,
    seed: int = 0,
) -> GradientReport:
    """Check the Jacobian of a vector-valued function; each wrong entry has its row and its column.

    Args:
        fun: a function of one array that returns an array, (…) -> (m…).
        x: an array of NumPy, PyTorch, JAX or TensorFlow.
        jacobian: `jacobian(x)` returns an array of shape (m…, …): outputs first, as `jax.jacobian` does.
        directions: random directions that all columns are tested along.
        evaluations: calls at most, beside those for the rows of wrong columns.
        rtol: relative differences up to this are let pass.
        seed: of the directions.

    Raises:
        UsageError: as `check_gradient`; a Jacobian of another shape.

    >>> import numpy as np
    >>> x = np.array([1.0, 2.0, 3.0])
    >>> check_jacobian(lambda x: x**2, x, lambda x: np.diag(2 * x)).verdict.name
    'PASS'
    >>> wrong = check_jacobian(lambda x: x**2, x, lambda x: np.diag(2 * x) + np.eye(3, k=2))
    >>> wrong.findings[0].name
    'J[0, 2]'

    """
    if not callable(jacobian):
        raise UsageError(f"jacobian = {jacobian!r}: expected a function of x")
    outputs = _Outputs(fun, x, jacobian)
    problem = Problem(outputs.point, outputs.weighted, outputs.row, outputs.leaves)
    strict = Settings(directions, evaluations, rtol=min(rtol, 1e-8), seed=seed)
    report = examine(problem, strict)
    if report.verdict is Verdict.FAIL:
        findings, few = outputs.entries(problem, report, rtol)
        verdict = Verdict.FAIL if findings else Verdict.PASS
        report = replace(
            report, findings=tuple(findings), verdict=verdict, complete=report.complete and few, taylor=()
        )
    return replace(report, what="Jacobian", function=name_of(fun))


class _Outputs:
    """A vector-valued function and its claimed Jacobian, on vectors."""

    def __init__(self, fun: Callable[..., Any], x: Any, jacobian: Callable[..., Any]) -> None:
        if isinstance(x, (dict, list, tuple)):
            raise UsageError(f"x is a {type(x).__name__}: check_jacobian takes a single array")
        self.fun, self.jacobian = fun, jacobian
        self.adapter = adapter_of(fun, x, jacobian, None)
        base = problem_of(_Scalar(self.adapter), "own")
        self.point, self.leaves = base.x, base.leaves
        self.shape = tuple(int(n) for n in np.shape(self.raw(self.point)))
        self.count = int(np.prod(self.shape))
        self.weights = weights_for(self.count)

    def _array(self, z: Vector) -> Any:
        like = self.adapter.arrays[0]
        return self.adapter.made(z.reshape(tuple(like.shape)), like, "")

    def raw(self, z: Vector) -> Any:
        return _numbers(self.fun(self._array(z)))

    def outputs(self, z: Vector) -> Vector:
        made: Vector = self.raw(z).ravel()
        return made

    def weighted(self, z: Vector) -> float:
        return float(self.weights @ self.outputs(z))

    def claimed(self, z: Vector) -> Vector:
        made = _numbers(self.jacobian(self._array(z)))
        expected = (*self.shape, *self.leaves[0].shape)
        if made.shape != expected:
            raise UsageError(
                f"jacobian returned the shape {made.shape}: expected {expected}, outputs first, then inputs"
            )
        matrix: Vector = made.reshape(self.count, -1)
        return matrix

    def row(self, z: Vector) -> Vector:
        return self.weights @ self.claimed(z)

    def entries(self, problem: Problem, report: GradientReport, rtol: float) -> tuple[list[Finding], bool]:
        """Return the wrong entries in the columns found, and whether these are all."""
        matrix = self.claimed(problem.x)
        columns = {problem.leaf_of(0).place(f.index) for f in report.findings}
        complete = all(f.entries == 1 for f in report.findings)
        made: list[Finding] = []
        for j in sorted(columns):
            for i in self._suspects(problem, matrix[:, j], j)[:ROWS]:
                found = self._entry(problem, float(matrix[i, j]), i, j, rtol)
                made += [found] if found else []
        return made, complete

    def _suspects(self, problem: Problem, column: Vector, j: int) -> list[int]:
        """Return the rows of column j that are farthest off, by a plain central difference."""
        h = 1e-5 * max(1.0, abs(float(problem.x[j])))
        step = np.zeros(problem.size)
        step[j] = h
        problem.values += 2
        measured = (self.outputs(problem.x + step) - self.outputs(problem.x - step)) / (2 * h)
        off = np.abs(measured - column)
        order = np.argsort(-off)
        return [int(i) for i in order if off[i] > 1e-6 * float(np.max(np.abs(measured), initial=1e-300))]

    def _entry(self, problem: Problem, analytic: float, i: int, j: int, rtol: float) -> Finding | None:
        one = replace(problem, value=lambda z: float(self.outputs(z)[i]), values=0)
        f0 = one.f(problem.x)
        line = Line(
            one,
            f0,
            2.0**-52 * max(abs(f0), 1e-300),
            Direction(np.array([j]), np.ones(1)),
            np.array([analytic]),
        )
        slope = line.slope(0.05 * max(1.0, abs(float(problem.x[j]))))
        problem.values += one.values
        numeric = analytic + slope.residual
        if abs(slope.residual) <= max(8 * slope.error, rtol * max(abs(analytic), abs(numeric))):
            return None
        index = (*(int(k) for k in np.unravel_index(i, self.shape)), *self.leaves[0].index(j))
        return Finding(
            "J", index, analytic, numeric, slope.error, hint(problem, j, analytic, numeric, slope.error)
        )


class _Scalar:
    """An adapter whose value is nothing but a number, so that any function's point can be read."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        if name in ("complex_value", "product"):
            raise AttributeError(name)
        return getattr(self._adapter, name)

    def value(self, arrays: Any, wide: str) -> tuple[float, str]:
        return 0.0, "float64"


def _numbers(array: Any) -> Any:
    if hasattr(array, "detach"):
        array = array.detach().cpu()
    return np.asarray(array, dtype=np.float64)
