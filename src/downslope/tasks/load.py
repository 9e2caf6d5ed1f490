"""From what is typed, `digits` or `path.py:name`, to a `Task`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from downslope.errors import MissingPackageError, UsageError, closest, one_line
from downslope.tasks.task import Task

KNOWN = {
    "digits": "a residual ConvNet of 0.1 M parameters on scikit-learn's handwritten digits",
    "text": "a byte-level transformer of 1 M parameters on Python's documentation",
}


def load(spec: str) -> Task:
    """Return the task that `spec` names: one that comes along, or `path.py:name`.

    The `:name` may be left out where the file holds one task. The name may also stand for a
    function without arguments that returns the task.

    Raises:
        UsageError: there is no such task or file, the file does not import, or what it holds is
            no task.

    """
    path, has_name, name = spec.rpartition(".py:")
    if has_name or spec.endswith(".py"):
        return _from_file(Path(f"{path}.py" if has_name else spec), name if has_name else "")
    if spec in KNOWN:
        return _that_comes_along(spec)
    raise UsageError(
        f"unknown task {spec!r}: expected {', '.join(KNOWN)}, or a file of your own as path.py:name"
        f"{closest(spec, KNOWN)}"
    )


def _that_comes_along(name: str) -> Task:
    try:
        from downslope.tasks import torch as tasks
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "torch", "torch", f"task {name!r}") from None
    try:
        task: Task = getattr(tasks, name)()
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "scikit-learn", "compare", f"task {name!r}") from None
    return task


def _from_file(path: Path, name: str) -> Task:
    if not path.is_file():
        raise UsageError(f"no task file {str(path)!r}: expected an existing file, as in path.py:name")
    module = import_file(path)
    tasks = {key: value for key, value in vars(module).items() if isinstance(value, Task)}
    known = ", ".join(tasks) or "none"
    if not name:
        if len(tasks) != 1:
            raise UsageError(f"{path} holds {len(tasks)} tasks ({known}): name one, as in {path}:name")
        name = next(iter(tasks))
    if not hasattr(module, name):
        raise UsageError(f"{path} has no {name!r}; tasks in it: {known}{closest(name, tasks)}")
    found = getattr(module, name)
    if callable(found) and not isinstance(found, type):
        with importing(path, f"{name}() in"):
            found = found()
    if not isinstance(found, Task):
        raise UsageError(
            f"{path}:{name} is of type {type(found).__name__}: expected a downslope.tasks.Task, "
            "or a function without arguments that returns one"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return replace(found, fingerprint=f"{found.fingerprint}{digest}")


def import_file(path: Path) -> ModuleType:
    """Run the file as a module of its own, its folder importable as for `python path.py`."""
    path = path.resolve()
    module_name = f"downslope_task_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be imported as Python")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    under_import.append(path)
    try:
        with importing(path), _alone_on_the_command_line(path):
            spec.loader.exec_module(module)
    finally:
        under_import.pop()
    return module


under_import: list[Path] = []
"""Files that `import_file` is running now: what they call at their top level, every worker would call."""


@contextlib.contextmanager
def _alone_on_the_command_line(path: Path) -> Iterator[None]:
    """Hide the command's own options from a file that reads `sys.argv`; workers have none of them."""
    before = sys.argv
    sys.argv = [str(path)]
    try:
        yield
    finally:
        sys.argv = before


def gradient_beside(module: ModuleType, name: str, fun: Any, *, plain: bool) -> Callable[..., Any] | None:
    """Return the gradient of a file's function by the name that one would choose, or None.

    It is `fun.gradient`, or `NAME_gradient`, `NAME_grad` or `grad_NAME` in the file; where `plain`, also
    `gradient`, `grad` or `jac`.
    """
    names = [
        f"{name}_gradient",
        f"{name}_grad",
        f"grad_{name}",
        *(["gradient", "grad", "jac"] if plain else []),
    ]
    found = [getattr(fun, "gradient", None), *(getattr(module, n, None) for n in names)]
    return next((value for value in found if callable(value)), None)


@contextlib.contextmanager
def importing(path: Path, call: str = "") -> Iterator[None]:
    """Turn whatever the user's file raises into one line that names the line it came from.

    `call` is what of the file is run, as `make() in`; nothing: all of it.
    """
    try:
        # What the file prints must not mix with what the command prints.
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        hint = ""
        if call:
            raise UsageError(f"{call} {path} raised {one_line(error)}{where(error, path)}") from error
        if isinstance(error, ImportError) and "relative import" in str(error):
            hint = "; a file is run by itself, as by python path.py: import by whole names"
        elif isinstance(error, SystemExit):
            hint = "; it is run without arguments: put what needs them under if __name__ == '__main__'"
        raise UsageError(f"{path} does not import: {one_line(error)}{where(error, path)}{hint}") from error


_OWN = Path(__file__).resolve().parents[1]
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
"""Where code lies that the user did not write."""


def where(error: BaseException, path: Path | None = None) -> str:
    """Return ` (file.py, line 12)`: the last frame of an exception in the user's file, or in no library."""
    frames = traceback.extract_tb(error.__traceback__)
    if path is None:
        inside = [f for f in frames if not Path(f.filename).resolve().is_relative_to(_OWN)]
        inside = [f for f in inside if not f.filename.startswith(_LIBRARIES)]
    else:
        inside = [f for f in frames if Path(f.filename).resolve() == path.resolve()]
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}, line {error.lineno})" if "line" not in str(error) else ""
    return f" ({Path(inside[-1].filename).name}, line {inside[-1].lineno})" if inside else ""
