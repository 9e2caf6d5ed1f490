"""From what is typed (`rosenbrock`, `path.py:f`, `./libf.so:f`, `--program …`) to a function and a start."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from downslope.errors import MissingPackageError, UsageError, closest, one_line
from downslope.gradients import Program, load, structure_of
from downslope.tasks.load import gradient_beside, import_file, where
from downslope.tasks.problems import Minimum, Problem, problem

LIBRARIES = (".so", ".dylib", ".dll")

MEANT_FOR = {
    "n": "a problem whose size is free",
    "framework": "path.py:f",
    "no_gradient": "path.py:f and libraries",
    "workers": "--program",
    "timeout": "--program",
}
"""What each option is for that not every function to minimize has a use for."""


@dataclass(frozen=True)
class Target:
    """A function to minimize, as it was typed.

    Args:
        name: what it is called on tables and pages.
        fun: the function.
        x0: where to start: an array, or what the file of the function holds.
        gradient: what `minimize` takes as `gradient`.
        minima: what is known of its minima.
        frame: (low, high) of each unknown between which it is drawn, or None.
        source: where it is from.
        about: what it is, in one line.
        vectorized: whether it takes many points as rows.
        close: ends what runs for it.

    """

    name: str
    fun: Callable[..., Any]
    x0: Any
    gradient: Any = None
    minima: tuple[Minimum, ...] = ()
    frame: tuple[tuple[float, float], tuple[float, float]] | None = None
    source: str = ""
    about: str = ""
    vectorized: bool = False
    close: Callable[[], None] = field(default=lambda: None)


def target(
    what: str | None,
    *,
    program: str | None,
    x0: str | None,
    n: int | None,
    framework: str,
    workers: int,
    timeout: float,
    differences: bool = False,
    typed: Collection[str] = (),
) -> Target:
    """Return what is to be minimized.

    Args:
        what: a problem's name, `path.py:f`, or `library.so:f`.
        program: the command of a program, in place of `what`.
        x0: numbers with commas between; needed where the function brings no start.
        n: how many unknowns of a problem whose size is free.
        framework: of x0's array, for functions in Python files: numpy, torch, jax or tensorflow.
        workers: processes of a program.
        timeout: seconds a program may take for an evaluation.
        differences: whether the gradient of a library or a file is to be left alone.
        typed: names of the options given; those that would have no effect are refused.

    Raises:
        UsageError: no such problem, file or symbol, no start, or an option that means nothing here.

    """
    start = None if x0 is None else vector(x0)
    if (what is None) == (program is None):
        raise UsageError("give a problem, a file or a library, or --program COMMAND: one of them")
    if program is not None:
        _check_meant(typed, "a program is run", "workers", "timeout")
        made = Program(program, workers=workers, timeout=timeout)
        words = shlex.split(program)
        name = Path(next((w for w in words[1:] if not w.startswith("-")), words[0])).name
        return Target(name, made, _needed(start, name), source=program, close=made.close)
    assert what is not None
    path, _, symbol = what.rpartition(":")
    if Path(path or what).suffix in LIBRARIES or ".so." in Path(path or what).name:
        if not path or not symbol:
            raise UsageError(f"{what}: name the function in the library, as in {path or what}:f")
        _check_meant(typed, f"{what} is in a library", "no_gradient")
        return Target(symbol, load(path, symbol, gradient=not differences), _needed(start, what), source=path)
    if what.endswith(".py") or path.endswith(".py"):
        file = Path(path if path.endswith(".py") else what)
        return _from_file(file, symbol, start, framework, differences, typed)
    found = problem(what, n=n)
    _check_meant(typed, f"{what} is a problem that comes along", "n")
    return _of_problem(found, start)


def _check_meant(typed: Collection[str], why: str, *used: str) -> None:
    """Raise `UsageError` where an option was typed that is for another kind of function."""
    for option, meant in MEANT_FOR.items():
        if option in typed and option not in used:
            raise UsageError(f"--{option.replace('_', '-')} is for {meant}, and {why}: leave it out")


def _of_problem(found: Problem, start: Any) -> Target:
    if start is not None and start.size != found.size:
        raise UsageError(f"--x0 has {start.size} numbers: problem {found.name!r} has {found.size} unknowns")
    return Target(
        found.name, found, found.start if start is None else start, minima=found.minima,
        frame=found.frame, source=found.source, about=found.about, vectorized=True,
    )  # fmt: skip


def _from_file(
    path: Path, name: str, start: Any, framework: str, differences: bool, typed: Collection[str]
) -> Target:
    if not path.is_file():
        raise UsageError(f"no file {str(path)!r}: expected an existing file, as in path.py:f")
    module = import_file(path)
    functions = {k: v for k, v in vars(module).items() if callable(v) and not k.startswith("_")}
    own = {k: v for k, v in functions.items() if getattr(v, "__module__", "") == module.__name__}
    if path.name == name or not name:
        if len(own) != 1:
            raise UsageError(
                f"{path} holds {len(own)} functions ({', '.join(own) or 'none'}): name one, as {path}:f"
            )
        name = next(iter(own))
    if name not in functions:
        raise UsageError(
            f"{path} has no function {name!r}; functions in it: {', '.join(own) or 'none'}"
            f"{closest(name, own)}"
        )
    if isinstance(functions[name], Problem):
        _check_meant(typed, f"{path}:{name} is a Problem")
        return _of_problem(functions[name], start)
    _check_meant(typed, f"{path}:{name} is a function", "framework", "no_gradient")
    if start is None and "framework" in typed:
        raise UsageError(f"--framework {framework} says what --x0 is made of: give --x0, or leave it out")
    x0 = getattr(module, "x0", None) if start is None else _as(framework, start)
    if x0 is None:
        raise UsageError(f"{path}:{name} has no start: give --x0, or let the file hold an array called x0")
    about = (functions[name].__doc__ or "").partition("\n")[0]
    gradient = _gradient(functions[name], x0, path)
    own_pair = gradient is not None or hasattr(functions[name], "value_and_gradient")
    if own_pair and differences:
        raise UsageError(f"--no-gradient: {name} returns its gradient with its value; leave it out")
    if not own_pair:
        numpy = isinstance(x0, (np.ndarray, list, tuple, float, int))
        beside = gradient_beside(module, name, functions[name], plain=numpy)
        if differences and beside is None:
            raise UsageError(f"--no-gradient: {path} holds no gradient of {name}; leave it out")
        gradient = None if differences else beside
    return Target(name, functions[name], x0, gradient=gradient, source=str(path), about=about)


def _gradient(fun: Callable[..., Any], x0: Any, path: Path) -> Any:
    """Return True for a function that returns (value, gradient): it is called once to see."""
    structure, start = structure_of(x0)  # a list is an array to `minimize`
    try:
        return True if isinstance(fun(structure.restore(start)), tuple) else None
    except Exception as error:
        raise UsageError(
            f"the function raises at its start: {one_line(error)}{where(error, path)}"
        ) from error


def _needed(start: Any, name: str) -> Any:
    if start is None:
        raise UsageError(f"{name} has no start: give --x0, numbers with commas between, as in --x0 1,2.5")
    return start


def _as(framework: str, start: Any) -> Any:
    if framework == "numpy":
        return start
    try:
        if framework == "torch":
            import torch

            return torch.from_numpy(start)
        if framework == "jax":
            import jax

            jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]
            return jax.numpy.asarray(start)
        if framework == "tensorflow":
            import tensorflow

            return tensorflow.constant(start)
    except ModuleNotFoundError as error:
        if error.name != framework:
            raise
        extra = "keras" if framework == "tensorflow" else framework
        raise MissingPackageError(framework, extra, f"--framework {framework}") from None
    raise UsageError(f"--framework {framework}: expected numpy, torch, jax or tensorflow")


def vector(text: str, option: str = "--x0") -> Any:
    """Return the numbers of a text, given with an option; `1*50` stands for fifty ones.

    >>> vector("1, -2.5e3"), vector("1,0*3")
    (array([ 1.0e+00, -2.5e+03]), array([1., 0., 0., 0.]))

    Raises:
        UsageError: something in it is no number.

    """
    found: list[float] = []
    for word in filter(None, re.split(r"[,\s\[\]]+", text)):
        number, _, times = word.partition("*")
        try:
            found += [float(number)] * (int(times) if times else 1)
        except ValueError:
            raise UsageError(
                f"{option} {text!r}: {word!r} is no number; expected numbers with commas between"
            ) from None
        except (MemoryError, OverflowError):
            raise UsageError(f"{option} {text!r}: {times} numbers do not fit into memory") from None
    if not found or not np.isfinite(found).all():
        raise UsageError(f"{option} {text!r}: expected finite numbers with commas between, as in 1,2.5")
    return np.array(found)
