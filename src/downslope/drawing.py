"""What is taken of rich to draw in a terminal.

Importing rich draws numbers from Python's `random`; a seeded training that prints a partition is to go on as
one that does not. So it is imported here, and the generator gets its state back.
"""

from __future__ import annotations

import random

_state = random.getstate()
try:
    from rich import box
    from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
    from rich.padding import Padding
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Table
    from rich.text import Text
finally:
    random.setstate(_state)

__all__ = [
    "Console",
    "ConsoleOptions",
    "Group",
    "Padding",
    "Progress",
    "RenderResult",
    "RenderableType",
    "SpinnerColumn",
    "Table",
    "Text",
    "TextColumn",
    "TimeElapsedColumn",
    "box",
]
