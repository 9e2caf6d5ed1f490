"""`downslope groups MODEL`: which parameter gets which rule, and why.

The model is `path.py:name`; a file that holds one task needs no name. The name stands for a model and one
batch of its inputs: a tuple `(model, *inputs)`, whose last part may be `{"kwargs": {...}}` (in JAX,
`(fun, params, *inputs)`); a task; a model that needs no inputs; or a function without arguments that returns
one of these.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from downslope.errors import UsageError, a_type, closest, one_line
from downslope.grouping.diff import changes
from downslope.grouping.partition import Partition
from downslope.grouping.table import table
from downslope.tasks.load import KNOWN, import_file, importing, where
from downslope.tasks.load import load as load_task
from downslope.tasks.task import Task

_JAX = {"flax", "equinox"}
"""Libraries whose models are trees for JAX."""


def run_groups(
    target: str,
    *,
    heads: str = "fused",
    as_json: bool = False,
    lint: bool = False,
    diff: Path | None = None,
    save: Path | None = None,
    every: bool = False,
    console: Console | None = None,
) -> int:
    """Print the partition of a model; return the exit code.

    Args:
        target: `path.py:name`, `path.py` where it holds one task, or a task that comes along.
        heads: "split" sees the projections of attention as one matrix a head.
        as_json: print JSON, as `--save` writes it.
        lint: return 1 where something is unused or unclear.
        diff: a saved partition; print what differs, and return 1 where the update would.
        save: write the partition to this file.
        every: a row for every kind of vector too, where the table gathers them.
        console: where to print.

    Raises:
        UsageError: a target or a file that cannot be read; inputs that the model rejects.

    """
    old = Partition.load(diff) if diff else None
    with contextlib.redirect_stdout(sys.stderr):  # what the user's model prints
        partition = partition_of(target, heads=heads)
    console = console or Console()
    if save:
        partition.save(save)
    if old is not None:
        return _print_diff(old, partition, as_json, console)
    if as_json:
        console.file.write(json.dumps(partition.to_dict(), indent=1) + "\n")
    else:
        console.print(table(partition, every=every))
    return int(lint and any(a.warning for a in partition))


def _print_diff(old: Partition, new: Partition, as_json: bool, console: Console) -> int:
    found = changes(old, new)
    if as_json:
        listed = [
            {"name": c.name, "changed": list(c.what), "matters": c.matters, "text": str(c)} for c in found
        ]
        console.file.write(json.dumps({"version": 1, "changes": listed}, indent=1) + "\n")
    elif not found:
        console.print("no difference", highlight=False)
    for c in () if as_json else found:
        console.print(str(c), style="bold" if c.matters else "dim", highlight=False, markup=False)
    return int(any(c.matters for c in found))


def partition_of(target: str, heads: str = "fused") -> Partition:
    """Return the partition of what `path.py:name` stands for."""
    model, args, kwargs = load(target)
    if not args and _roots(model) & _JAX:
        from downslope.grouping.jax import require_function

        require_function(model)
        raise UsageError(f"{target} gives {a_type(model)} alone: expected (fun, params, *inputs)")
    return _partition_function(model)(model, *args, heads=heads, **kwargs)


def load(target: str) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return a model, its inputs and its keyword inputs.

    Raises:
        UsageError: no such file or name, a file that does not import, or a value of another kind.

    """
    path, has_name, name = target.rpartition(".py:")
    if not has_name and not target.endswith(".py"):
        if target not in KNOWN:
            raise UsageError(
                f"{target!r}: expected path.py:name, where the name stands for (model, *inputs), or a task "
                f"({', '.join(KNOWN)}){closest(target, KNOWN)}"
            )
        return _of_task(load_task(target))
    file = Path(f"{path}.py" if has_name else target)
    if not file.is_file():
        raise UsageError(f"no file {str(file)!r}: expected an existing file, as in path.py:name")
    module = import_file(file)
    if not has_name:
        tasks = [value for value in vars(module).values() if isinstance(value, Task)]
        if len(tasks) != 1:
            raise UsageError(
                f"{file} holds {len(tasks)} tasks: name one, or a model or (model, *inputs), "
                f"as in {file}:name"
            )
        return _of_task(tasks[0])
    if not hasattr(module, name):
        known = [k for k in vars(module) if not k.startswith("_")]
        raise UsageError(f"{file} has no {name!r}{closest(name, known)}")
    found = getattr(module, name)
    if callable(found) and not isinstance(found, Task) and not _is_model(found):
        with importing(file, f"{name}() in"):
            found = found()
    if _is_model(found) and getattr(module, "batch", None) is not None:
        found = _with_batch(found, module.batch)
    return _parts(found, target)


def _with_batch(model: Any, batch: Any) -> tuple[Any, ...]:
    """Return a model with the `batch` that stands beside it in its file, as the model is called."""
    if isinstance(batch, dict):
        return model, {"kwargs": batch}
    return (model, *batch) if isinstance(batch, (tuple, list)) else (model, batch)


def _parts(found: Any, target: str) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    if isinstance(found, Task):
        return _of_task(found)
    model, *inputs = found if isinstance(found, (tuple, list)) and found else (found,)
    if not (_is_model(model) or (callable(model) and inputs)):
        raise UsageError(
            f"{target} gives {a_type(found)}: expected (model, *inputs), a model, a task, or a "
            "function without arguments that returns one of these"
        )
    if inputs and isinstance(inputs[-1], dict) and set(inputs[-1]) == {"kwargs"}:
        return model, tuple(inputs[:-1]), dict(inputs[-1]["kwargs"])
    return model, tuple(inputs), {}


def _of_task(task: Task) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    try:
        model, batch = task.build(0), next(iter(task.batches(0)), None)
        if batch is None:
            raise UsageError(f"batches(seed) of task {task.name!r} is empty: expected batches without end")
        first = batch[0] if isinstance(batch, (tuple, list)) else batch
        return model, tuple(task.example(batch)) if task.example else (first,), {}
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"task {task.name!r}: {one_line(error)}{where(error)}") from error


def _roots(value: Any) -> set[str]:
    return {kind.__module__.partition(".")[0] for kind in type(value).__mro__}


def _is_model(value: Any) -> bool:
    return (
        not isinstance(value, type)
        and bool(_roots(value) & {"torch", "keras", "tensorflow", *_JAX})
        and callable(value)
    )


def _partition_function(model: Any) -> Callable[..., Partition]:
    roots = _roots(model)
    if "keras" in roots:
        from downslope.grouping.keras import partition as keras_partition

        return keras_partition
    if "torch" in roots:
        from downslope.grouping.torch import partition as torch_partition

        return torch_partition
    if "tensorflow" in roots:
        from downslope.grouping.tensorflow import partition as tensorflow_partition

        return tensorflow_partition
    from downslope.grouping.jax import partition as jax_partition

    return jax_partition
