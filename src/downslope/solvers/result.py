"""What a run found and how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from downslope.solvers.status import Status

SCIPY = {"fun": "value", "jac": "gradient", "nit": "steps", "nfev": "evaluations", "njev": "evaluations"}
"""SciPy's names."""


@dataclass(frozen=True)
class Result:
    """What `minimize` returns; `result["x"]` and SciPy's `fun, jac, nit, nfev, njev` work too.

    Of a batch, x and gradient are (B, …), value, status, success, steps and evaluations arrays (B,),
    and message is a list.

    Attributes:
        x: the best point, nested as x0.
        value: f there.
        gradient: ∇f there, nested as x0.
        status: a `Status`.
        success: whether x is a first-order point at the precision asked for or reached.
        message: how the run ended, and what to try next.
        steps: steps taken.
        evaluations: points at which value and gradient were evaluated.
        gradient_size: ‖∇f‖∞, projected where there are bounds.
        tolerance: what `gradient_size` was to be within.
        seconds: of the clock.
        method: its name.
        provenance: where the gradient came from.
        history: a list of dicts, where it was asked for.
        error: the exception that ended the run, or None.
        state: what the method knows at the end; `minimize(f, result)` goes on from it.

    """

    x: Any
    value: Any
    gradient: Any
    status: Any
    success: Any
    message: Any
    steps: Any
    evaluations: Any
    gradient_size: Any
    tolerance: Any
    seconds: float
    method: str
    provenance: str
    history: list[dict[str, Any]] = field(default_factory=list, repr=False)
    error: BaseException | None = None
    state: Any = field(default=None, repr=False)

    def __getattr__(self, name: str) -> Any:
        """Answer to SciPy's names."""
        if name in SCIPY:
            return getattr(self, SCIPY[name])
        raise AttributeError(f"a Result has no {name!r}: it has {', '.join(self.keys())}")

    def __getitem__(self, name: str) -> Any:
        """Return an attribute, as of SciPy's results."""
        try:
            return getattr(self, name)
        except AttributeError as error:
            raise KeyError(name) from error

    def __contains__(self, name: object) -> bool:
        """Whether `result[name]` exists."""
        return isinstance(name, str) and (name in SCIPY or name in self.keys())

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.keys())

    def keys(self) -> list[str]:
        """Return the names of what there is."""
        return [f.name for f in fields(self)]

    def __str__(self) -> str:
        """Return a few lines for people."""
        if not isinstance(self.status, Status):
            return f"{int(self.success.sum())} of {len(self.message)} problems solved, {self.seconds:.3g} s"
        return "\n".join(
            (
                f"{self.message}",
                f"  value {self.value:.10g}, gradient {self.gradient_size:.2e}, "
                f"to be within {self.tolerance:.2e}",
                f"  {self.steps} steps, {self.evaluations} evaluations, {self.seconds:.3g} s, {self.method}",
                f"  gradient by {self.provenance}",
            )
        )
