"""Is this gradient right, and if not, where: directions over all entries, then a search for those behind.

- `api` takes the user's function; `adapter` and the files named after frameworks make it a `Problem`.
- `examine` runs a check: preflight, directions over all entries (`line`, `extrapolate`, `measure`, `noise`),
  the search for what is wrong (`locate`, `hints`), kinks at the point (`bends`); `verdict` judges it.
- `derived` checks Hessian-vector products by the same search, `jacobian` all outputs of a function.
- `result` is what comes back; `page` and `terminal` show it, `command` is `downslope check`, and
  `downslope.pytest_plugin` is pytest's fixture.
"""

from downslope.gradients.check.api import check_gradient
from downslope.gradients.check.derived import check_hvp
from downslope.gradients.check.jacobian import check_jacobian
from downslope.gradients.check.result import (
    Coverage,
    Finding,
    GradientError,
    GradientReport,
    Reason,
    Taylor,
    Verdict,
)

__all__ = [
    "Coverage",
    "Finding",
    "GradientError",
    "GradientReport",
    "Reason",
    "Taylor",
    "Verdict",
    "check_gradient",
    "check_hvp",
    "check_jacobian",
]
