"""Where a framework may differ from the oracle by more than 8 ulp, and the written reason.

`tests/deviations/<framework>.txt` has one line a deviation: a pattern of case names, how many ulp
are allowed, and the reason. Lines that begin with # are comments. The last line that matches wins.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from tests.parity.cases import ULPS

FOLDER = Path(__file__).parent.parent / "deviations"


def allowed(framework: str, case: str) -> float:
    """Return how many ulp a case may be off on a framework."""
    ulps: float = ULPS
    for line in (FOLDER / f"{framework}.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern, number, reason = line.split(maxsplit=2)
            assert reason, f"{framework}: the deviation {pattern} needs a reason"
            if fnmatch(case, pattern):
                ulps = float(number)
    return ulps
