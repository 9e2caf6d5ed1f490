"""`downslope check path.py:f`: is this gradient right, and if not, where.

The file says at which point, by names that one would choose anyway:

- `f` is a function. Its point is `f.x0`, or `f_x0`, `x0` or `x` in the file, or one variable for each of
  its arguments, of the same name; or `--x`. Its gradient is `f.gradient`, or `f_gradient`, `f_grad` or
  `grad_f` in the file, or plain `gradient` or `grad` where the arrays are NumPy's; or `--gradient NAME`.
- `f` is a module or a Keras model: `batch` (or `x0`, `x`) and `loss(model, batch)` in the file.
- `f` is a task, or a tuple (function or model, point or batch[, gradient or loss]).
"""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from downslope.errors import UsageError, a_type, closest, one_line
from downslope.gradients.check.api import check_gradient, framework_of
from downslope.gradients.check.result import GradientReport, Verdict
from downslope.gradients.check.terminal import show
from downslope.tasks.load import KNOWN, gradient_beside, import_file, where
from downslope.tasks.load import load as load_task
from downslope.tasks.task import Task


class Target(NamedTuple):
    """What is checked: the arguments of `check_gradient`."""

    fun: Any
    x: Any
    gradient: Any = None
    loss: Any = None


def run_check(
    target: str,
    *,
    point: str | None = None,
    gradient: str | None = None,
    directions: int = 2,
    evaluations: int = 3000,
    rtol: float = 1e-4,
    precision: str = "auto",
    seed: int = 0,
    report: Path | None = None,
    command: str = "",
    as_json: bool = False,
    console: Console | None = None,
) -> int:
    """Check what `path.py:name` stands for; print the report; return 0 for a pass, else 1.

    Raises:
        UsageError: a target that cannot be read, no point, no gradient, a page that cannot be written.

    """
    found, name = load(target, point=point, gradient=gradient, seed=seed)
    with contextlib.redirect_stdout(sys.stderr):  # what the user's function prints
        made = check_gradient(
            found.fun,
            found.x,
            gradient=found.gradient,
            loss=found.loss,
            directions=directions,
            evaluations=evaluations,
            rtol=rtol,
            precision=precision,
            seed=seed,
        )
    made = replace(made, function=name)
    console = console or Console()
    if as_json:
        said = {**made.to_dict(), "page": None if report is None else str(report)}
        console.file.write(json.dumps(said, indent=1) + "\n")
    else:
        show(made, console)
    if report is not None:
        from downslope.compare.folder import write_file
        from downslope.gradients.check.page import page_of

        write_file(report, page_of(made, name, command), "--report")
        if not as_json:
            console.print(f"Report: {report}", highlight=False, soft_wrap=True)
    return exit_code(made)


def exit_code(report: GradientReport) -> int:
    """Return 0 for a pass; 1 for a failure, and for what could not be judged."""
    return 0 if report.verdict is Verdict.PASS else 1


def load(target: str, *, point: str | None, gradient: str | None, seed: int) -> tuple[Target, str]:
    """Return what `path.py:name` stands for, and its name."""
    path, has_name, name = target.rpartition(".py:")
    if target in KNOWN:
        _check_meant(f"{target} is a task", point, gradient)
        return _of_task(load_task(target)), target
    if not has_name or not name:
        raise UsageError(
            f"{target!r}: expected path.py:name, the name of a function, a module or a task in the file, or "
            f"a task that comes along ({', '.join(KNOWN)})"
        )
    file = Path(f"{path}.py")
    if not file.is_file():
        raise UsageError(f"no file {str(file)!r}: expected an existing file, as in path.py:name")
    module = import_file(file)
    if not hasattr(module, name):
        known = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise UsageError(f"{file} has no {name!r}{closest(name, known)}")
    found = getattr(module, name)
    if isinstance(found, tuple):
        _check_meant(f"{target} is a tuple, which holds them itself", point, gradient)
        return _of_tuple(found, target), name
    if isinstance(found, Task):
        _check_meant(f"{target} is a task", point, gradient)
        return _of_task(found), name
    if not callable(found) or isinstance(found, type):
        raise UsageError(f"{target} is {a_type(found)}: expected a function, a module, a model or a task")
    if _is_model(found):
        _check_meant(f"{target} is a model, checked at its parameters on the file's batch", point, gradient)
        return Target(found, _batch(module, target), None, getattr(module, "loss", None)), name
    x = _parsed(point, module, gradient, seed) if point is not None else _point(module, name, found, target)
    return Target(found, x, _gradient(module, name, found, x, gradient, target)), name


def _check_meant(why: str, point: str | None, gradient: str | None) -> None:
    """Raise `UsageError` where an option was typed that is for functions."""
    for option, given in (("--x", point), ("--gradient", gradient)):
        if given is not None:
            raise UsageError(f"{option} {given} is for a function, and {why}: leave it out")


def _of_tuple(found: tuple[Any, ...], target: str) -> Target:
    if not 2 <= len(found) <= 3 or not callable(found[0]):
        raise UsageError(
            f"{target} is a tuple of {len(found)}: expected (function, x), (function, x, gradient) or "
            "(model, batch, loss)"
        )
    third = found[2] if len(found) == 3 else None
    return (
        Target(found[0], found[1], None, third) if _is_model(found[0]) else Target(found[0], found[1], third)
    )


def _of_task(task: Task) -> Target:
    try:
        batch = next(iter(task.batches(0)), None)
        if batch is None:
            raise UsageError(f"batches(seed) of task {task.name!r} is empty: expected batches without end")
        return Target(task.build(0), batch, None, task.loss)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"task {task.name!r}: {one_line(error)}{where(error)}") from error


def _is_model(found: Any) -> bool:
    roots = {kind.__module__.partition(".")[0] for kind in type(found).__mro__}
    return bool(roots & {"torch", "keras"}) and (
        hasattr(found, "parameters") or hasattr(found, "trainable_variables")
    )


def _batch(module: ModuleType, target: str) -> Any:
    for name in ("batch", "x0", "x"):
        if hasattr(module, name):
            return getattr(module, name)
    raise UsageError(
        f"{target} is a model: the file needs a `batch`, and `loss(model, batch)` where the model returns "
        "more than a number"
    )


def _point(module: ModuleType, name: str, fun: Any, target: str) -> Any:
    if hasattr(fun, "x0"):
        return fun.x0
    own = vars(module)
    arguments = _needed(fun)
    named_after = len(arguments) > 1 and all(a in own for a in arguments)
    for candidate in (f"{name}_x0", "x0"):
        if candidate in own and not named_after:
            return own[candidate]
    if arguments and all(a in own for a in arguments):
        return own[arguments[0]] if len(arguments) == 1 else tuple(own[a] for a in arguments)
    if "x" in own:
        return own["x"]
    shown = ", ".join(arguments) or "x0"
    raise UsageError(
        f"no point to check {target} at: put x0 = … into the file (or variables called {shown}), or say "
        "--x shape:3x4, --x '[1, 2, 3]' or --x point.npy"
    )


def _needed(fun: Any) -> list[str]:
    try:
        parameters = inspect.signature(fun).parameters.values()
    except (TypeError, ValueError):
        return []
    return [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]


def _gradient(module: ModuleType, name: str, fun: Any, x: Any, asked: str | None, target: str) -> Any:
    own = vars(module)
    if asked is not None:
        if asked in ("true", "True"):
            return True
        if asked not in own:
            raise UsageError(
                f"no {asked!r} in the file{closest(asked, own)}: expected the name of the gradient"
            )
        return own[asked]
    numpy = framework_of(fun, x) == "numpy"
    found = gradient_beside(module, name, fun, plain=numpy)
    if found is not None or not numpy:
        return found  # None: the framework's own
    raise UsageError(
        f"no gradient of {target}: put {name}_gradient (or gradient) into the file, say --gradient NAME, or "
        "--gradient true where the function returns (value, gradient)"
    )


def _parsed(text: str, module: ModuleType, gradient: str | None, seed: int) -> Any:
    """Return the point that `--x` says: a shape to be drawn, a file, or JSON."""
    if text.startswith("shape:"):
        try:
            shape = tuple(int(n) for n in text.removeprefix("shape:").replace("x", ",").split(",") if n)
        except ValueError:
            raise UsageError(f"--x {text}: expected shape:3x4") from None
        if any(n < 1 for n in shape):
            raise UsageError(f"--x {text}: expected lengths of at least 1, as in shape:3x4")
        made = np.random.default_rng(seed).normal(size=shape)
    elif text.endswith(".npy"):
        try:
            made = np.load(text)
        except (OSError, ValueError) as error:
            raise UsageError(f"--x {text}: {one_line(error)}") from None
    else:
        try:
            made = np.asarray(json.loads(text), dtype=np.float64)
        except (ValueError, TypeError):
            raise UsageError(
                f"--x {text}: expected shape:3x4, a .npy file, or numbers as [1, 2, 3]"
            ) from None
    return _in_framework(made, module) if gradient is None else made


def _in_framework(made: Any, module: ModuleType) -> Any:
    """Return the point in the framework that the file imports; NumPy's own where it is alone."""
    kinds = {
        str(getattr(v, "__name__", "")).partition(".")[0]
        for v in vars(module).values()
        if isinstance(v, ModuleType)
    }
    if "torch" in kinds:
        import torch

        return torch.as_tensor(made)
    if "jax" in kinds:
        import jax

        with jax.enable_x64(True):
            return jax.numpy.asarray(made)
    if "tensorflow" in kinds:
        import tensorflow as tf

        return tf.constant(made)
    return made
