"""Where gradients come from: automatic differentiation, differences, the complex step.

A framework is imported only by the file that bears its name, and only where the user's arrays come
from it.
"""

from downslope.gradients.source import Counts, Objective, Provenance, Residuals, objective, residuals
from downslope.gradients.structure import Structure, structure_of

__all__ = [
    "Counts",
    "Objective",
    "Provenance",
    "Residuals",
    "Structure",
    "objective",
    "residuals",
    "structure_of",
]
