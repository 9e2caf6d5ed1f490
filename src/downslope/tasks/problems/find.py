"""From what is typed, `mgh:beale`, to a `Problem`."""

from __future__ import annotations

from dataclasses import replace

from downslope.errors import UsageError, closest
from downslope.tasks.problems import large, mgh, nist
from downslope.tasks.problems.classics import CLASSICS
from downslope.tasks.problems.problem import Problem

NAMES = (
    *CLASSICS,
    *(f"mgh:{name}" for name in mgh.PROBLEMS),
    *(f"nist:{name}" for name in nist.MODELS),
    *(f"large:{name}" for name in large.PROBLEMS),
)
"""Every problem that comes along."""

MOST = 10**12
"""Unknowns that a problem may have as far as numbers of arrays go."""


def problem(name: str, *, n: int | None = None) -> Problem:
    """Return a problem that comes along.

    Args:
        name: one of `NAMES`; a regression set may end in its start, `nist:misra1a:2`.
        n: how many unknowns, where that is free; by default the problem's usual size.

    Raises:
        UsageError: no such problem, or it does not come with that many unknowns.

    >>> problem("rosenbrock")(problem("rosenbrock").start).round(1)
    np.float64(24.2)
    >>> problem("mgh:watson", n=6).size
    6

    """
    if n is not None and n > MOST:
        raise UsageError(f"problem {name!r} does not come with {n} unknowns: expected at most {MOST:,}")
    family, _, rest = name.partition(":")
    if not rest:
        found = CLASSICS.get(name)
        if found is None:
            raise UsageError(
                f"no problem {name!r}: expected one of {', '.join(CLASSICS)}, or one of a "
                f"family, as mgh:beale, nist:misra1a, large:quartic{closest(name, NAMES)}"
            )
        return _sized(found, n)
    if family == "mgh":
        return mgh.mgh(rest, n)
    if family == "large":
        return large.large(rest, n)
    if family == "nist":
        stem, _, start = rest.partition(":")
        if start not in ("", "1", "2"):
            raise UsageError(f"start {start!r} in {name!r}: expected nist:{stem}:1 or nist:{stem}:2")
        found = nist.nist(stem, int(start or 1))
        return _sized(replace(found, name=name), n)
    raise UsageError(f"no problem {name!r}: families are mgh, nist and large{closest(name, NAMES)}")


def _sized(found: Problem, n: int | None) -> Problem:
    if n is not None and n != found.size:
        raise UsageError(f"problem {found.name!r} has {found.size} unknowns, not {n}")
    return found
