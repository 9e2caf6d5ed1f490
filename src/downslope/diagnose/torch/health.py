"""`Diagnostics`: the numbers of a training in PyTorch, at a cadence, and what they say."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, Literal, Self

import torch
from torch import Tensor

from downslope.diagnose.cadence import Cadence
from downslope.diagnose.health import (
    GroupRecord,
    Judge,
    Lines,
    NoiseScale,
    Record,
    Sign,
    TrainingWarning,
    Writer,
    sink,
)
from downslope.errors import UsageError, a_type, one_line
from downslope.torch.kernel import in_parts
from downslope.words import listed

_MOMENTA = ("momentum_buffer", "exp_avg")
_MOST = 1 << 30
"""Multiply-adds that an effective rank may take; larger matrices are passed over."""


@dataclass
class _Group:
    """A parameter group as it is at the step of a record; groups that come later are of the next.

    Attributes:
        name: as in the record.
        params: its parameters.
        before: copies of them, until the step is taken.
        gradients: copies of their gradients.
        measured: what the step did.

    """

    name: str
    params: list[Tensor]
    before: list[Tensor]
    gradients: list[Tensor | None]
    measured: dict[str, Tensor] = field(default_factory=dict)

    def record(self, sign_flips: Tensor) -> GroupRecord:
        """Return the record, once all is measured."""
        numbers = {name: float(value) for name, value in self.measured.items()}
        return GroupRecord(
            numbers["gradient_norm"],
            numbers["update_ratio"],
            float(sign_flips),
            numbers.get("effective_rank"),
        )


class Diagnostics:
    """Watch a training from beside its optimizer; see `watch` for what happens inside of the model.

    Called once a step, between `loss.backward()` and `optimizer.step()`, with a `GradScaler` after its
    `unscale_(optimizer)`. At some steps it looks at gradients, at what the step does to the parameters, and,
    one step later, at the gradients again; on other steps it keeps the loss and nothing else. No value is
    changed. For the time of a step it holds a copy of the parameters, and of the gradients until the next.

    By default a record is made every hundredth step, and less often where steps are so short that a record
    would take more than 0.5 % of the time since the last, or all records more than 0.75 % of the training
    since its first step: one that took long is paid back by a longer interval, at most twice as long as the
    one before (`Cadence`).
    Time is the host's; to wait for what the device was given earlier is not counted as a record's.

    Recorded are, of every parameter group, the norm of its gradient, the ratio of update to weight, the
    share of gradient entries that change sign to the next step, and the effective rank of the
    momentum, (Σσ²)²/Σσ⁴; and of the training its loss, the cosine between gradients of steps that follow each
    other and the gradient noise scale (McCandlish et al., 2018, arXiv:1812.06162), which suggests a batch
    size. `Judge` says which troubles are told, and when.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        every: steps from one record to the next, at least 2, whatever a record takes; None for the
            cadence above.
        batch_size: examples a step, for the noise scale in examples.
        writer: a path, to which each record is appended as one JSON line (null for a number that is not
            finite); a TensorBoard `SummaryWriter`; or a function of records.
        on_trouble: "warn" with a `TrainingWarning`, or "collect" silently.
        clock: tells the seconds for the default cadence.

    Attributes:
        records: all so far.
        signs: the troubles so far.

    Raises:
        UsageError: no optimizer, another value of an option.

    >>> import torch
    >>> model = torch.nn.Linear(4, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> diagnostics = Diagnostics(optimizer, every=2)
    >>> for _ in range(6):
    ...     optimizer.zero_grad()
    ...     loss = model(torch.ones(8, 4)).square().mean()
    ...     loss.backward()
    ...     diagnostics(loss)
    ...     optimizer.step()
    >>> [record.step for record in diagnostics.records]
    [2, 4]

    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        every: int | None = None,
        batch_size: int | None = None,
        writer: Writer | None = None,
        on_trouble: Literal["warn", "collect"] = "warn",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise UsageError(f"optimizer is {a_type(optimizer)}: expected a torch.optim.Optimizer")
        if every is not None and (not isinstance(every, int) or every < 2):
            raise UsageError(f"every = {every!r}: expected a whole number of at least 2, or None")
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise UsageError(f"batch_size = {batch_size!r}: expected a whole number of at least 1")
        if on_trouble not in ("warn", "collect"):
            raise UsageError(f"on_trouble = {on_trouble!r}: expected 'warn' or 'collect'")
        self.records: list[Record] = []
        self.signs: list[Sign] = []
        self._optimizer, self._batch_size = optimizer, batch_size
        self._cadence = Cadence(every, clock)
        self._write, self._warn = sink(writer), on_trouble == "warn"
        self._judge, self._noise = Judge(), NoiseScale()
        self._step, self._losses = 0, list[Tensor | float]()
        self._groups: list[_Group] = []
        self._hook = optimizer.register_step_post_hook(self._stepped)

    def __call__(self, loss: Tensor | float) -> None:
        """Take the loss of this step; the gradients are there, the step is not taken yet."""
        if isinstance(loss, Tensor) and loss.numel() != 1:
            raise UsageError(f"loss has the shape {tuple(loss.shape)}: expected one number, as loss.mean()")
        if not isinstance(loss, Tensor):
            try:
                loss = float(loss)
            except TypeError:
                raise UsageError(f"loss is {a_type(loss)}: expected a number or a tensor") from None
        self._step += 1
        self._losses.append(loss.detach() if isinstance(loss, Tensor) else loss)
        self._cadence.start()
        if self._step > self._cadence.due:
            self._end()
        if self._step == self._cadence.due:
            with self._cadence.record():
                self._begin()

    def state_dict(self) -> dict[str, Any]:
        """Return all that there is to know to go on: numbers, strings and tensors, in dicts and lists.

        Between the two steps that a record looks at, the gradients of the first are among it.
        """
        return {
            "step": self._step,
            "losses": _together(self._losses),
            "records": [asdict(record) for record in self.records],
            "noise": self._noise.state_dict(),
            "cadence": self._cadence.state_dict(),
            "groups": [
                {"name": g.name, "before": g.before, "gradients": g.gradients, "measured": g.measured}
                for g in self._groups
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the state of a training that is resumed, before its first step.

        A file of records is taken back to the last one that the state has, so that no step is in it twice.

        Raises:
            UsageError: it is no such state, or one of other parameters; then nothing has changed.

        """
        noise, cadence = NoiseScale(), copy.copy(self._cadence)
        try:
            records = [Record.of(values) for values in state["records"]]
            groups = [self._group_of(i, kept) for i, kept in enumerate(state["groups"])]
            step, losses = int(state["step"]), list(state["losses"])
            noise.load_state_dict(state["noise"])
            cadence.load_state_dict(state["cadence"])
        except (KeyError, TypeError) as error:
            raise UsageError(
                f"state is none of Diagnostics ({one_line(error)}): expected what state_dict() returned"
            ) from None
        self._step, self._losses, self._groups = step, losses, groups
        self._noise, self._cadence = noise, cadence
        self.records, self._judge = records, Judge()
        self.signs = [sign for record in records for sign in self._judge.see(record)]
        if records and isinstance(self._write, Lines):
            self._write.rewind(records[-1])

    def _group_of(self, index: int, kept: dict[str, Any]) -> _Group:
        """Return a group of a record that is half made."""
        groups = self._optimizer.param_groups
        params = list(groups[index]["params"]) if index < len(groups) else []
        found = [None if g is None else tuple(g.shape) for g in kept["gradients"]]
        shapes = [tuple(p.shape) for p in params]
        if len(found) != len(shapes) or any(a not in (None, b) for a, b in zip(found, shapes, strict=True)):
            raise UsageError(
                f"state has the gradients of other parameters in group {index}: expected the shapes "
                f"{listed(map(str, shapes))}; give the optimizer the groups that it had"
            )
        before = [b.to(p.device) for b, p in zip(kept["before"], params, strict=False)]
        gradients = [
            None if g is None else g.to(p.device) for g, p in zip(kept["gradients"], params, strict=True)
        ]
        return _Group(kept["name"], params, before, gradients, dict(kept["measured"]))

    def close(self) -> None:
        """Let go of the optimizer."""
        self._hook.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        """The last record, and the troubles."""
        if not self.records:
            return f"no record yet: the first is made after step {self._cadence.due + 1}"
        last = self.records[-1]
        lines = [f"step {last.step}: loss {last.loss:.4g}"]
        for name, g in last.groups.items():
            rank = "" if g.effective_rank is None else f", momentum's rank {g.effective_rank:.0%} of full"
            lines.append(
                f"  {name}: gradient {g.gradient_norm:.2g}, update/weight {g.update_ratio:.1e}, "
                f"{g.sign_flips:.0%} of signs flip{rank}"
            )
        if last.noise_scale is not None:
            size = f": batches of about {last.batch_size:,} examples" if last.batch_size else ""
            lines.append(f"  gradient noise scale {last.noise_scale:.2g} batches{size}")
        return "\n".join([*lines, *map(str, self.signs)])

    def _begin(self) -> None:
        """Keep the gradients and the parameters of this step."""
        groups = self._optimizer.param_groups
        names = [str(g.get("role") or g.get("name") or f"group {i}") for i, g in enumerate(groups)]
        self._groups = [
            _Group(
                name,
                list(group["params"]),
                [p.detach().clone() for p in group["params"]],
                [None if p.grad is None else _coalesced(p.grad.detach().clone()) for p in group["params"]],
            )
            for name, group in zip(_distinct(names), groups, strict=True)
        ]

    def _stepped(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Measure what the step did, once it is taken."""
        if any(group.before for group in self._groups):
            with self._cadence.record():
                self._measure(optimizer)

    def _measure(self, optimizer: torch.optim.Optimizer) -> None:
        for group in self._groups:
            change = _norm([p.detach() - b for p, b in zip(group.params, group.before, strict=True)])
            group.measured = {
                "gradient_norm": _norm([g for g in group.gradients if g is not None]),
                "update_ratio": change / _norm(group.before).clamp_min(torch.finfo(torch.float32).tiny),
            }
            momentum = _momentum(optimizer, group.params)
            if momentum is not None:
                group.measured["effective_rank"] = _effective_rank(momentum)
            group.before = []

    def _end(self) -> None:
        """Make the record, where the step was not skipped, and go on to the next."""
        float(self._losses[-1])  # waits for the device, whose earlier work is none of the record's
        try:
            if any(group.measured for group in self._groups):
                with self._cadence.record():
                    self._finish()
        finally:  # a trouble may be raised, or the writer fail
            self._groups = []
            self._cadence.follow(self._step - 1)

    def _finish(self) -> None:
        """Look at the gradients again, one step later, and make the record."""
        product, squares, flips = [], [], []
        for group in self._groups:
            pairs = [
                (g, _coalesced(p.grad.detach()))
                for g, p in zip(group.gradients, group.params, strict=True)
                if g is not None and p.grad is not None
            ]
            products = [_stored(a * b) for a, b in pairs]
            product += [p.sum(dtype=torch.float32) for p in products]
            squares += [_norm([a for a, _ in pairs]).square() + _norm([b for _, b in pairs]).square()]
            flipped = [(p < 0).sum() for p in products]
            entries = max(1, sum(a.numel() for a, _ in pairs))
            flips.append(_total(flipped) / entries)
        along, total = _total(product), _total(squares)
        losses = _mean(self._losses[:-1])
        groups = {group.name: group.record(f) for group, f in zip(self._groups, flips, strict=True)}
        scale = self._noise.add(float(total), float(along))
        size = round(scale * self._batch_size) if scale is not None and self._batch_size else None
        cosine = 2 * float(along) / float(total) if float(total) > 0 else math.nan
        record = Record(self._step - 1, losses, groups, cosine, scale, size)
        self._losses = self._losses[-1:]
        self._take(record)

    def _take(self, record: Record) -> None:
        self.records.append(record)
        self._write(record)
        for sign in self._judge.see(record):
            self.signs.append(sign)
            if self._warn:
                warnings.warn(str(sign), TrainingWarning, stacklevel=5)


def _norm(tensors: list[Tensor]) -> Tensor:
    """Return the norm of tensors as if they were one vector, without waiting for the device."""
    if not tensors:
        return torch.zeros(())
    norms = torch._foreach_norm([_stored(t) for t in tensors])
    norm: Tensor = torch.linalg.vector_norm(torch.stack([n.float().to(norms[0].device) for n in norms]))
    return norm


def _coalesced(t: Tensor) -> Tensor:
    """Return a gradient as it can be multiplied with another, entry by entry.

    A sparse one has each entry once, complex numbers are pairs of real ones.
    """
    if t.layout is not torch.strided:
        return t.to_sparse(layout=torch.sparse_coo).coalesce()
    return in_parts(t.resolve_conj())


def _stored(t: Tensor) -> Tensor:
    """Return the entries that are kept: of a sparse tensor, those that are not zero."""
    return t if t.layout is torch.strided else _coalesced(t).values()


def _total(values: list[Tensor]) -> Tensor:
    return torch.stack([v.float().to(values[0].device) for v in values]).sum() if values else torch.zeros(())


def _together(losses: list[Tensor | float]) -> Tensor | list[float]:
    """Return the losses as one tensor where they are tensors of one kind, else as numbers."""
    try:
        return torch.stack(losses)  # type: ignore[arg-type]
    except (RuntimeError, TypeError):
        return [float(v) for v in losses]


def _mean(losses: list[Tensor | float]) -> float:
    """Return the mean of the losses; those on a device are put together there: one wait, not one for each."""
    there = [v for v in losses if isinstance(v, Tensor)]
    here = [v for v in losses if not isinstance(v, Tensor)]
    if there:
        try:
            stack = torch.stack(there)
        except RuntimeError:  # of several devices or shapes; to look at each one's takes longer than the mean
            stack = torch.stack([v.to(there[0].device).reshape(()) for v in there])
        here += [float(stack.float().mean())] * len(there)
    return fmean(here)


def _momentum(optimizer: torch.optim.Optimizer, params: list[Tensor]) -> Tensor | None:
    """Return the momentum of the group's largest matrix that can be looked at in passing."""
    kept = [optimizer.state[p].get(name) for p in params if p in optimizer.state for name in _MOMENTA]
    matrices = [m.detach() for m in kept if isinstance(m, Tensor) and m.ndim >= 2 and m.numel()]
    small = [m for m in matrices if min(len(m), m.numel() // len(m)) * m.numel() <= _MOST]
    largest = max(small, key=Tensor.numel, default=None)
    return None if largest is None else largest.to_dense().flatten(1)


def _effective_rank(m: Tensor) -> Tensor:
    """Return (Σσ²)²/Σσ⁴ over min(m.shape): 1 where all singular values are equal."""
    m = m.to(torch.complex64 if m.is_complex() else torch.float32)
    m = m / torch.linalg.vector_norm(m).clamp_min(torch.finfo(torch.float32).tiny)
    gram = m @ m.mH if m.shape[0] <= m.shape[1] else m.mH @ m
    fourth = torch.linalg.vector_norm(gram).square()
    return torch.where(fourth > 0, 1 / (fourth * min(m.shape)), torch.zeros_like(fourth))


def _distinct(names: list[str]) -> list[str]:
    """Return the names, numbered where two are the same."""
    return [n if names.count(n) == 1 else f"{n} {names[: i + 1].count(n)}" for i, n in enumerate(names)]
