"""The methods by name, one file each; a file is imported when its method is asked for."""

from __future__ import annotations

from importlib import import_module

from downslope.errors import UsageError, a_type, closest
from downslope.solvers.method import Method

METHODS: dict[str, str] = {
    "newton": "newton",
    "newton-cg": "truncated",
    "trust-ncg": "truncated",
    "levenberg-marquardt": "levenberg",
    "gauss-newton": "levenberg",
    "pattern": "pattern",
    "l-bfgs": "lbfgs",
    "bfgs": "bfgs",
    "cg": "cg",
    "gd": "descent",
    "momentum": "descent",
    "nesterov": "nesterov",
    "sgd": "rules",
    "adagrad": "rules",
    "rmsprop": "rules",
    "adam": "rules",
    "muon": "rules",
}
"""Name → module `downslope.solvers.methods.MODULE`, whose `method(**options)` returns the method."""

SQUARES = ("levenberg-marquardt", "gauss-newton")
"""Methods that take residuals: those of `least_squares`."""

SCIPY = {
    "l-bfgs-b": "l-bfgs",
    "bfgs": "bfgs",
    "cg": "cg",
    "newton-cg": "newton-cg",
    "trust-ncg": "trust-ncg",
    "trust-krylov": "trust-ncg",
    "trust-exact": "newton",
    "dogleg": "newton",
    "trust-constr": "trust-ncg",
    "tnc": "l-bfgs",
    "slsqp": "l-bfgs",
    "nelder-mead": "pattern",
    "powell": "pattern",
    "cobyla": "pattern",
    "cobyqa": "pattern",
}
"""SciPy's names of what is nearest to a method here, where there are no constraints but bounds."""


def method_of(name: str | Method, /, **options: object) -> Method:
    """Return a method by its name, with its options; a `Method` is returned as it is.

    Raises:
        UsageError: no method of this name, or an option that it has not.

    """
    if not isinstance(name, str):
        if hasattr(name, "turn") and hasattr(name, "init"):
            return name
        raise UsageError(f"method is {a_type(name)}: expected a name or a Method")
    known = name.lower()
    known = known if known in METHODS else SCIPY.get(known, known)
    if known not in METHODS:
        raise UsageError(f"method = {name!r}: expected one of {', '.join(METHODS)}{closest(known, METHODS)}")
    module = import_module(f"downslope.solvers.methods.{METHODS[known]}")
    try:
        made: Method = module.method(known, **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error) and "multiple values" not in str(error):
            raise
        wrong = str(error).rpartition("argument ")[2]
        raise UsageError(f"method {name!r} has no option {wrong}") from None
    except UsageError:
        raise
    except ValueError as error:  # a rule's options know nothing of methods
        raise UsageError(f"method {name!r}: {error}") from None
    return made
