"""What the numbers of a training say of its health: named warnings, of records that know no framework.

The records come from `torch/health.py`; here they are smoothed and judged.
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from statistics import fmean, median
from typing import Any, Protocol

from downslope.errors import UsageError
from downslope.files import write_text


class Trouble(StrEnum):
    """What a training may suffer from."""

    DIVERGING = "diverging"
    STALLED = "stalled"
    OSCILLATING = "oscillating"
    TOO_LOW = "rate too low"
    FROZEN = "one group frozen"


class TrainingWarning(RuntimeWarning):
    """A trouble of a training, as a warning."""


@dataclass(frozen=True)
class GroupRecord:
    """One parameter group at one step.

    Attributes:
        gradient_norm: norm of the group's gradient.
        update_ratio: norm of the step over norm of the parameters.
        sign_flips: share of the gradient's entries that change sign to the next step; 0.5 is noise.
        effective_rank: of the momentum of the group's largest matrix M, as a share of the most it could
            be: (Σσ²)²/Σσ⁴ / min(M.shape); None where no momentum is kept.

    """

    gradient_norm: float
    update_ratio: float
    sign_flips: float
    effective_rank: float | None


@dataclass(frozen=True)
class Record:
    """A training at one step.

    Attributes:
        step: from 1.
        loss: mean since the record before.
        groups: by name.
        cosine: between the gradients of this step and the next.
        noise_scale: batches' worth of examples at which the gradient's noise equals its length; averaged
            over the records so far; None until it can be told.
        batch_size: the batch size that it suggests, where the present one is known.

    """

    step: int
    loss: float
    groups: Mapping[str, GroupRecord]
    cosine: float
    noise_scale: float | None
    batch_size: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON types, numbers that are not finite as None."""
        values = asdict(self)
        groups = {name: _finite(group) for name, group in values.pop("groups").items()}
        return {**_finite(values), "groups": groups}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Record:
        """Return the record of what `asdict` made."""
        return cls(**{**values, "groups": {name: GroupRecord(**g) for name, g in values["groups"].items()}})


@dataclass(frozen=True)
class Sign:
    """A trouble, said once until it has passed."""

    trouble: Trouble
    step: int
    text: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.trouble} (step {self.step}): {self.text}"


class NoiseScale:
    r"""The simple noise scale, of gradients of two steps that follow each other.

    .. math::
        B_{noise} = \frac{\mathrm{tr}\,\Sigma}{|G|^2}, \qquad
        \mathrm{tr}\,\Sigma / B \approx \tfrac12 |g_1 - g_2|^2, \qquad |G|^2 \approx g_1^\top g_2

    Both parts are averaged before they are divided, since their ratio is biased. Source: McCandlish et
    al., 2018, arXiv:1812.06162, with two steps in the place of two batch sizes.
    """

    def __init__(self, kept: float = 0.9) -> None:
        self._kept, self._noise, self._signal, self._weight = kept, 0.0, 0.0, 0.0

    def add(self, squares: float, product: float) -> float | None:
        """Take |g₁|² + |g₂|² and g₁ᵀg₂; return the scale in batches, or None while it cannot be told.

        Numbers that are not finite tell nothing, and spoil no average.
        """
        if not (math.isfinite(squares) and math.isfinite(product)):
            return None
        self._weight = self._kept * self._weight + 1
        self._noise = self._kept * self._noise + (squares - 2 * product) / 2
        self._signal = self._kept * self._signal + product
        if self._weight < 3 or self._signal <= 0:  # of 3 records, or all noise so far
            return None
        # By round-off equal gradients may seem to differ by less than nothing.
        return max(0.0, self._noise) / self._signal

    def state_dict(self) -> dict[str, float]:
        """Return the averages."""
        return {"noise": self._noise, "signal": self._signal, "weight": self._weight}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from averages."""
        self._noise, self._signal, self._weight = state["noise"], state["signal"], state["weight"]


WINDOW = 10
"""Records that a judgement is made of."""


class Judge:
    """Sees record after record, and says what is wrong.

    diverging
        the loss is not finite, or its last three records lie above twice what the first was, or so far
        above its best as it had fallen.
    stalled
        over the last `WINDOW` records the loss fell by less than a thousandth, and less than its scatter
        or a hundred-thousandth; where the scatter leaves open whether it fell by a hundredth, nothing is
        said.
    oscillating
        gradients of steps that follow each other point against each other: the mean of `WINDOW` cosines is
        below -0.2, and below zero by five of its standard errors.
    rate too low
        they point the same way, cosine above 0.95, while steps are below 1e-4 of the parameters and have
        never been above: a schedule that ends, or a minimum, is no rate that was too low.
    one group frozen
        a group's steps, relative to its parameters, are a thousandth of the other groups' median, or zero.
    """

    def __init__(self) -> None:
        self._recent: deque[Record] = deque(maxlen=WINDOW)
        self._first = self._best = math.inf
        self._largest = 0.0
        self._open: set[tuple[Trouble, str]] = set()

    def see(self, record: Record) -> list[Sign]:
        """Return the troubles that are new with this record."""
        self._recent.append(record)
        steps = median(g.update_ratio for g in record.groups.values()) if record.groups else 0.0
        self._largest = max(self._largest, steps)
        if self._first == math.inf and math.isfinite(record.loss):
            self._first = record.loss
        found = dict(self._found(record))
        new = [Sign(key[0], record.step, text) for key, text in found.items() if key not in self._open]
        self._open = set(found)
        self._best = min(self._best, record.loss) if math.isfinite(record.loss) else self._best
        return new

    def _found(self, record: Record) -> list[tuple[tuple[Trouble, str], str]]:
        found = [
            ((Trouble.DIVERGING, ""), self._diverging(record)),
            ((Trouble.STALLED, ""), self._stalled()),
            ((Trouble.OSCILLATING, ""), self._oscillating()),
            ((Trouble.TOO_LOW, ""), self._too_low()),
            *(((Trouble.FROZEN, name), self._frozen(name)) for name in record.groups),
        ]
        return [(key, text) for key, text in found if text]

    def _diverging(self, record: Record) -> str:
        if not math.isfinite(record.loss):
            return f"the loss is {record.loss}: go back to a checkpoint, with a lower learning rate"
        if len(self._recent) < 3 or self._first == math.inf:
            return ""
        lowest = min(r.loss for r in list(self._recent)[-3:])
        limit = max(self._first, self._best + 2 * (self._first - self._best))
        if lowest > limit + 1e-3 * abs(limit) and lowest > self._best + abs(self._first):
            return (
                f"the loss is {record.loss:.3g}, it began at {self._first:.3g} and has been "
                f"{self._best:.3g}: lower the learning rate, or clip gradients"
            )
        return ""

    def _stalled(self) -> str:
        losses = [r.loss for r in self._recent]
        if len(losses) < WINDOW or not all(map(math.isfinite, losses)):
            return ""
        half = WINDOW // 2
        before, after = losses[:half], losses[half:]
        scatter = math.sqrt((_variance(before) + _variance(after)) / half)
        fall = fmean(before) - fmean(after)
        size = abs(fmean(before))
        told = fall + 2 * scatter < 1e-2 * size
        if told and abs(fall) < 1e-3 * size and fall < max(2 * scatter, 1e-5 * size):
            since = self._recent[-1].step - self._recent[0].step
            return (
                f"the loss has stood at {fmean(after):.4g} for {since} steps: decay the learning rate, or "
                "look whether the model has learnt what it can"
            )
        return ""

    def _oscillating(self) -> str:
        if len(self._recent) < WINDOW:
            return ""
        cosines = [r.cosine for r in self._recent]
        cosine, error = fmean(cosines), math.sqrt(_variance(cosines) / len(cosines))
        if cosine < -0.2 and cosine + 5 * error < 0:
            return (
                f"gradients turn around from step to step (mean cosine {cosine:.2f}): lower the learning rate"
            )
        return ""

    def _too_low(self) -> str:
        if len(self._recent) < WINDOW:
            return ""
        cosine = fmean(r.cosine for r in self._recent)
        ratio = median(g.update_ratio for r in self._recent for g in r.groups.values())
        if cosine > 0.95 and ratio > 0 and self._largest < 1e-4:
            return (
                f"steps are {ratio:.0e} of the parameters, all the same way (mean cosine {cosine:.2f}): "
                "raise the learning rate"
            )
        return ""

    def _frozen(self, name: str) -> str:
        recent = list(self._recent)[-3:]
        if len(recent) < 3 or any(name not in r.groups or len(r.groups) < 2 for r in recent):
            return ""
        own = max(r.groups[name].update_ratio for r in recent)
        others = median(g.update_ratio for r in recent for n, g in r.groups.items() if n != name)
        if own < 1e-3 * others:
            return (
                f"{name} moves by {own:.0e} of itself a step, the other groups by {others:.0e}: look at its "
                "learning rate, and whether gradients reach it"
            )
        return ""


class Scalars(Protocol):
    """What a TensorBoard `SummaryWriter` can do, and others too."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any:
        """Write one number."""


Writer = str | Path | Scalars | Callable[[Record], object]


def sink(writer: Writer | None) -> Callable[[Record], object]:
    """Return the function that takes the records.

    A path is appended to, one JSON line a record, null for a number that is not finite; of an object with
    `add_scalar` the tags are "loss", "noise_scale" and "GROUP/gradient_norm" and so on.

    Raises:
        UsageError: none of these, or a path whose folder is not there.

    """
    if writer is None:
        return lambda record: None
    if isinstance(writer, str | Path):
        path = Path(writer)
        if not path.parent.is_dir():
            raise UsageError(f"writer = {str(writer)!r}: its folder is not there; make it first")
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise UsageError(f"writer = {str(writer)!r}: expected a file that can be written")
        return Lines(path)
    if hasattr(writer, "add_scalar"):
        return lambda record: _scalars(writer, record)
    if callable(writer):
        return writer
    raise UsageError(
        f"writer = {writer!r}: expected the path of a JSONL file, a SummaryWriter, or a function of records"
    )


class Lines:
    """Writes records to a file, one JSON line each."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, record: Record) -> None:
        """Append a record, on a line of its own also where the last one was cut short."""
        line = json.dumps(record.to_dict(), allow_nan=False) + "\n"
        with self.path.open("ab+") as file:  # a run that is killed loses no line
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                line = line if file.read() == b"\n" else "\n" + line
            file.write(line.encode())

    def rewind(self, last: Record) -> None:
        """Take out what was written after a record, where the file has that one."""
        if not self.path.exists():
            return
        lines, wanted = self.path.read_text(encoding="utf-8").splitlines(keepends=True), last.to_dict()
        for kept in range(len(lines), 0, -1):
            found = _parsed(lines[kept - 1])
            if found == wanted and kept < len(lines):
                write_text(self.path, "".join(lines[:kept]))
            if found is not None and not found.get("step", 0) > last.step:
                return  # that is the one, or the file is of another training


def _parsed(line: str) -> dict[str, Any] | None:
    """Return a line's record; None of a line that was cut short when a run was killed."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _scalars(writer: Any, record: Record) -> None:
    for name, value in [
        ("loss", record.loss),
        ("cosine", record.cosine),
        ("noise_scale", record.noise_scale),
    ]:
        if value is not None:
            writer.add_scalar(name, value, record.step)
    for group, values in record.groups.items():
        for name, value in asdict(values).items():
            if value is not None:
                writer.add_scalar(f"{group}/{name}", value, record.step)


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values, None in the place of NaN and infinity, which JSON cannot hold."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def _variance(values: list[float]) -> float:
    mean = fmean(values)
    return sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1)
