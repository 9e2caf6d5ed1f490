"""Training tasks: what a comparison, a learning-rate search or a profile trains.

`load("digits")`, `load("text")`, or `load("path.py:name")` for a `Task` of the user's own.
"""

from downslope.tasks.load import KNOWN, load
from downslope.tasks.task import Task

__all__ = ["KNOWN", "Task", "load"]
