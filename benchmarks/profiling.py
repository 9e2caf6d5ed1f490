"""What a profile costs and how far its parts are from the whole, against torch.profiler on the same steps.

    python benchmarks/profiling.py [--task digits] [--optimizer muon] [--repeats 9] [--steps 10]

Candidates take turns: plain steps, steps with every part marked, steps with every layer marked, and
steps under torch.profiler. The ratio is the median over rounds; below it, how far the parts of a profile
add up to the step, and how large the traces are.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import torch
from timing import dump, interleaved, medians, ratio, show

from downslope.compare.optimizers import CANDIDATES
from downslope.diagnose.torch.clock import clock_of
from downslope.diagnose.torch.layers import Layers
from downslope.diagnose.torch.profile import profile_subjects
from downslope.diagnose.torch.subject import Subject, of_task
from downslope.diagnose.torch.tape import Tape
from downslope.tasks import load
from downslope.torch.regions import heard_by


def marked(subject: Subject, steps: int) -> None:
    tape = Tape(clock_of(subject.device))
    with heard_by(tape.part):
        for _ in range(steps):
            with tape.part("step"):
                subject.step(tape.part)


def layered(subject: Subject, steps: int) -> None:
    for _ in range(steps):
        layers = Layers(clock_of(subject.device), subject.model)
        with layers.watched():
            loss = subject.loss(subject.model, next(subject.batches))
        layers.watch_backward(loss)
        subject.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        subject.optimizer.step()


def plain(subject: Subject, steps: int) -> None:
    for _ in range(steps):
        subject.step()


def torch_profiled(subject: Subject, steps: int) -> torch.profiler.profile:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        plain(subject, steps)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="digits")
    parser.add_argument("--optimizer", default="muon")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json")
    args = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    subject, steps = of_task(load(args.task), CANDIDATES[args.optimizer]), args.steps
    seconds = interleaved(
        {
            "plain": lambda: plain(subject, steps),
            "parts": lambda: marked(subject, steps),
            "layers": lambda: layered(subject, steps),
            "torch.profiler": lambda: torch_profiled(subject, steps),
        },
        args.repeats,
    )
    middle = medians(seconds)
    overhead = {name: 1 / ratio(seconds, name, "plain") - 1 for name in middle}
    rows = [[name, f"{1e3 * middle[name] / steps:.2f}", f"{overhead[name]:+.1%}"] for name in middle]
    show(f"{args.task}, {args.optimizer}: a step", ["measured", "ms", "more than plain"], rows)
    found = profile_subjects([subject])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        torch_profiled(subject, found.steps).export_chrome_trace(str(file))
        theirs = file.stat().st_size
    print(f"the parts add up to {found.closure:.1%} of a step")
    print(f"trace of {found.steps} steps: {len(found.trace()):,} bytes, torch.profiler's {theirs:,}")
    if args.json:
        dump(
            args.json, {"overhead": overhead, "closure": found.closure, "trace": [len(found.trace()), theirs]}
        )


if __name__ == "__main__":
    main()
