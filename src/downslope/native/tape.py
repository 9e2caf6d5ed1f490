"""The iterations of an orthogonalisation as a list of products, which `polar.h` takes one after the other.

`newton_schulz` is run once with a `Tape` for its operations, whose arrays are names. What it did is then
known: which results are needed by rows, which by columns, and how long each. They share memory.
"""

# ruff: noqa: D102  (the protocol says it)

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple, cast

from downslope.rules.orthogonalize import newton_schulz


class Kind(IntEnum):
    """What an instruction does, as `polar.h` numbers it."""

    GRAM = 0
    SYMMETRIC = 1
    WHOLE = 2
    APPLY = 3
    COMBINE = 4
    UNIT = 5


class Multiplier(IntEnum):
    """What the products are made of, as `polar.h` numbers it."""

    FLOAT32 = 0
    BFLOAT16 = 1
    TILES = 2  # of bfloat16, by matrix units


class Instruction(ctypes.Structure):
    """One product, as `polar.h` reads it: `alpha left right + beta added + identity I`."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("left", ctypes.c_int32),
        ("right", ctypes.c_int32),
        ("added", ctypes.c_int32),
        ("by_rows", ctypes.c_int32),
        ("by_columns", ctypes.c_int32),
        ("scaled", ctypes.c_int32),
        ("alpha", ctypes.c_float),
        ("beta", ctypes.c_float),
        ("identity", ctypes.c_float),
        ("gamma", ctypes.c_float),
    )


class Program(NamedTuple):
    """What is done with each matrix.

    Attributes:
        instructions: one after the other.
        squares: how many square matrices they need memory for.

    """

    instructions: ctypes.Array[Instruction]
    squares: int


@dataclass(eq=False)
class Square:
    """A square matrix that the tape knows by name.

    Attributes:
        symmetric: to the last digit; then by rows and by columns it is the same numbers.
        of: the matrix that this one is, but for what `unit` divided by.

    """

    symmetric: bool
    of: Square | None = None

    def __mul__(self, factor: Factor) -> Square:
        return Square(self.symmetric, self)


class Factor:
    """What `unit` finds when the program runs; a matrix multiplied by it can only be applied then."""


@dataclass(eq=False)
class Rectangle:
    """The matrix itself, whose `shape` and `dtype` the iterations ask for."""

    shape: tuple[int, int]
    dtype: str


@dataclass(eq=False)
class Row:
    """An instruction as it was written down: `out` is what it makes of its operands."""

    kind: Kind
    out: Square | None = None
    operands: tuple[Square | None, ...] = ()
    alpha: float = 1.0
    beta: float = 0.0
    gamma: float = 0.0
    identity: float = 0.0
    scaled: bool = False


class Tape:
    """The operations that `newton_schulz` is made of, written down in `rows`."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def transpose(self, a: Rectangle) -> Rectangle:
        return a  # which has the products of its shorter side, whichever way it lies

    def gram(self, a: Rectangle) -> Square:
        return self._made(True, Kind.GRAM)

    def unit(self, r: Square) -> tuple[Square, Factor]:
        self.rows.append(Row(Kind.UNIT, operands=(r,)))
        return r, Factor()

    def mm(self, a: Any, b: Any) -> Any:
        if isinstance(a, Square) and isinstance(b, Square):
            return self._made(False, Kind.WHOLE, a, b)
        square, rectangle = (a, b) if isinstance(a, Square) else (b, a)
        self.rows.append(Row(Kind.APPLY, operands=(square.of or square,), scaled=square.of is not None))
        return rectangle

    def mm_symmetric(self, a: Square, b: Square) -> Square:
        return self._made(True, Kind.SYMMETRIC, a, b)

    def addmm(self, c: Square, a: Square, b: Square, beta: float, alpha: float) -> Square:
        return self._made(False, Kind.WHOLE, a, b, c, alpha=alpha, beta=beta)

    def addmm_symmetric(self, c: Square, a: Square, b: Square, beta: float, alpha: float) -> Square:
        return self._made(True, Kind.SYMMETRIC, a, b, c, alpha=alpha, beta=beta)

    def congruent(self, r: Square, z: Square) -> Square:
        return self.mm_symmetric(z, self.mm(r, z))

    def combine(self, *terms: tuple[float, Square]) -> Square:
        (alpha, a), (beta, b), (gamma, c) = [*terms, (0.0, None)][:3]
        symmetric = all(square.symmetric for _, square in terms)
        return self._made(symmetric, Kind.COMBINE, a, b, c, alpha=alpha, beta=beta, gamma=gamma)

    def add_identity(self, a: Square, value: float) -> Square:
        assert self.rows[-1].out is a, "it goes with the product that was made last"
        self.rows[-1].identity = value
        return a

    def _made(
        self,
        symmetric: bool,
        kind: Kind,
        *operands: Square | None,
        alpha: float = 1.0,
        beta: float = 0.0,
        gamma: float = 0.0,
    ) -> Square:
        out = Square(symmetric)
        self.rows.append(Row(kind, out, operands, alpha, beta, gamma))
        return out


class Form(NamedTuple):
    """A square as it is stored, by rows or by columns, which may be the same of a symmetric one."""

    square: Square
    by_columns: bool


class Placed(NamedTuple):
    """An instruction with its three operands and its two results in the forms that they are stored in."""

    row: Row
    operands: list[Form | None]
    results: list[Form | None]


@lru_cache(maxsize=4096)
def program_of(
    rows: int, columns: int, coefficients: str, steps: int | None, multiplier: Multiplier
) -> Program:
    """Return what `newton_schulz` does with a matrix of a shape."""
    tape = Tape()
    half = multiplier != Multiplier.FLOAT32
    matrix = Rectangle((rows, columns), "bfloat16" if half else "float32")
    newton_schulz(cast(Any, tape), matrix, coefficients, steps)
    return _laid_out(_in_forms(tape.rows, rows > columns, alike=multiplier != Multiplier.TILES))


def _in_forms(rows: Sequence[Row], tall: bool, alike: bool) -> list[Placed]:
    """Return the instructions in the forms that later ones need, a combination once for each form.

    Where a matrix by rows is its transpose by columns, `alike`, a symmetric one is stored once.
    """
    needed: set[Form] = set()
    found: list[Placed] = []
    for row in reversed(rows):
        results: list[Form | None] = [None, None]
        if row.out is not None:
            forms = Form(row.out, False), Form(row.out, True)
            results = [form if form in needed else None for form in forms]
        if row.kind == Kind.COMBINE:
            made = [
                Placed(row, _forms(row, 3 * (form.by_columns,), alike), [form, None])
                for form in results
                if form
            ]
        else:  # of products the left operand is read by rows, but for a tall matrix, whose right it is
            made = [Placed(row, _forms(row, (row.kind == Kind.APPLY and tall, True, True), alike), results)]
        needed.update(form for one in made for form in one.operands if form)
        found += made
    return found[::-1]


def _forms(row: Row, by_columns: Sequence[bool], alike: bool) -> list[Form | None]:
    """Return the three operands of an instruction as they are read."""
    squares = (*row.operands, None, None, None)
    pairs = zip(squares, by_columns, strict=False)
    return [None if s is None else Form(s, columns and not (alike and s.symmetric)) for s, columns in pairs]


def _laid_out(placed: Sequence[Placed]) -> Program:
    """Give each form memory from where it is made to where it is read for the last time."""
    last = {form: i for i, one in enumerate(placed) for form in one.operands if form}
    places: dict[Form | None, int] = {None: -1}
    free: list[int] = []
    squares = 0
    instructions = (Instruction * len(placed))()
    for i, (row, operands, results) in enumerate(placed):
        for form in results:
            if form:
                if not free:
                    free, squares = [squares], squares + 1
                places[form] = free.pop()
        numbers = [places[form] for form in (*operands, *results)]
        instructions[i] = Instruction(
            row.kind, *numbers, row.scaled, row.alpha, row.beta, row.identity, row.gamma
        )
        free += [places[form] for form in set(operands) if form and last[form] == i]
    return Program(instructions, squares)
