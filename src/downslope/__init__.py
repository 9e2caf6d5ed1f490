"""Downslope: gradient-based optimization, each rule written once for every framework.

Importing this package loads NumPy and nothing heavier; `downslope.torch` and its siblings load
the framework whose name they bear.
"""

from downslope.rules import SGD, AdaGrad, Adam, Muon, RMSProp, orthogonalize

__version__ = "0.1.0"

__all__ = ["SGD", "AdaGrad", "Adam", "Muon", "RMSProp", "__version__", "orthogonalize"]
