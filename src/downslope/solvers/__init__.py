"""Solvers of smooth problems: `minimize`, its criteria `Stop`, its `Result` and `Status`.

A method is a direction and a search, or a state machine of its own (`method.py` says how to add one
in one file). It makes one evaluation a turn and keeps all it knows in arrays; what turns it is a
driver: a loop on the host, a jitted loop, or lanes in lock step (`drivers/`). What its numbers are,
Python's own or arrays of one number for each problem, is the space's business (`spaces/`).

| file | |
|---|---|
| `minimize.py` | the function, its arguments checked |
| `stop.py`, `status.py`, `result.py` | when a run ends, how it ended, what it found |
| `method.py`, `core.py` | what a method is; the part of a state that all have |
| `linesearch.py`, `searches/` | a direction and a search as a method |
| `methods/` | one method a file |
| `spaces/`, `drivers/` | where the lines run, and what turns them |
"""

from downslope.solvers.fitted import LeastSquaresResult
from downslope.solvers.least_squares import least_squares
from downslope.solvers.linear import LinearResult, conjugate_gradient
from downslope.solvers.minimize import minimize
from downslope.solvers.result import Result
from downslope.solvers.status import Status
from downslope.solvers.stop import Stop

__all__ = [
    "LeastSquaresResult",
    "LinearResult",
    "Result",
    "Status",
    "Stop",
    "conjugate_gradient",
    "least_squares",
    "minimize",
]
