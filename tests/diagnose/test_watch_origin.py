"""Which operation made NaN or infinity, on graphs written by hand."""

from __future__ import annotations

import math

import pytest

from downslope.diagnose.watch.origin import Operation, maker

INF, NAN = math.inf, math.nan
OUT = Operation("", "", (), 1.0)  # a value from outside


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ([OUT, Operation("", "exp", (0,), 3.0)], None),
        ([OUT, Operation("", "exp", (0,), INF), Operation("", "mul", (1, 0), INF)], 1),
        ([OUT, Operation("", "log", (0,), NAN), Operation("", "mul", (1, 0), NAN)], 1),
        ([Operation("", "", (), NAN), Operation("", "mul", (0,), NAN)], 0),
        # a mask's infinities were asked for: the softmax of a row of them is at fault
        ([OUT, Operation("", "full", (), INF), Operation("", "add", (0, 1), INF),
          Operation("", "_softmax", (2,), NAN)], 3),
        # an overflow was not: the sum is at fault, not the difference that meets it
        ([OUT, Operation("", "exp", (0,), INF), Operation("", "sub", (1, 1), NAN)], 1),
        # masked logits that are the result themselves are no fault at all
        ([OUT, Operation("", "masked_fill", (0,), INF)], None),
        # an infinity that vanished again is not on the way
        ([OUT, Operation("", "log", (0,), INF), Operation("", "exp", (1,), 1.0),
          Operation("", "div", (2, 0), NAN)], 3),
    ],
)  # fmt: skip
def test_the_first_on_the_way(operations: list[Operation], expected: int | None) -> None:
    assert maker(operations, len(operations) - 1) == expected
