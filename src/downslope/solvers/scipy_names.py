"""What a caller of `scipy.optimize.minimize` passes, in the names used here."""

from __future__ import annotations

import warnings
from typing import Any

from downslope.errors import UsageError, a_type, closest
from downslope.solvers.stop import Stop, check_stop
from downslope.words import listed

OPTIONS = {
    "maxiter": "steps",
    "maxfun": "evaluations",
    "maxfev": "evaluations",
    "gtol": "gradient_absolute",
    "ftol": "value",
    "xtol": "step",
    "xrtol": "step",
}
"""SciPy's options that are criteria of `Stop`."""

RENAMED = {"maxcor": "memory"}
DIFFERENCES = ("2-point", "3-point", "cs")
UNUSED = ("iprint", "maxls", "norm", "eps", "finite_diff_rel_step", "c1", "c2", "workers", "return_all",
          "initial_trust_radius", "max_trust_radius", "eta")  # fmt: skip
"""Options about how SciPy's own code works, which have no bearing here."""


def stop_of(stop: Stop | None, tol: float | None, options: dict[str, Any]) -> tuple[Stop, dict[str, Any]]:
    """Return the criteria of SciPy's `tol` and `options`, and the options that are left for the method.

    SciPy's tolerances of the gradient are absolute, and are here taken so. Its `ftol` alone would call
    a run converged that only falls slowly; here it stops the run without calling it a success.

    Raises:
        UsageError: both `stop` and one of SciPy's; a `stop` that is none.

    """
    check_stop(stop)
    check_options(options)
    if unused := [name for name in options if name in UNUSED]:
        warnings.warn(f"without effect here, being about SciPy's own code: {listed(unused)}", stacklevel=3)
    criteria: dict[str, Any] = {} if tol is None else {"gradient": 0.0, "gradient_absolute": tol}
    rest: dict[str, Any] = {}
    for name, value in options.items():
        if name in OPTIONS:
            criteria[OPTIONS[name]] = value
            if name == "gtol":
                criteria["gradient"] = 0.0
        elif name == "disp":
            rest[name] = value
        elif name not in UNUSED:
            rest[RENAMED.get(name, name)] = value
    if not criteria:
        return (Stop() if stop is None else stop), rest
    if stop is not None:
        given = "tol" if tol is not None else "options"
        raise UsageError(f"stop and SciPy's {given} both say when to stop: expected one; use stop=Stop(...)")
    if "ftol" in options and criteria["value"] in (0, 0.0):
        del criteria["value"]
    return Stop(**criteria), rest


def check_options(options: Any) -> None:
    """Raise UsageError unless these are options by name."""
    if not isinstance(options, dict):
        raise UsageError(f"options is {a_type(options)}: expected a dict, as {{'memory': 20}}")


def hessian_of(hessian: Any, hess: Any) -> Any:
    """Return the Hessian; SciPy's names of differences are None, which takes differences of the gradient."""
    return derivative(
        "hessian", hessian, "hess", None if isinstance(hess, str) and hess in DIFFERENCES else hess
    )


def derivative(name: str, ours: Any, theirs_name: str, theirs: Any) -> Any:
    """Return a derivative that has a name here and one in SciPy.

    Raises:
        UsageError: both are given.

    """
    if theirs is None or theirs is False:
        return ours
    if ours is not None:
        raise UsageError(f"{name} and {theirs_name} are the same: expected one of them")
    return theirs


def check_unknown(unknown: dict[str, Any], known: tuple[str, ...]) -> None:
    """Raise TypeError for arguments that nobody knows."""
    for name in unknown:
        if name == "constraints":
            if unknown[name] is None or unknown[name] == ():
                continue
            raise UsageError("constraints are not for these methods: expected bounds, or SciPy's 'SLSQP'")
        raise TypeError(f"minimize has no argument {name!r}{closest(name, known)}")
