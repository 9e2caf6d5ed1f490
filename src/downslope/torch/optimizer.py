"""What every optimizer here shares: groups, checks before any change, states, and the step.

A step has three phases. *Collect* looks at every parameter that has a gradient and refuses what
cannot be stepped; until it is over nothing has changed. *Sort* puts parameters together that can
share work. *Apply* runs the rule and writes the update, the only line that writes to a parameter.
Where nothing but numbers has changed since the step before, its sorted work is taken over (`standing`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from textwrap import TextWrapper
from typing import Any, ClassVar, overload

import torch
import torch.distributed as dist
from torch import Tensor
from torch._compile import _disable_dynamo

from downslope.rules.checks import require
from downslope.rules.rule import Rule
from downslope.torch.element_step import engines_of, known_of, step_elementwise
from downslope.torch.engine import Write
from downslope.torch.gate import Gate
from downslope.torch.groups import (
    ON_NONFINITE,
    capturable_on,
    decoupled_decay,
    name_in,
    options_of,
    refuse_gradient,
    refuse_other_options,
    require_group,
    require_known_rule,
    require_parameter,
    rule_of,
    steppable,
)
from downslope.torch.job import Job
from downslope.torch.kernel import HALF, first_state, in_parts, state_fields
from downslope.torch.kernels.tables import Tables
from downslope.torch.native.memory import PLAIN
from downslope.torch.nonfinite import Ledger, has_values, recording
from downslope.torch.regions import region
from downslope.torch.spread import gradient_of, groups_of, local
from downslope.torch.standing import Asked, Standing
from downslope.torch.states import in_words_of_here, require_state
from downslope.words import many

_WRAPPED = TextWrapper(80, subsequent_indent=6 * " ", break_on_hyphens=False)


class RuleOptimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer` whose groups each name a rule.

    Weight decay is decoupled where the group's `decoupled_weight_decay` is true, otherwise the
    penalty (weight_decay/2)‖p‖² joins the loss, as in `torch.optim`.

    On a GPU, or with `capturable`, a step reads nothing from the device: see `docs/pytorch.md`.

    States of float16 and bfloat16 parameters are kept, and their steps computed, in float32.

    """

    _kept: ClassVar[tuple[str, ...]] = ()
    replicas: dist.ProcessGroup | None = None
    """Processes that share the work of a step that all of them take."""

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self._ledger = Ledger()
        self._tables = Tables()
        self._standing = Standing()
        super().__init__(params, defaults)

    @property
    def skipped_steps(self) -> int:
        """How many steps were left out because a gradient was not finite; asking waits for the device."""
        return self._ledger.total()

    def raise_if_nonfinite(self) -> None:
        """Wait for the device, and raise if a gradient was not finite in a step since the last report.

        For `on_nonfinite="raise"` where steps do not wait for the device: at the end of training, or
        now and then where a CUDA graph is replayed, which runs no code on the host.

        Raises:
            ValueError: a gradient held NaN or infinity; the step was left out.

        """
        self._ledger.raise_late(self._name_of, wait=True)

    # -- groups ------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; a bad one raises and leaves the optimizer as it was."""
        require_group(param_group)
        require_known_rule({**self.defaults, **param_group}, self.defaults["rule"])
        super().add_param_group(param_group)
        try:
            self._check_group(len(self.param_groups) - 1)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def _check_group(self, number: int) -> None:
        group = self.param_groups[number]
        rule_of(group)
        self._check_options(group)
        for i, p in enumerate(group["params"]):
            require_parameter(p, group["rule"], partial(name_in, self.param_groups, number, i))

    def _check_options(self, group: dict[str, Any]) -> None:
        """Raise ValueError for an option that no rule checks; before every step, as groups are written to."""
        refuse_other_options(group)
        require(
            "on_nonfinite",
            group["on_nonfinite"],
            group["on_nonfinite"] in ON_NONFINITE,
            "one of " + ", ".join(ON_NONFINITE),
        )
        asked = group["capturable"]
        require("capturable", asked, asked is None or isinstance(asked, bool), "True, False or None")

    # -- the step ----------------------------------------------------------------------------

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; with a closure, evaluate it first and return its loss.

        Raises:
            ValueError: a gradient is sparse, or holds NaN or infinity (`on_nonfinite="raise"`), or
                a hyper-parameter left its range. Nothing has changed then.

        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._run()
        return loss

    @_disable_dynamo  # inside a compiled step it runs as it is: kernels need no compiler
    def _run(self) -> None:
        with region("check"):
            self._ledger.raise_late(self._name_of)
            groups, state = self.param_groups, self.state
            asked = [self._asked(group) for group in groups]
            standing = self.replicas is None and self._standing.again(groups, asked, state)
            jobs = standing or self._collect(asked)
            gate = Gate(self._ledger, self._tables, self._name_of)
            goes_on = gate.goes_on(jobs, [] if standing else self._together(), on_cpu=self._on_cpu())
        if goes_on:
            for job in jobs:
                with region(job.group["rule"]):
                    self._apply(job)
            if not standing and self.replicas is None:
                self._standing.keep(groups, asked, state, jobs, self._known)

    def _asked(self, group: dict[str, Any]) -> tuple[Rule, tuple[Any, ...]]:
        """Return the rule of a group, and all that its steps depend on."""
        rule = rule_of(group)
        self._check_options(group)
        return rule, options_of(group, rule)

    def _collect(self, asked: Asked) -> list[Job]:
        """Return the work to do; nothing is changed."""
        found: dict[tuple[Any, ...], dict[tuple[Any, ...], Job]] = {}
        resting: set[int] = set()  # counts of parameters that take no step
        for number, (group, (rule, options)) in enumerate(zip(self.param_groups, asked, strict=True)):
            fields = state_fields(rule)
            alike = found.setdefault(options, {})
            for i, p in enumerate(group["params"]):
                g = p.grad
                if g is None:
                    resting.add(id((self.state.get(p) or {}).get("step")))
                    continue
                shape, dtype, device = p.shape, p.dtype, p.device  # asked once: that is what takes long
                fits = g.dtype.is_complex if dtype.is_complex else g.dtype.is_floating_point
                if g.layout is not torch.strided or not fits or g.shape != shape:
                    refuse_gradient(name_in(self.param_groups, number, i), p, g)
                slot = self.state.get(p) or {}
                ready = bool(slot) and self._is_ready(fields, p, shape, dtype, slot)
                count = slot.get("step", 0)
                if isinstance(count, Tensor) and has_values(count) and not capturable_on(group, device):
                    count = int(count)
                plain = type(p) in PLAIN
                shared = not plain or self.replicas is not None  # with processes whose jobs must be the same
                apart = number if shared or device.type != "cpu" or group["capturable"] else None
                key = (id(count) if isinstance(count, Tensor) else count, dtype, device, ready, apart)
                job = alike.get(key)
                if job is None:
                    t = count if isinstance(count, Tensor) else count + 1
                    capturable = capturable_on(group, device)
                    job = alike[key] = Job(rule, group, [], [], [], [], t, capturable, ready)
                job.params.append(p)
                g = g if type(g) is Tensor and plain else gradient_of(p, g)
                job.grads.append(in_parts(g.resolve_conj()) if dtype.is_complex else g)
                job.slots.append(slot)
        jobs = [job for alike in found.values() for job in alike.values()]
        self._part_counts(jobs, resting)
        return jobs

    def _is_ready(
        self, fields: Sequence[str], p: Tensor, shape: torch.Size, dtype: torch.dtype, slot: dict[str, Any]
    ) -> bool:
        """Whether a slot holds all parts of a state, in the parameter's precision.

        Raises:
            ValueError: a part has not the shape that goes with the parameter: kernels do not look.

        """
        value, ready = None, "step" in slot
        for field in fields:
            value = slot.get(field)
            if value is None:
                ready = False
            elif value.shape != shape and value.shape != (wanted := self._state_shape(field, p)):
                raise ValueError(
                    f"{field} of {self._name_of(p)} has shape {tuple(value.shape)}, "
                    f"expected {tuple(wanted)}: the parameter or its state was resized. Resize both, "
                    "or delete optimizer.state[parameter] to begin anew"
                )
        return ready and (value is None or value.dtype == (torch.float32 if dtype in HALF else dtype))

    def _part_counts(self, jobs: Sequence[Job], shared: set[int]) -> None:
        """Give each job whose count on the device others share one of its own, which it advances alone."""
        for job in jobs:
            if not isinstance(job.t, Tensor):
                continue
            if id(job.t) in shared:
                if recording(job.t):  # a replay would begin at the same count again and again
                    name = self._name_of(job.params[0])
                    raise RuntimeError(
                        f"{name} steps in a CUDA graph without others that it stepped with before: "
                        "take the steps before the recording with gradients of the same parameters"
                    )
                job.t = job.t.clone()
            shared.add(id(job.t))

    def _together(self) -> list[dist.ProcessGroup]:
        """Return the groups of processes that take each step together."""
        return groups_of(p for group in self.param_groups for p in group["params"])

    def _on_cpu(self) -> bool:
        """Whether it is the CPU on which processes exchange numbers: there the host may wait for them."""
        first = next((p for group in self.param_groups for p in group["params"]), None)
        return first is None or bool(first.device.type == "cpu")

    def _apply(self, job: Job) -> None:
        if not job.ready:  # first steps, options switched on since, parameters of another dtype than before
            for p, slot in zip(job.params, job.slots, strict=True):
                for field, first in first_state(job.rule, p, self._state_shape).items():
                    old = slot.get(field)
                    slot[field] = first if old is None else old.to(first.dtype)
                self.state[p] = slot
        if job.capturable:
            if not isinstance(job.t, Tensor):
                job.t = torch.full((), job.t - 1, dtype=torch.float32, device=job.params[0].device)
            job.t.add_(1 if job.ok is None else job.ok)
        for slot in job.slots:
            slot["step"] = job.t
        if not job.columns:
            fields = state_fields(job.rule)
            job.columns = [[in_parts(local(slot[field])) for slot in job.slots] for field in fields]
        self._update(job)

    def _state_shape(self, field: str, p: Tensor) -> tuple[int, ...]:
        """Return the shape of a part of a parameter's state."""
        return p.shape

    def _update(self, job: Job) -> None:
        """Run the rule on a job whose rule is element-wise."""
        params = job.params if job.known else [in_parts(local(p)) for p in job.params]
        columns = [params, job.grads, *job.columns]
        step_elementwise(job.rule, columns, job.t, self._how(job.group), job.ok, job.known)

    def _known(self, job: Job) -> Any:
        """Return what compiled code may know of a job in the next step, None where it does not take it."""
        return known_of([job.params, job.grads, *job.columns])

    @staticmethod
    def _how(group: dict[str, Any]) -> Write:
        """Return how a group's steps are written."""
        return Write(group["lr"], decoupled_decay(group), group["cautious"], group["fused"] is not False)

    # -- states ------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state made by `state_dict`; steps then continue bitwise.

        Pre-hooks may change the state first, post-hooks see it loaded.

        Raises:
            ValueError: it belongs to another rule, its groups do not match, or it was made with an option of
                `torch.optim` that no rule here has. Nothing has changed then.

        """
        current, left = self.param_groups, state_dict

        def check(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
            nonlocal left
            left = in_words_of_here(state)
            require_state(left, self.param_groups, self._state_shape)
            return left

        def complete(_: torch.optim.Optimizer) -> None:
            for group, before in zip(self.param_groups, current, strict=True):
                for key, value in before.items():
                    group.setdefault(key, value)
            self._keep_dtypes(left)

        last = self.register_load_state_dict_pre_hook(check)
        first = self.register_load_state_dict_post_hook(complete, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
            first.remove()

    def _keep_dtypes(self, state_dict: dict[str, Any]) -> None:
        """Undo the cast of states to a half-precision parameter's dtype that torch makes on loading."""
        keys = (key for group in state_dict["param_groups"] for key in group["params"])
        params = (p for group in self.param_groups for p in group["params"])
        for key, p in zip(keys, params, strict=True):
            for field, value in state_dict["state"].get(key, {}).items():
                if field == "step":
                    known = not isinstance(value, Tensor) or has_values(value)
                    self.state[p]["step"] = int(value) if known else 0
                elif p.dtype in HALF and isinstance(value, Tensor):
                    self.state[p][field] = value.to(p.device, torch.float32, copy=True)

    def __getstate__(self) -> dict[str, Any]:
        kept = {key: getattr(self, key) for key in self._kept}
        fresh = {"_ledger": Ledger(self.skipped_steps), "_tables": Tables(), "_standing": Standing()}
        return {**super().__getstate__(), **kept, **fresh}

    # -- words -------------------------------------------------------------------------------

    def _name_of(self, p: Tensor) -> str:
        for number, group in enumerate(self.param_groups):
            for i, q in enumerate(group["params"]):
                if q is p:
                    return name_in(self.param_groups, number, i)
        raise KeyError("not a parameter of this optimizer")

    def __repr__(self) -> str:
        lines = []
        for group in self.param_groups:
            rule = rule_of(group)
            count = sum(p.numel() for p in group["params"])
            title = group.get("role", group["rule"])
            size = f"{many(len(group['params']), 'parameter')}, {many(count, 'element')}"
            decay = f"weight_decay={group['weight_decay']:g}" + ", cautious" * bool(group["cautious"])
            lines.append(f"  {title}: {size}, lr={float(group['lr']):g}, {decay}")
            lines += [f"    {text}" for text in (repr(rule), self._engine(group, rule))]
        return "\n".join([f"{type(self).__name__}(", *map(_WRAPPED.fill, lines), ")"])

    def _engine(self, group: dict[str, Any], rule: Rule) -> str:
        params = [in_parts(local(p)) for p in steppable(group["params"])]
        capturable = any(capturable_on(group, p.device) for p in params)
        return engines_of(rule, params, self._how(group), capturable=capturable)
