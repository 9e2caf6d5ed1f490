"""What can be typed: the commands and their options.

A command's function holds its options and hands them on; what it does is in the package it is
about, which is imported when the command runs, so that `--help` is quick.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from downslope.errors import UsageError


class _Commands(TyperGroup):
    """The commands; typer itself would end an interrupted one without a word."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _interrupts_told():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _interrupts_told():
            return super().invoke(ctx)


@contextlib.contextmanager
def _interrupts_told() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        raise typer.Exit(130) from None


app = typer.Typer(
    name="downslope",
    cls=_Commands,
    help="Gradient-based optimization: the right rule for every parameter, chosen with evidence.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from downslope import __version__

        typer.echo(f"downslope {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _was_typed(context: typer.Context, option: str) -> bool:
    """Whether an option was given, and has not its default."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _typed(context: typer.Context) -> list[str]:
    """Return the names of the options that were given."""
    return [option for option in context.params if _was_typed(context, option)]


@app.command()
def compare(
    context: typer.Context,
    task: Annotated[
        str, typer.Argument(help="digits, text, or a file of your own: path.py:name.", metavar="TASK")
    ],
    optimizers: Annotated[
        str,
        typer.Option(help="Names with commas between: sgd, adamw, muon, adam, rmsprop, adagrad."),
    ] = "sgd,adamw,muon",
    trials: Annotated[int, typer.Option(help="Tuning trials of each optimizer.")] = 8,
    seeds: Annotated[
        int, typer.Option(help="Final runs of each optimizer's best, each on a fresh seed.")
    ] = 9,
    steps: Annotated[int | None, typer.Option(help="Training steps of a run. Default: the task's.")] = None,
    schedule: Annotated[
        str, typer.Option(help="How the learning rate falls to zero after the warm-up: linear or cosine.")
    ] = "linear",
    warmup: Annotated[
        int | None, typer.Option(help="Steps of warm-up. Default: a tenth of the steps.")
    ] = None,
    goal: Annotated[
        float | None, typer.Option(help="The loss to reach. Default: the task's, or one the runs suggest.")
    ] = None,
    lr: Annotated[
        list[str] | None,
        typer.Option(help="Search another range of learning rates: adamw=1e-4:1e-1. May be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the tuning trials; final runs have the next ones.")] = 0,
    jobs: Annotated[int | None, typer.Option(help="Runs at a time. Default: the cores, at most 4.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of each run. Default: the cores, shared out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/TASK-digest.")] = None,
    storage: Annotated[
        str | None, typer.Option(help="URL of the database of trials. Default: SQLite in the run folder.")
    ] = None,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity",
            help="A grid instead: learning rates × seeds of each optimizer, as a heat map. For a problem of "
            "`downslope minimize`: how far its start is moved × directions.",
        ),
    ] = False,
    across: Annotated[
        str, typer.Option(help="With --sensitivity, what the columns are: seed or decay.")
    ] = "seed",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and its cost, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """Which optimizer, and which learning rate, for a task: with equal budgets and evidence.

    Every optimizer gets the same number of tuning trials from its space of learning rates and
    weight decays; its best is run again on fresh seeds, and those runs are judged. Ctrl-C keeps
    what is done, and the same command goes on from there.
    """
    from downslope.compare.command import ranges, run_compare
    from downslope.compare.terminal import command_line

    if _was_typed(context, "across") and not sensitivity:
        raise UsageError("--across says what the columns of a grid are: give --sensitivity with it")
    names = [name.strip() for name in optimizers.split(",") if name.strip()]
    typed = [o for o in ("optimizers", "seeds") if _was_typed(context, o)]
    if sensitivity:
        from downslope.compare.sensitivity_command import run_sensitivity

        return run_sensitivity(
            task,
            across=across,
            seeds=seeds if "seeds" in typed else 5,
            optimizers=names if "optimizers" in typed else None,
            seed=seed,
            steps=steps,
            schedule=schedule,
            warmup=warmup,
            learning_rates=ranges(lr or []),
            jobs=jobs,
            threads=threads,
            out=out,
            command=command_line(context.find_root().obj),
            as_json=as_json,
            dry_run=dry_run,
            typed=_typed(context),
        )
    return run_compare(
        task,
        optimizers=names,
        trials=trials,
        seeds=seeds,
        seed=seed,
        steps=steps,
        schedule=schedule,
        warmup=warmup,
        goal=goal,
        learning_rates=ranges(lr or []),
        jobs=jobs,
        threads=threads,
        out=out,
        storage=storage,
        command=command_line(context.find_root().obj),
        as_json=as_json,
        dry_run=dry_run,
    )


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders of earlier comparisons or races.", metavar="RUN…")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page to write. Default: report.html in the run folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print where the page is as JSON.")] = False,
) -> int:
    """Write the HTML page of one run, or one page of several."""
    races = [(folder / "race.json").is_file() for folder in runs]
    if any(races) and not all(races):
        raise UsageError("comparisons and races do not go on one page: give runs of one kind")
    if all(races):
        from downslope.solvers.race.command import run_report as run_race_report

        return run_race_report(runs, out, as_json=as_json)
    from downslope.compare.command import run_report

    return run_report(runs, out, as_json=as_json)


@app.command()
def groups(
    model: Annotated[
        str,
        typer.Argument(
            help="path.py:name, the name of (model, *inputs) or of a task; or a task that comes along.",
            metavar="MODEL",
        ),
    ],
    heads: Annotated[
        str, typer.Option(help="fused, or split: each head of attention a matrix of its own.")
    ] = "fused",
    every: Annotated[bool, typer.Option("--every", help="A row for each kind of gain and bias too.")] = False,
    lint: Annotated[
        bool, typer.Option("--lint", help="Exit with 1 where a parameter is unused or unclear.")
    ] = False,
    save: Annotated[Path | None, typer.Option(help="Write the partition to this file.")] = None,
    diff: Annotated[
        Path | None,
        typer.Option(help="Compare with a saved partition; exit with 1 where the update would differ."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the partition as JSON.")] = False,
) -> int:
    """Which parameter gets which rule, and why: from one forward pass on one batch."""
    from downslope.grouping.command import run_groups

    if every and (as_json or diff):
        other = "json" if as_json else "diff"
        raise UsageError(f"--every is of the table, which --{other} does not print: leave it out")
    if lint and diff:
        raise UsageError("--lint beside --diff, which tells the differences alone: give one at a time")
    return run_groups(model, heads=heads, as_json=as_json, lint=lint, diff=diff, save=save, every=every)


@app.command()
def profile(
    context: typer.Context,
    task: Annotated[
        str, typer.Argument(help="digits, text, or a file of your own: path.py:name.", metavar="TASK")
    ],
    optimizer: Annotated[str, typer.Option(help="One of sgd, adamw, muon, adam, rmsprop, adagrad.")] = "muon",
    versus: Annotated[
        str | None, typer.Option("--vs", help="Another optimizer, measured in turns with the first.")
    ] = None,
    what_if: Annotated[
        str,
        typer.Option(
            help="Changes to try: quick (all but compile), all, none, or some of dtype (of Newton-Schulz), "
            "steps (fewer of them), stacks (larger ones), replicas (processes that share nothing), "
            "compile (of the model; up to a minute)."
        ),
    ] = "quick",
    lr: Annotated[float | None, typer.Option(help="Learning rate. Default: the middle of its range.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads. Default: the cores.")] = None,
    seconds: Annotated[float, typer.Option(help="How long the timed windows are, together.")] = 4.0,
    out: Annotated[
        Path | None, typer.Option(help="The page. Default: runs/profile-TASK-OPTIMIZER.html.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write a Chrome trace of the steps, under 1 MB, to this file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the profile as JSON.")] = False,
) -> int:
    """Where a training step's time and memory go, and what would change it."""
    from downslope.compare.terminal import command_line
    from downslope.diagnose.profile_command import run_profile

    return run_profile(
        task,
        optimizer=optimizer,
        versus=versus,
        what_ifs=what_if,
        lr=lr,
        threads=threads,
        seconds=seconds,
        out=out,
        trace=trace,
        command=command_line(context.find_root().obj),
        as_json=as_json,
    )


@app.command()
def lr(
    context: typer.Context,
    task: Annotated[
        str, typer.Argument(help="digits, text, or a file of your own: path.py:name.", metavar="TASK")
    ],
    optimizers: Annotated[
        str,
        typer.Option(
            "--optimizer",
            "--optimizers",
            help="One or more, with commas between, of sgd, adamw, muon, adam, rmsprop, adagrad.",
        ),
    ] = "muon",
    steps: Annotated[
        int | None, typer.Option(help="Length of the training the rate is for. Default: the task's.")
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="Seeds of the runs of a quarter of the length; shorter ones take the first.")
    ] = 2,
    whole_seeds: Annotated[
        int, typer.Option(help="Seeds of the whole trainings: more where chance decides between rates.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="The first of them.")] = 0,
    schedule: Annotated[str, typer.Option(help="Of the training: linear, cosine or constant.")] = "linear",
    warmup: Annotated[float, typer.Option(help="Share of the training in which the rate grows.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of the runs.")] = 0.0,
    longest: Annotated[
        int, typer.Option(help="Steps of the longest run; never more than the training.")
    ] = 2000,
    widths: Annotated[
        str | None, typer.Option(help="Check whether the rate moves with the width: 64,128,256.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads. Default: the cores.")] = None,
    out: Annotated[Path | None, typer.Option(help="The page. Default: runs/lr-TASK.html.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it costs, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """A learning rate for a task, with a safe range and how sure it is.

    A sweep says where to look, runs with the real schedule decide. Exits with 1 where no rate
    trained the model.
    """
    from downslope.compare.terminal import command_line
    from downslope.diagnose.rates_command import run_lr
    from downslope.errors import whole_numbers

    return run_lr(
        task,
        optimizers=[name.strip() for name in optimizers.split(",") if name.strip()],
        steps=steps,
        seeds=seeds,
        whole_seeds=whole_seeds,
        seed=seed,
        schedule=schedule,
        warmup=warmup,
        weight_decay=weight_decay,
        longest=longest,
        widths=[] if widths is None else whole_numbers("--widths", widths),
        threads=threads,
        out=out,
        command=command_line(context.find_root().obj),
        as_json=as_json,
        dry_run=dry_run,
    )


@app.command()
def minimize(
    context: typer.Context,
    problem: Annotated[
        str | None,
        typer.Argument(
            help="A problem that comes along (rosenbrock, mgh:beale, nist:enso), path.py:f, or ./libf.so:f.",
            metavar="PROBLEM",
        ),
    ] = None,
    program: Annotated[
        str | None,
        typer.Option(help="A program that answers points on a pipe, in place of PROBLEM: 'elixir f.exs'."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="How to solve it: l-bfgs, bfgs, cg, gd, momentum, nesterov, newton, newton-cg, trust-ncg, "
            "pattern, sgd, adagrad, rmsprop, adam, muon; sums of squares: levenberg-marquardt, gauss-newton."
        ),
    ] = "l-bfgs",
    race: Annotated[
        str | None, typer.Option(help="Run several methods, names with commas between, and write a page.")
    ] = None,
    x0: Annotated[str | None, typer.Option(help="Where to start: 1,2.5. 1*50 stands for fifty ones.")] = None,
    n: Annotated[int | None, typer.Option(help="Unknowns of a problem whose size is free.")] = None,
    bounds: Annotated[
        str | None, typer.Option(help="low:high of each unknown: 0:1,:5,-1: (nothing: no bound).")
    ] = None,
    gradient: Annotated[
        float | None, typer.Option(help="Stop at this gradient, relative to the first. Default: 1e-6.")
    ] = None,
    target: Annotated[float | None, typer.Option(help="Stop at this value.")] = None,
    steps: Annotated[int | None, typer.Option(help="Stop after so many steps.")] = None,
    evaluations: Annotated[int | None, typer.Option(help="Stop after so many evaluations.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Stop after so many seconds.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of a method: adam.lr=0.1. May be repeated.")
    ] = None,
    framework: Annotated[
        str, typer.Option(help="What --x0 is made of, for path.py:f: numpy, torch, jax or tensorflow.")
    ] = "numpy",
    no_gradient: Annotated[
        bool,
        typer.Option(
            "--no-gradient",
            help="Leave the gradient of path.py:f or of a library alone; for C functions without one.",
        ),
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes of --program.")] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds --program may take for an evaluation.")] = 60.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the page, or an .html file. Default: runs/race-PROBLEM.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """Minimize a smooth function, or race methods against each other on it.

    The function may be one of the problems that come along, a function in a Python file (NumPy,
    PyTorch, JAX, TensorFlow), in a shared library, or any program. Exit code 1: no method converged.
    """
    from downslope.compare.terminal import command_line
    from downslope.solvers.race.command import run_minimize

    if race is not None and _was_typed(context, "method"):
        raise UsageError(f"--method {method} beside --race: name it among the methods of --race")
    stop = {"gradient": gradient, "target": target, "steps": steps, "evaluations": evaluations}
    return run_minimize(
        problem,
        program=program,
        method=method,
        racers=race,
        x0=x0,
        n=n,
        bounds=bounds,
        stop={**stop, "seconds": seconds},
        options=option or [],
        framework=framework,
        workers=workers,
        timeout=timeout,
        differences=no_gradient,
        typed=_typed(context),
        out=out,
        command=command_line(context.find_root().obj),
        as_json=as_json,
    )


@app.command()
def check(
    context: typer.Context,
    function: Annotated[
        str,
        typer.Argument(
            help="path.py:name, a function with x0 and its gradient beside it, a module with batch and loss, "
            "or a task.",
            metavar="FUNCTION",
        ),
    ],
    x: Annotated[
        str | None,
        typer.Option("--x", help="The point: shape:3x4 (drawn), '[1, 2, 3]', or a .npy file. Default: x0."),
    ] = None,
    gradient: Annotated[
        str | None,
        typer.Option(help="Name of the gradient in the file; true: the function returns (value, gradient)."),
    ] = None,
    directions: Annotated[int, typer.Option(help="Random directions over all entries.")] = 2,
    evaluations: Annotated[int, typer.Option(help="Calls of function and gradient at most.")] = 3000,
    rtol: Annotated[float, typer.Option(help="Relative differences that are let pass.")] = 1e-4,
    precision: Annotated[
        str, typer.Option(help="auto: in float64 where the function allows it; own; float64.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Of the directions, and of --x shape:….")] = 0,
    page: Annotated[
        Path | None, typer.Option("--report", help="Write an HTML page with Taylor slopes to this file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> int:
    """Is this gradient right, and if not, where: each wrong entry by name, with a hint.

    Exits with 0 where the gradient is right, with 1 where it is wrong or could not be judged (a kink,
    round-off, a random function).
    """
    from downslope.compare.terminal import command_line
    from downslope.gradients.check.command import run_check

    return run_check(
        function,
        point=x,
        gradient=gradient,
        directions=directions,
        evaluations=evaluations,
        rtol=rtol,
        precision=precision,
        seed=seed,
        report=page,
        command=command_line(context.find_root().obj),
        as_json=as_json,
    )
