"""Every rule as a method of `scipy.optimize.minimize`.

    minimize(f, x0, jac=True, method=method("adam", lr=0.1), tol=1e-6, options={"maxiter": 2000})

A rule is no line search: it needs a learning rate, and takes one evaluation a step. It is worth
its place where functions are noisy, or to compare on one's own problem what trains networks;
a smooth function is better left to `downslope.minimize`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, approx_fprime

from downslope import rules
from downslope.errors import closest
from downslope.rules.checks import require, require_number
from downslope.rules.rule import Rule

__all__ = ["RuleMethod", "method"]

Vector: TypeAlias = NDArray[np.float64]

RULES: dict[str, type[Rule]] = {
    "sgd": rules.SGD,
    "adagrad": rules.AdaGrad,
    "rmsprop": rules.RMSProp,
    "adam": rules.Adam,
    "adamw": rules.Adam,
    "muon": rules.Muon,
}
MESSAGES = {
    0: "The gradient is within tol.",
    1: "maxiter steps were taken: the gradient is not within tol. Raise maxiter, or change lr.",
    2: "The function or its gradient is not finite; x is the best point before. Lower lr, or find the cause.",
    99: "The callback stopped the run.",
}


def method(
    rule: str | Rule,
    lr: float | Callable[[int], float],
    *,
    weight_decay: float | None = None,
    cautious: bool = False,
    shape: Sequence[int] | None = None,
    **options: Any,
) -> RuleMethod:
    """Return a rule as the `method` of `scipy.optimize.minimize`.

    Args:
        rule: "sgd", "adagrad", "rmsprop", "adam", "adamw" or "muon", or a rule such as
            `downslope.Adam(betas=(0.9, 0.99))`.
        lr: learning rate, a number of at least 0 or a function of the steps taken.
        weight_decay: decoupled; 0, but 0.01 for "adamw".
        cautious: decay only where it agrees with the step in sign.
        shape: what x is reshaped to for the rule; "muon" needs (fan_out, fan_in).
        **options: hyper-parameters of the rule, where it is given by name.

    The method understands `tol` (stop when no entry of the gradient is larger in size; 1e-5),
    `options={"maxiter": …}` (1000), `callback` in both of SciPy's forms, and `jac` as a function,
    True, or nothing, for forward differences. The result is the best point of the run, or the first
    whose gradient is within `tol`.

    Raises:
        ValueError: an unknown rule, or a value outside its range.
        TypeError: a hyper-parameter that the rule has not.

    >>> from scipy.optimize import minimize
    >>> result = minimize(lambda x: ((x - 3) ** 2).sum(), [0.0, 1.0], method=method("adam", lr=0.1), tol=1e-4)
    >>> result.success, result.x.round(3)
    (True, array([3., 3.]))

    """
    if isinstance(rule, str):
        known = rule.lower()
        require("rule", rule, known in RULES, "one of " + ", ".join(RULES) + closest(known, RULES))
        wrong = options.keys() - set(RULES[known].hyperparameters())
        if wrong:
            names = ", ".join(RULES[known].hyperparameters())
            raise TypeError(f"{rule} has no hyper-parameter {sorted(wrong)[0]!r}: expected some of {names}")
        made = RULES[known](**options)
        decay = (0.01 if known == "adamw" else 0.0) if weight_decay is None else weight_decay
    else:
        if options:
            raise TypeError(
                f"{sorted(options)[0]!r} goes into the rule itself, as {type(rule).__name__}(...)"
            )
        made, decay = rule, 0.0 if weight_decay is None else weight_decay
    if not callable(lr):
        require_number("lr", lr, 0.0)
    require_number("weight_decay", decay, 0.0)
    require(
        "shape",
        shape,
        made.elementwise or (shape is not None and len(shape) >= 2),
        "(fan_out, fan_in), as this rule takes matrices",
    )
    return RuleMethod(made, lr, decay, cautious, None if shape is None else tuple(shape))


@dataclass(frozen=True)
class RuleMethod:
    """A rule with its learning rate, called by `scipy.optimize.minimize`."""

    rule: Rule
    lr: float | Callable[[int], float]
    weight_decay: float = 0.0
    cautious: bool = False
    shape: tuple[int, ...] | None = None

    def __call__(
        self,
        fun: Callable[..., float],
        x0: Any,
        args: tuple[Any, ...] = (),
        *,
        jac: Callable[..., Any] | None = None,
        hess: Any = None,
        hessp: Any = None,
        bounds: Any = None,
        constraints: Any = (),
        callback: Callable[..., Any] | None = None,
        tol: float = 1e-5,
        maxiter: int = 1000,
        disp: bool = False,
        **unknown: Any,
    ) -> OptimizeResult:
        """Run the rule on a function; the signature is SciPy's.

        Raises:
            ValueError: bounds, constraints or a Hessian, which no rule uses; a `tol` or `maxiter` out
                of range; an x0 that `shape` does not fit; a schedule that returns no learning rate.
            TypeError: an option that is not known.

        """
        if bounds is not None or np.any(constraints):
            raise ValueError(
                "a rule takes neither bounds nor constraints: "
                "use method='L-BFGS-B', 'SLSQP' or 'trust-constr'"
            )
        if hess is not None or hessp is not None:
            raise ValueError("a rule uses no Hessian: leave out hess and hessp, or use method='trust-exact'")
        if unknown:
            raise TypeError(f"unknown option {sorted(unknown)[0]!r}: expected some of maxiter, tol, disp")
        require_number("tol", tol, 0.0)
        whole = isinstance(maxiter, (int, np.integer)) and not isinstance(maxiter, bool) and maxiter >= 0
        require("maxiter", maxiter, whole, "a whole number of at least 0")
        run = _Run(self, _Function(fun, jac, args), np.array(x0, dtype=np.float64), callback)
        status = run.until(tol, maxiter)
        result = OptimizeResult(
            x=run.best.x,
            fun=run.best.fun,
            jac=run.best.jac,
            nit=run.steps,
            nfev=run.function.nfev,
            njev=run.function.njev,
            status=status,
            success=status == 0,
            message=MESSAGES[status],
        )
        if disp:
            print(f"{result.message} f = {result.fun:.6g} after {result.nit} steps")
        return result

    def rate(self, steps: int) -> float:
        """Return the learning rate after so many steps; raise ValueError where a schedule returns none."""
        if not callable(self.lr):
            return self.lr
        value = float(self.lr(steps))
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(
                f"the schedule of the learning rate returned {value} at step {steps}: "
                "expected a finite number of at least 0"
            )
        return value


class _Function:
    """A function and its gradient, with what was evaluated counted."""

    def __init__(
        self, fun: Callable[..., float], jac: Callable[..., Any] | None, args: tuple[Any, ...]
    ) -> None:
        self.fun, self.jac, self.args = fun, jac, args
        self.nfev = self.njev = 0

    def value(self, x: Vector) -> float:
        self.nfev += 1
        value = np.asarray(self.fun(x.copy(), *self.args))
        if value.size != 1:
            raise ValueError(f"fun returned an array of shape {value.shape}: expected one number")
        return float(value.reshape(()))

    def gradient(self, x: Vector) -> Vector:
        self.njev += 1
        made = approx_fprime(x, self.value) if self.jac is None else self.jac(x.copy(), *self.args)
        g = np.asarray(made, dtype=np.float64)
        if g.shape != x.shape:
            raise ValueError(f"the gradient has shape {g.shape}, x {x.shape}: expected the same")
        return g


@dataclass
class _Point:
    x: Vector
    fun: float
    jac: Vector

    @property
    def finite(self) -> bool:
        return math.isfinite(self.fun) and bool(np.isfinite(self.jac).all())


class _Run:
    def __init__(
        self, by: RuleMethod, function: _Function, x: Vector, callback: Callable[..., Any] | None
    ) -> None:
        self.by, self.function, self.steps = by, function, 0
        self.callback = _in_both_forms(callback)
        if by.shape is not None and math.prod(by.shape) != x.size:
            raise ValueError(f"shape = {by.shape} has {math.prod(by.shape)} entries: x0 has {x.size}")
        self.state = by.rule.start(self._viewed(x))
        self.point = self.best = self._evaluated(x)

    def until(self, tol: float, maxiter: int) -> int:
        """Take steps until something ends the run; return the status."""
        while True:
            if not self.point.finite:
                return 2
            if np.max(np.abs(self.point.jac), initial=0.0) <= tol:
                self.best = self.point
                return 0
            if self.steps >= maxiter:
                return 1
            self._step()
            if self.callback is not None:
                try:
                    self.callback(self.point)
                except StopIteration:
                    return 99

    def _step(self) -> None:
        after, self.state = self.by.rule.step(
            self._viewed(self.point.x),
            self._viewed(self.point.jac),
            self.state,
            lr=self.by.rate(self.steps),
            weight_decay=self.by.weight_decay,
            cautious=self.by.cautious,
        )
        self.steps += 1
        self.point = self._evaluated(np.reshape(after, self.point.x.shape))
        if self.point.finite and (not self.best.finite or self.point.fun < self.best.fun):
            self.best = self.point

    def _evaluated(self, x: Vector) -> _Point:
        value = self.function.value(x)
        known = math.isfinite(value)  # no use in asking for the slope of infinity
        return _Point(x, value, self.function.gradient(x) if known else np.full_like(x, math.nan))

    def _viewed(self, x: Vector) -> Vector:
        return x if self.by.shape is None else x.reshape(self.by.shape)


def _in_both_forms(callback: Callable[..., Any] | None) -> Callable[[_Point], Any] | None:
    """Return a callback that is called as SciPy does: with x, or with `intermediate_result`."""
    if callback is None:
        return None
    given = callback
    if set(inspect.signature(given).parameters) == {"intermediate_result"}:
        return lambda p: given(intermediate_result=OptimizeResult(x=p.x.copy(), fun=p.fun))
    return lambda p: given(p.x.copy())
