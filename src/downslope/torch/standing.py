"""Jobs taken over from the step before: of parameters of which nothing but numbers has changed.

To look at a parameter, sort it and find what steps it takes the host longer than stepping a small one. What
was found holds as long as the same tensors lie at the same places, which is asked of all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

from downslope.rules.rule import Rule
from downslope.torch.job import Job
from downslope.torch.kernel import state_fields
from downslope.torch.native.memory import PLAIN, are_readable, in_order, watched

Asked = Sequence[tuple[Rule, tuple[Any, ...]]]
"""What each group asks for: its rule, and all that its steps depend on, to compare with another's."""

_GRAD, _DTYPE, _LAYOUT, _SHAPE = map(attrgetter, ("grad", "dtype", "layout", "shape"))
_WITH_ADDRESSES = ("cpu", "cuda")


def _same(some: Collection[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(map(is_, some, others))


_PARAMETER = (Tensor.data_ptr, _SHAPE, _DTYPE, Tensor.stride)
_STATE = (Tensor.data_ptr, Tensor.numel)
"""What would change with the memory of a tensor; the state is nobody's to transpose in its place."""


class _Seen:
    """Tensors, and what was seen of them."""

    def __init__(self, tensors: Sequence[Tensor], looks: Sequence[Callable[[Tensor], Any]]) -> None:
        self.tensors, self.looks = list(tensors), looks
        self.found = self._look()

    def _look(self) -> list[list[Any]]:
        return [list(map(look, self.tensors)) for look in self.looks]

    def holds(self) -> bool:
        """Whether it is true of them still."""
        return self._look() == self.found


@dataclass
class _Kept:
    """A job but for its gradients, its options and its count; `number` is that of its group."""

    number: int
    rule: Rule
    params: _Seen
    fields: tuple[str, ...]
    slots: list[dict[str, Any]]
    columns: list[_Seen]
    t: Any
    known: Any

    def again(self, group: dict[str, Any], rule: Rule) -> Job | None:
        """Return the job of this step, None where anything has changed."""
        params, counts = self.params.tensors, [slot.get("step") for slot in self.slots]
        count: Any = counts[0]
        grads = list(map(_GRAD, params))
        _, shapes, dtypes, _ = self.params.found
        if not (
            set(map(type, grads)) == {Tensor}
            and set(map(_LAYOUT, grads)) == {torch.strided}
            and list(map(_SHAPE, grads)) == shapes
            and list(map(_DTYPE, grads)) == dtypes
            and self.params.holds()
            and state_fields(rule) == self.fields
            and (count is self.t if isinstance(self.t, Tensor) else type(count) is int)
            and _same(counts, [count] * len(counts))
        ):
            return None
        for field, column in zip(self.fields, self.columns, strict=True):
            if not (_same([slot.get(field) for slot in self.slots], column.tensors) and column.holds()):
                return None
        columns = [column.tensors for column in self.columns]
        if isinstance(count, Tensor):  # which the step itself advances
            return Job(rule, group, params, grads, self.slots, columns, count, capturable=True)
        holds = self.known is not None and rule == self.rule and are_readable(grads) and in_order(grads)
        known = self.known if holds else None
        return Job(rule, group, params, grads, self.slots, columns, count + 1, known=known)


class Standing:
    """What one step leaves to the next."""

    def __init__(self) -> None:
        self._jobs: list[_Kept] = []
        self._params: list[list[Tensor]] = []
        self._resting: list[Tensor] = []
        self._pattern: list[int] = []
        self._capturable: list[Any] = []
        self._keys: list[Any] = []
        self._slots: list[Any] = []

    def again(
        self, groups: Sequence[dict[str, Any]], asked: Asked, state: Mapping[Tensor, Any]
    ) -> list[Job] | None:
        """Return the jobs of the step before with other gradients; None where anything else has changed."""
        if not (
            self._jobs
            and not watched()
            and len(groups) == len(self._params)
            and all(_same(g["params"], params) for g, params in zip(groups, self._params, strict=True))
            and [group["capturable"] for group in groups] == self._capturable
            and all(g is None for g in map(_GRAD, self._resting))
            and _pattern(asked) == self._pattern
            and _same(state, self._keys)
            and _same(state.values(), self._slots)
        ):
            return None
        jobs = []
        for kept in self._jobs:
            job = kept.again(groups[kept.number], asked[kept.number][0])
            if job is None:
                return None
            jobs.append(job)
        return jobs

    def keep(
        self,
        groups: Sequence[dict[str, Any]],
        asked: Asked,
        state: Mapping[Tensor, Any],
        jobs: Sequence[Job],
        known_of: Callable[[Job], Any],
    ) -> None:
        """Remember the jobs of a step that was taken, where they are of plain tensors of real numbers.

        What `known_of` says must hold for all gradients that lie in order, one after the other, as a
        parameter does that stands for them.
        """
        self._jobs = []
        self._params = [list(group["params"]) for group in groups]
        # those that rest now, too: of what is spread over processes all must hear in every step
        plain = set(map(type, chain.from_iterable(self._params))) <= PLAIN
        if watched() or not plain or not all(map(_may_stand, jobs)):
            return
        of = {id(group): number for number, group in enumerate(groups)}
        self._resting = [p for params in self._params for p in params if p.grad is None]
        self._pattern = _pattern(asked)
        self._capturable = [group["capturable"] for group in groups]
        self._keys, self._slots = list(state), list(state.values())
        self._jobs = [
            _Kept(
                of[id(job.group)],
                job.rule,
                _Seen(job.params, _PARAMETER),
                state_fields(job.rule),
                job.slots,
                [_Seen(column, _STATE) for column in job.columns],
                job.t,
                None if job.capturable else known_of(replace(job, grads=job.params)),
            )
            for job in jobs
        ]


def _may_stand(job: Job) -> bool:
    """Whether all that a job is made of is seen in `_Seen`."""
    return (
        job.params[0].device.type in _WITH_ADDRESSES
        and all(set(map(type, column)) == {Tensor} for column in (job.grads, *job.columns))
        and not job.params[0].dtype.is_complex
    )


def _pattern(asked: Asked) -> list[int]:
    """Return for each group the first that asks for the same."""
    options = [one for _, one in asked]
    return list(map(options.index, options))
