"""Where gradients come from: automatic differentiation, differences, the complex step, foreign code.

`check.check_gradient` says whether a gradient is right, and `kinks.locate` where a function of one number
has a kink or a jump.

`load` takes a function from a shared library, `Program` asks any program on a pipe.

A framework is imported only by the file that bears its name, and only where the user's arrays come
from it.
"""

from downslope.gradients.foreign import ForeignFunction, include, load
from downslope.gradients.program import Program, ProgramError
from downslope.gradients.source import Counts, Objective, Provenance, Residuals, objective, residuals
from downslope.gradients.structure import Structure, structure_of

__all__ = [
    "Counts",
    "ForeignFunction",
    "Objective",
    "Program",
    "ProgramError",
    "Provenance",
    "Residuals",
    "Structure",
    "include",
    "load",
    "objective",
    "residuals",
    "structure_of",
]
