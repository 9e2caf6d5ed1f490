"""The 35 problems of Moré, Garbow and Hillstrom with their standard starts and known minima.

`mgh("beale")`, `mgh("watson", 12)`; the values are those of the paper, to the digits that it prints,
refined to all digits of float64 where the function itself gives them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from downslope.errors import UsageError, closest
from downslope.tasks.problems import mgh_any, mgh_fixed
from downslope.tasks.problems.problem import Function, Minimum, Problem, Vector

SOURCE = "Moré, Garbow and Hillstrom, Testing unconstrained optimization software, ACM TOMS 7 (1981) 17-41"


class Row(NamedTuple):
    """A problem: its residuals, its start, its usual size, what sizes it has, its minima by size."""

    residuals: Function
    start: Callable[[int], Any]
    n: int
    sizes: Callable[[int], bool]
    minima: Callable[[int], list[Minimum]]


def _fixed(residuals: Function, start: list[float], *minima: Minimum) -> Row:
    n = len(start)
    return Row(residuals, lambda _: np.array(start), n, lambda k: k == n, lambda _: list(minima))


def _any(
    residuals: Function,
    n: int,
    start: Callable[[int], Any],
    minima: Callable[[int], list[Minimum]],
    sizes: Callable[[int], bool] = lambda n: n >= 1,
) -> Row:
    return Row(residuals, start, n, sizes, minima)


def _by_size(values: dict[int, list[float]]) -> Callable[[int], list[Minimum]]:
    return lambda n: [Minimum(v) for v in values.get(n, [])]


def _zero(x: Callable[[int], Any] | None = None) -> Callable[[int], list[Minimum]]:
    return lambda n: [Minimum(0.0, None if x is None else tuple(map(float, x(n))))]


def _linear(value: Callable[[int, int], float]) -> Callable[[int], list[Minimum]]:
    return lambda n: [Minimum(value(n, 2 * n))]


def _with_m(residuals: Any) -> Function:
    return lambda x: residuals(x, 2 * x.shape[-1])


_count = mgh_any.count
_ones = np.ones

PROBLEMS: dict[str, Row] = {
    "rosenbrock": _fixed(mgh_fixed.rosenbrock, [-1.2, 1], Minimum(0, (1, 1))),
    "freudenstein-roth": _fixed(
        mgh_fixed.freudenstein_roth, [0.5, -2],
        Minimum(0, (5, 4)), Minimum(48.98425367924, (11.41277900, -0.8968052532)),
    ),
    "powell-badly-scaled": _fixed(
        mgh_fixed.powell_badly_scaled, [0, 1], Minimum(0, (1.098159327798e-5, 9.106146738066))
    ),
    "brown-badly-scaled": _fixed(mgh_fixed.brown_badly_scaled, [1, 1], Minimum(0, (1e6, 2e-6))),
    "beale": _fixed(mgh_fixed.beale, [1, 1], Minimum(0, (3, 0.5))),
    "jennrich-sampson": _fixed(
        mgh_fixed.jennrich_sampson, [0.3, 0.4], Minimum(124.3621823556, (0.2578252137, 0.2578252137))
    ),
    "helical-valley": _fixed(mgh_fixed.helical_valley, [-1, 0, 0], Minimum(0, (1, 0, 0))),
    "bard": _fixed(
        mgh_fixed.bard, [1, 1, 1],
        Minimum(8.214877306578e-3, (0.08241055767, 1.133036092, 2.343695179)),
        Minimum(17.42869333, None, "x₂, x₃ → -∞"),
    ),
    "gaussian": _fixed(
        mgh_fixed.gaussian, [0.4, 1, 0], Minimum(1.127932769619e-8, (0.3989561378, 1.0000190845, 0))
    ),
    "meyer": _fixed(
        mgh_fixed.meyer, [0.02, 4000, 250],
        Minimum(87.94585517020, (5.609636471e-3, 6181.346346, 345.2236346)),
    ),
    "gulf": _fixed(mgh_fixed.gulf, [5, 2.5, 0.15], Minimum(0, (50, 25, 1.5))),
    "box": _fixed(mgh_fixed.box, [0, 10, 20], Minimum(0, (1, 10, 1), "and wherever x₁ = x₂, x₃ = 0")),
    "powell-singular": _fixed(mgh_fixed.powell_singular, [3, -1, 0, 1], Minimum(0, (0, 0, 0, 0))),
    "wood": _fixed(mgh_fixed.wood, [-3, -1, -3, -1], Minimum(0, (1, 1, 1, 1))),
    "kowalik-osborne": _fixed(
        mgh_fixed.kowalik_osborne, [0.25, 0.39, 0.415, 0.39],
        Minimum(3.075056038492e-4, (0.1928069346, 0.1912823287, 0.1230565069, 0.1360623307)),
        Minimum(1.02734e-3, None, "x₁, -x₃, -x₄ → ∞"),
    ),
    "brown-dennis": _fixed(
        mgh_fixed.brown_dennis, [25, 5, -5, -1],
        Minimum(85822.20162636, (-11.59443990, 13.20363005, -0.4034394882, 0.2367787746)),
    ),
    "osborne-1": _fixed(mgh_fixed.osborne_1, [0.5, 1.5, -1, 0.01, 0.02], Minimum(5.464894697483e-5)),
    "biggs-exp6": _fixed(
        mgh_fixed.biggs_exp6, [1, 2, 1, 1, 1, 1],
        Minimum(0, (1, 10, 1, 5, 4, 3)), Minimum(5.655649925500e-3),
    ),
    "osborne-2": _fixed(
        mgh_fixed.osborne_2, [1.3, 0.65, 0.65, 0.7, 0.6, 3, 5, 7, 2, 4.5, 5.5], Minimum(4.013773629355e-2)
    ),
    "watson": _any(
        mgh_fixed.watson, 9, np.zeros,
        _by_size({6: [2.287670053552e-3], 9: [1.399760138090e-6], 12: [4.72238e-10], 20: [2.48631e-20]}),
        lambda n: 2 <= n <= 31,
    ),
    "extended-rosenbrock": _any(
        mgh_any.extended_rosenbrock, 10, lambda n: np.tile([-1.2, 1.0], n // 2), _zero(_ones),
        lambda n: n >= 2 and n % 2 == 0,
    ),
    "extended-powell-singular": _any(
        mgh_any.extended_powell_singular, 12, lambda n: np.tile([3.0, -1, 0, 1], n // 4), _zero(np.zeros),
        lambda n: n >= 4 and n % 4 == 0,
    ),
    "penalty-1": _any(
        mgh_any.penalty_1, 10, _count, _by_size({4: [2.249977500996e-5], 10: [7.087651467090e-5]})
    ),
    "penalty-2": _any(
        mgh_any.penalty_2, 10, lambda n: np.full(n, 0.5),
        _by_size({4: [9.376293003555e-6], 10: [2.936605374567e-4]}), lambda n: n >= 2,
    ),
    "variably-dimensioned": _any(
        mgh_any.variably_dimensioned, 10, lambda n: 1 - _count(n) / n, _zero(_ones)
    ),
    "trigonometric": _any(
        mgh_any.trigonometric, 10, lambda n: np.full(n, 1 / n),
        lambda n: [Minimum(0, (0.0,) * n), *([Minimum(2.795056121876e-5)] if n == 10 else [])],
    ),
    "brown-almost-linear": _any(
        mgh_any.brown_almost_linear, 10, lambda n: np.full(n, 0.5),
        lambda n: [Minimum(0, (1.0,) * n), Minimum(1, (*(0.0,) * (n - 1), n + 1.0))], lambda n: n >= 2,
    ),
    "discrete-boundary": _any(
        mgh_any.discrete_boundary, 10, lambda n: _count(n) / (n + 1) * (_count(n) / (n + 1) - 1), _zero()
    ),
    "discrete-integral": _any(
        mgh_any.discrete_integral, 10, lambda n: _count(n) / (n + 1) * (_count(n) / (n + 1) - 1), _zero()
    ),
    "broyden-tridiagonal": _any(mgh_any.broyden_tridiagonal, 10, lambda n: -_ones(n), _zero()),
    "broyden-banded": _any(mgh_any.broyden_banded, 10, lambda n: -_ones(n), _zero()),
    "linear-full-rank": _any(_with_m(mgh_any.linear_full_rank), 10, _ones, _linear(lambda n, m: m - n)),
    "linear-rank-1": _any(
        _with_m(mgh_any.linear_rank_1), 10, _ones, _linear(lambda n, m: m * (m - 1) / (2 * (2 * m + 1)))
    ),
    "linear-rank-1-zeros": _any(
        _with_m(mgh_any.linear_rank_1_zeros), 10, _ones,
        _linear(lambda n, m: (m * m + 3 * m - 6) / (2 * (2 * m - 3))), lambda n: n >= 3,
    ),
    "chebyquad": _any(
        mgh_any.chebyquad, 8, lambda n: _count(n) / (n + 1),
        lambda n: (
            _zero()(n) if n <= 7 or n == 9
            else _by_size({8: [3.516873725678e-3], 10: [4.772713636e-3, 6.503954800e-3]})(n)
        ),
    ),
}  # fmt: skip
"""The problems in the paper's order."""


def mgh(name: str, n: int | None = None) -> Problem:
    """Return a problem of the paper, of its usual size or of n unknowns.

    Raises:
        UsageError: no such problem, or not of that size.

    """
    if name not in PROBLEMS:
        raise UsageError(
            f"no problem 'mgh:{name}': expected one of {', '.join(PROBLEMS)}{closest(name, PROBLEMS)}"
        )
    row = PROBLEMS[name]
    size = row.n if n is None else n
    if not row.sizes(size):
        raise UsageError(f"problem 'mgh:{name}' does not come with {size} unknowns; it usually has {row.n}")
    start: Vector = np.asarray(row.start(size), np.float64)
    return Problem(
        f"mgh:{name}", start, residuals=row.residuals, minima=tuple(row.minima(size)), source=SOURCE
    )
