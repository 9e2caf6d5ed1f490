"""Which operation was the first to make NaN or infinity of finite numbers: framework-free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FILLS = frozenset({
    "full", "full_like", "new_full", "fill", "fill_", "masked_fill", "masked_fill_", "scalar_tensor",
    "lift_fresh", "lift_fresh_copy", "where", "select_n", "literal",
})  # fmt: skip
"""Operations whose infinities were asked for, as those of an attention mask."""


@dataclass
class Operation:
    """One operation, or a value that came from outside (name "").

    Attributes:
        module: where it belongs.
        name: what it is called.
        sources: numbers of the operations that gave its inputs.
        peak: the largest absolute value that it gave; NaN if any was.

    """

    module: str
    name: str
    sources: tuple[int, ...]
    peak: float = 0.0

    @property
    def finite(self) -> bool:
        """Whether everything it gave is finite."""
        return math.isfinite(self.peak)


def maker(operations: Sequence[Operation], last: int) -> int | None:
    """Return the number of the first operation on the way to `last` that made NaN or infinity.

    None where the result is finite, or infinite because that was asked for; an operation without a
    name where it came from outside. An infinity that vanished again on the way is not followed.

    >>> exp = Operation("", "exp", (0,), math.inf)
    >>> less = Operation("", "sub", (1, 1), math.nan)
    >>> maker([Operation("", "", ()), exp, less], 2)
    1

    """
    if operations[last].finite:
        return None
    seen, waiting = {last}, [last]
    while waiting:
        for i in operations[waiting.pop()].sources:
            if i not in seen and not operations[i].finite:
                seen.add(i)
                waiting.append(i)
    return next((i for i in sorted(seen) if _makes(operations, i)), None)


def _makes(operations: Sequence[Operation], i: int) -> bool:
    op, before = operations[i], [operations[j] for j in operations[i].sources]
    if all(b.finite for b in before):
        return not (math.isinf(op.peak) and op.name in FILLS)
    if not math.isnan(op.peak) or any(math.isnan(b.peak) for b in before):
        return False
    # NaN of infinities: it was made here only if the infinities were asked for, as a mask's are
    return all(_asked_for(operations, j) for j in operations[i].sources if not operations[j].finite)


def _asked_for(operations: Sequence[Operation], i: int) -> bool:
    """Return whether all infinities that went into operation `i` were asked for."""
    seen, waiting = {i}, [i]
    while waiting:
        j = waiting.pop()
        before = [k for k in operations[j].sources if not operations[k].finite]
        if not before and operations[j].name and operations[j].name not in FILLS:
            return False
        waiting += [k for k in before if k not in seen]
        seen.update(before)
    return True
