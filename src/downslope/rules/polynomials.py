r"""The polynomials of an orthogonalisation: what one step multiplies a matrix by.

A step takes X to :math:`q(R)\,X` with :math:`R = X X^T`, so a singular value s to
:math:`s\,q(s^2)`: an odd polynomial. Its degree is 5, 9 or 17, and q(R) takes 1, 2 or 3 products of
symmetric matrices: per product, a higher degree gains more. `W` below is
:math:`w_2 R^2 + w_1 R`, which keeps every number that is added up small, and with them rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from downslope.ops.protocol import Array, Ops
from downslope.rules.checks import require, require_choice


class Step(Protocol):
    """One step of a set."""

    @property
    def products(self) -> int:
        """How many products of m × m matrices `of` takes."""

    def of(self, x: Ops, R: Array, mirrored: bool = True) -> Array:
        """Return q(R); R is symmetric to the last digit where products may be `mirrored`."""

    def at(self, y: Any) -> Any:
        """Return q(y) of a number, or of numbers."""


class Degree5(NamedTuple):
    r"""q(R) = a I + b R + c R²."""

    a: float
    b: float
    c: float

    @property
    def products(self) -> int:
        return 1

    def of(self, x: Ops, R: Array, mirrored: bool = True) -> Array:
        addmm = x.addmm_symmetric if mirrored else x.addmm
        return x.add_identity(addmm(R, R, R, self.b, self.c), self.a)

    def at(self, y: Any) -> Any:
        return self.a + y * (self.b + self.c * y)


class Degree9(NamedTuple):
    r"""q(R) = a I + c W + W².

    Not every polynomial of degree 4 can be written like this, but those nearest to 1 nearly can, and this
    way rounds least: nothing is added up but two products.
    """

    w2: float
    w1: float
    c: float
    a: float

    @property
    def products(self) -> int:
        return 2

    def of(self, x: Ops, R: Array, mirrored: bool = True) -> Array:
        addmm = x.addmm_symmetric if mirrored else x.addmm
        W = addmm(R, R, R, self.w1, self.w2)
        return x.add_identity(addmm(W, W, W, self.c, 1.0), self.a)

    def at(self, y: Any) -> Any:
        W = y * (self.w1 + self.w2 * y)
        return self.a + W * (self.c + W)


class Degree17(NamedTuple):
    r"""q(R) = f₀ I + f₁ R + f₂ W + f₃ T + (d₁ R + d₂ W + T) (e W + T), T = W (c₁ R + c₂ W).

    Every polynomial of degree 8 whose leading coefficient is positive can be written like this, in
    three products instead of four: Sastre, 2018, "Efficient evaluation of matrix polynomials".
    """

    w2: float
    w1: float
    c2: float
    c1: float
    d2: float
    d1: float
    e: float
    f3: float
    f2: float
    f1: float
    f0: float

    @property
    def products(self) -> int:
        return 3

    def of(self, x: Ops, R: Array, mirrored: bool = True) -> Array:
        addmm, mm = (x.addmm_symmetric, x.mm_symmetric) if mirrored else (x.addmm, x.mm)
        W = addmm(R, R, R, self.w1, self.w2)
        T = mm(W, x.combine((self.c1, R), (self.c2, W)))
        left = x.combine((1.0, T), (self.d1, R), (self.d2, W))
        right = x.combine((1.0, T), (self.e, W))
        low = x.combine((self.f1, R), (self.f2, W), (self.f3, T))
        return x.add_identity(addmm(low, left, right, 1.0, 1.0), self.f0)

    def at(self, y: Any) -> Any:
        W = y * (self.w1 + self.w2 * y)
        T = W * (self.c1 * y + self.c2 * W)
        low = self.f0 + self.f1 * y + self.f2 * W + self.f3 * T
        return low + (self.d1 * y + self.d2 * W + T) * (self.e * W + T)


KELLER5 = Degree5(3.4445, -4.7750, 2.0315)
_LIMIT = Degree5(1.875, -1.25, 0.375)  # of steps near 1: value 1, first and second derivative 0 there

# Amsel, Persson, Musco & Gower, 2025 (arXiv:2505.16932), lower bound 1e-3, cushion 0.024.
_POLAR_EXPRESS = (
    Degree5(8.28721201814563, -23.595886519098837, 17.300387312530933),
    Degree5(4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    Degree5(3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    Degree5(3.3184196573706015, -2.488488024314874, 0.51004894012372),
    Degree5(2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    Degree5(1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    Degree5(1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
_SAFETY = 1.01  # room for rounding: each step acts on a matrix that may be 1 % larger than it should

# benchmarks/minimax.py: each step is the odd polynomial nearest to 1 on what the one before leaves.
_MINIMAX: tuple[Step, ...] = (
    Degree9(
        15.866125773759368,
        -18.604146047422354,
        7.719055865710241,
        14.924435932698117,
    ),
    Degree17(
        0.06186883232704532,
        -0.20831511148832108,
        167.8633420965759,
        -19.38241603723946,
        66.68669341965395,
        -2.5937476438964095,
        66.82464023989257,
        6.999823457987125,
        495.4457593042913,
        -3.5056096437617117,
        12.6596830597921,
    ),
    Degree17(
        0.088516718645621,
        -0.2789227442270132,
        65.54762625247616,
        -6.051302113120589,
        26.00812457254265,
        -1.3680457460646438,
        27.279510043092174,
        3.990970632281872,
        115.46562555502406,
        -1.723103961054848,
        5.974413768915107,
    ),
)


_MINIMAX_HALF: tuple[Step, ...] = (
    Degree5(
        7.435614739808427,
        -20.368667466445352,
        14.358453197041904,
    ),
    Degree9(
        0.8476220544866818,
        -3.428230471509714,
        5.042128348171196,
        6.652030716299773,
    ),
    Degree9(
        0.7417315432869156,
        -3.18737617410673,
        4.977691773992503,
        6.477129667535377,
    ),
    Degree5(
        2.461641813196106,
        -1.756780479148241,
        0.3796355255366095,
    ),
)


def _keller5(steps: int) -> list[Step]:
    return [KELLER5] * steps


def _polar_express(steps: int) -> list[Step]:
    rows = _POLAR_EXPRESS[:steps]
    safe = [Degree5(a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in rows]
    return [*safe, *[_LIMIT] * (steps - len(safe))]


def _minimax(steps: int) -> list[Step]:
    return [*_MINIMAX[:steps], *[_LIMIT] * (steps - len(_MINIMAX))]


def _minimax_half(steps: int) -> list[Step]:
    return [*_MINIMAX_HALF[:steps], *[_LIMIT] * (steps - len(_MINIMAX_HALF))]


MOST = 1000
"""Steps that a set is asked for at most: twenty bring any singular value to 1."""

_SETS: Mapping[str, tuple[Callable[[int], list[Step]], int]] = MappingProxyType(
    {"minimax": (_minimax, 3), "polar_express": (_polar_express, 5), "keller5": (_keller5, 5)}
)
_SETS_HALF: Mapping[str, tuple[Callable[[int], list[Step]], int]] = MappingProxyType(
    {**_SETS, "minimax": (_minimax_half, 4)}
)

COEFFICIENT_SETS: tuple[str, ...] = tuple(_SETS)
"""Names of the coefficient sets."""

_RANGES: Mapping[tuple[str, int], tuple[float, float]] = MappingProxyType(
    {
        ("keller5", 5): (0.4705, 1.2024),
        ("polar_express", 5): (0.846, 1.124),
        ("polar_express", 6): (0.994, 1.0015),
    }
)


def coefficients_of(name: str, steps: int | None = None, half: bool = False) -> list[Step]:
    """Return the steps of a set, as many as it is made for or as many as are asked for.

    With `half`, those for half precision: eight bits are too few for the high degrees of "minimax",
    which is four steps of degrees 5, 9, 9 and 5 there.

    Raises:
        ValueError: an unknown set, or a number of steps that is not a positive integer.

    >>> coefficients_of("keller5", 1)
    [Degree5(a=3.4445, b=-4.775, c=2.0315)]

    """
    require_choice("coefficients", name, _SETS)
    make, usual = (_SETS_HALF if half else _SETS)[name]
    if steps is None:
        return make(usual)
    whole = isinstance(steps, int) and not isinstance(steps, bool) and 1 <= steps <= MOST
    require("ns_steps", steps, whole, f"a whole number of at least 1, at most {MOST}")
    return make(steps)


def published_range(name: str, steps: int | None = None, half: bool = False) -> tuple[float, float]:
    """Return where the set leaves a singular value that was at least 1e-3 of the norm.

    The figures that were published, where they were; otherwise what the polynomials do to a fine
    grid over [1e-3, 1].
    """
    rows = coefficients_of(name, steps, half)
    if (name, len(rows)) in _RANGES:
        return _RANGES[name, len(rows)]
    values = [10 ** (-3 * i / 20000) for i in range(20001)]
    for row in rows:
        values = [v * row.at(v * v) for v in values]
    return min(values), max(values)
