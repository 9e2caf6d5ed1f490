"""`compare` and what it prepares: from a task's name and a few numbers to the result of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from downslope.compare.folder import RunFolder, plain_name
from downslope.compare.optimizers import DEFAULT, choose
from downslope.compare.plan import Plan, fresh_seeds
from downslope.compare.probe import Facts
from downslope.compare.session import Observer, Session, Silent, share
from downslope.errors import UsageError
from downslope.tasks import Task, load
from downslope.tasks.fingerprint import fingerprint
from downslope.tasks.load import under_import


def prepare(
    task: Task | str,
    *,
    optimizers: Sequence[str] = DEFAULT,
    trials: int = 8,
    seeds: int = 9,
    seed: int = 0,
    steps: int | None = None,
    schedule: str = "linear",
    warmup: int | None = None,
    goal: float | None = None,
    learning_rates: Mapping[str, tuple[float, float]] | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    out: str | Path | None = None,
    storage: str | None = None,
    command: str = "",
) -> Session:
    """Return a session that is ready to run.

    Nothing is written and no model is made yet; the arguments are those of `compare`.

    Raises:
        UsageError: an argument is wrong.

    """
    loaded = load(task) if isinstance(task, str) else _told_apart(task)
    candidates = choose(optimizers, loaded.learning_rates, learning_rates or {})
    length = loaded.steps if steps is None else steps
    plan = Plan(
        task=loaded.name,
        fingerprint=loaded.fingerprint,
        candidates=candidates,
        trials=trials,
        seeds=fresh_seeds(seeds, seed),
        tuning_seed=seed,
        steps=length,
        schedule=schedule,
        warmup=length // 10 if warmup is None else warmup,
        goal=loaded.goal if goal is None else goal,
    )
    if not isinstance(task, str) and jobs is None:
        jobs = 1
    jobs, threads = share(jobs, threads, plan.total_runs())
    if jobs > 1 and not isinstance(task, str):
        raise UsageError(
            f"jobs = {jobs}: worker processes load the task by name; pass 'file.py:name', or jobs=1"
        )
    folder = RunFolder(Path(out) if out is not None else default_folder(plan))
    spec = task if isinstance(task, str) else ""
    return Session(loaded, spec, plan, folder, jobs, threads, storage, command)


def _told_apart(task: Task) -> Task:
    """Return a task with a fingerprint of its functions, where nobody gave it one."""
    functions = (task.build, task.batches, task.loss, task.evaluate, task.example)
    return task if task.fingerprint else replace(task, fingerprint=fingerprint(functions))


def compare(task: Task | str, *, observer: Observer | None = None, **options: Any) -> dict[str, Any]:
    """Compare optimizers on a task with equal budgets, and return the result.

    Runs that ended are kept in the run folder; the same call again goes on where the last one
    ended, or returns the result where nothing is left to do.

    Args:
        task: a `Task`, or what `downslope.tasks.load` takes.
        observer: told as runs begin, progress and end.
        options: those of `prepare`: `optimizers`, names; `trials`, tuning trials for each; `seeds`,
            how many final runs for each; `seed`, of the tuning trials, the final runs have those
            that follow; `steps`, of one run, by default the task's; `schedule`, "linear" or
            "cosine"; `warmup` steps, by default a tenth; `goal`, in place of the task's;
            `learning_rates`, `{optimizer: (low, high)}`; `jobs` at a time with `threads` each;
            `out`, the run folder; `storage`, the URL of the database of trials.

    Returns:
        The result, as in `result.json` (`docs/compare.md` describes it).

    Raises:
        UsageError: an argument, the task or the run folder is wrong, or the call stands at the top level
            of the file that the task is loaded from.

    """
    if under_import:
        raise UsageError(
            f"{under_import[-1]} compares while it is imported for its task: put the call of compare under "
            "if __name__ == '__main__':"
        )
    session = prepare(task, **options)
    session.observer = observer or Silent()
    result = session.run()
    if session.interrupted:
        raise KeyboardInterrupt
    return result


def default_folder(plan: Plan) -> Path:
    """Return `runs/task-digest`: a folder of its own for every plan, its name not too long."""
    return Path("runs") / f"{plain_name(plan.task)}-{plan.digest()}"


def cost(session: Session, facts: Facts) -> float:
    """Return about how many seconds what is left to do takes, by the first look at its task."""
    plan = session.plan
    done = session.folder.read_records()
    runs = plan.total_runs() - len(done)
    finals = len(plan.candidates) * len(plan.seeds) - sum(r.kind == "final" for r in done)
    evaluations = (runs - finals) * len(plan.evaluations("tune")) + finals * len(plan.evaluations("final"))
    steps = runs * plan.steps
    return (steps * facts.step_seconds + evaluations * facts.evaluation_seconds) / session.jobs
