"""Downslope: gradient-based optimization, each rule written once for every framework.

Importing this package loads nothing, its names load NumPy and nothing heavier; `downslope.torch` and its
siblings load the framework whose name they bear.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from downslope.gradients.check import check_gradient, check_hvp, check_jacobian
    from downslope.rules import SGD, AdaGrad, Adam, Muon, RMSProp, orthogonalize
    from downslope.solvers import Result, Status, Stop, conjugate_gradient, least_squares, minimize

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "Muon",
    "RMSProp",
    "Result",
    "Status",
    "Stop",
    "__version__",
    "check_gradient",
    "check_hvp",
    "check_jacobian",
    "conjugate_gradient",
    "least_squares",
    "minimize",
    "orthogonalize",
]

_LATER = {
    **dict.fromkeys(("SGD", "AdaGrad", "Adam", "Muon", "RMSProp", "orthogonalize"), "downslope.rules"),
    "check_gradient": "downslope.gradients.check",
    "check_hvp": "downslope.gradients.check",
    "check_jacobian": "downslope.gradients.check",
    "Result": "downslope.solvers",
    "Status": "downslope.solvers",
    "Stop": "downslope.solvers",
    "conjugate_gradient": "downslope.solvers",
    "least_squares": "downslope.solvers",
    "minimize": "downslope.solvers",
}
"""Public names whose modules are imported when they are first asked for."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return __all__
