"""Muon and AdamW side by side in one optimizer, each parameter under the rule that fits it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from downslope.grouping.partition import Partition
from downslope.grouping.view import MatrixView
from downslope.rules.checks import require
from downslope.rules.muon import Muon as MuonRule
from downslope.torch import kernels
from downslope.torch.engine import Engine, counted
from downslope.torch.exchange import Part, placed, step_parts
from downslope.torch.given import groups_of, partition_of, plain_view, replicas_of
from downslope.torch.groups import common_defaults, name_in, refuse_complex, require_group, steppable
from downslope.torch.job import Job
from downslope.torch.native import polar
from downslope.torch.native import steps as native_steps
from downslope.torch.nonfinite import has_values
from downslope.torch.optimizer import RuleOptimizer
from downslope.torch.places import Item, Layout, layout_of
from downslope.torch.precision import fast_dtype
from downslope.torch.replicas import step_replicas
from downslope.torch.spread import agree
from downslope.torch.stacks import keep_freed_memory, stack_bytes, step_stacks
from downslope.torch.standing import Asked
from downslope.words import many

NS_DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


class Muon(RuleOptimizer):
    r"""Muon on hidden matrices and AdamW on everything else, under one learning rate.

    Given a model and a batch of its inputs, one forward pass is traced to see what each parameter
    is used for (`downslope.torch.partition`); hidden matrices get `downslope.Muon`,

    .. math::
        m \leftarrow \mu m + (1-\mu) g, \qquad
        p \leftarrow p - \eta\, (s\, \mathrm{polar}((1-\mu) g + \mu m) + \lambda p),

    the others `downslope.Adam` with decoupled decay. With the default scale
    :math:`s = 0.2\sqrt{\max(n_{out}, n_{in})}` both steps have the same size, so one :math:`\eta`
    and one schedule serve both. Gains and biases (role "vector") are not decayed unless `by_role`
    says so.

    Sources: Jordan et al., 2024; Liu et al., 2025, arXiv:2502.16982; NorMuon: Li et al., 2025,
    arXiv:2510.05491.

    Args:
        params: a model, followed by example inputs; or a `Partition`; or parameters, named
            parameters or groups as every torch optimizer takes. A group may say
            `"rule": "muon" | "adamw"` ("muon" by default), and `"view"` or `"views"` (a
            `MatrixView`, or one for each parameter) where a parameter is not (fan_out, fan_in, ...).
        example_inputs: what the model is called with, once. With inputs that have names it is
            `Muon(partition(model, input_ids=ids))`.
        lr: learning rate :math:`\eta`, at least 0.
        weight_decay: :math:`\lambda`, at least 0, decoupled.
        momentum: Muon's :math:`\mu` in [0, 1).
        nesterov: orthogonalise the look-ahead instead of the momentum.
        coefficients: "minimax", "polar_express" or "keller5".
        ns_steps: how many Newton-Schulz iterations; None is as many as the set is made for.
        scale: "match_rms_adamw", "original" or "spectral".
        normuon: even out the rows of each step by their running mean square (NorMuon).
        normuon_beta: decay of that mean, in [0, 1).
        momentum_warmup: over how many steps :math:`\mu` grows from `momentum_start`; 0 is none.
        momentum_start: in [0, 1).
        heads: "fused", or "split" to see the projections of attention as one matrix a head.
        ns_dtype: what the iterations run in: "float32", "bfloat16", "float64", or "auto": bfloat16
            where its matrix products are fast, the parameter's precision elsewhere.
        betas: AdamW's.
        eps: AdamW's.
        cautious: decay only where it agrees with the step in sign.
        by_role: values for the groups of a role, e.g. `{"embedding": {"lr": 1e-3}}`.
        partition: a partition made earlier, to pin the grouping of this model.
        overrides: handed to `downslope.torch.partition`.
        max_stack_bytes: memory that gathering matrices may take at a time; None means 16 MiB on a CPU
            (so that it stays in reach of the caches) and 512 MiB elsewhere.
        on_nonfinite: "raise", "skip" or "ignore" when a gradient holds NaN or infinity.
        fused: None uses code compiled for the CPU, Triton kernels on GPUs that have them, and torch's fused
            kernels for AdamW and to write Muon's steps elsewhere; False none of them.
        capturable: whether a step reads nothing from the device, so that a CUDA graph can record it;
            None: everywhere but on a CPU.
        replicas: processes that hold the same parameters and gradients, and share out the orthogonalisation;
            None is those of a model in `DistributedDataParallel`, False is none. A copy does not share.

    Raises:
        ValueError: a value outside its range; a model without parameters, or with all of them
            frozen; a partition of another model; a matrix with no view.
        TypeError: a parameter that is not real floating.

    >>> import torch
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 32), torch.nn.ReLU(),
    ...     torch.nn.Linear(32, 2))
    >>> batch = torch.zeros(4, 8)
    >>> optimizer = Muon(model, batch, lr=1e-3)
    >>> [(group["role"], group["rule"], group["param_names"]) for group in optimizer.param_groups][0]
    ('hidden', 'muon', ['2.weight'])

    """

    _kept: ClassVar[tuple[str, ...]] = ("_views", "max_stack_bytes")
    _same_code: tuple[dist.ProcessGroup, bool] | None = None

    def __init__(
        self,
        params: Any,
        *example_inputs: Any,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        coefficients: str = "minimax",
        ns_steps: int | None = None,
        scale: str = "match_rms_adamw",
        normuon: bool = False,
        normuon_beta: float = 0.95,
        momentum_warmup: int = 0,
        momentum_start: float = 0.85,
        heads: str = "fused",
        ns_dtype: str = "auto",
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        cautious: bool = False,
        by_role: Mapping[str, Mapping[str, Any]] | None = None,
        partition: Partition | None = None,
        overrides: Any = None,
        max_stack_bytes: int | None = None,
        on_nonfinite: str = "raise",
        fused: bool | None = None,
        capturable: bool | None = None,
        replicas: dist.ProcessGroup | Literal[False] | None = None,
    ) -> None:
        self.replicas = replicas_of(params, replicas)
        self._views: dict[Tensor, MatrixView] = {}
        keep_freed_memory()
        fine = max_stack_bytes is None or max_stack_bytes > 0
        require("max_stack_bytes", max_stack_bytes, fine, "a positive number of bytes, or None")
        self.max_stack_bytes = max_stack_bytes
        require("heads", heads, heads in ("fused", "split"), "'fused' or 'split'")
        if isinstance(params, nn.Module):
            partition = partition_of(params, example_inputs, partition, overrides, heads)
        elif isinstance(params, Partition):
            partition = params
            if heads != "fused":
                raise ValueError('heads="split" goes into the partition: partition(model, heads="split")')
        if partition is not None:
            params = groups_of(partition, by_role or {})
        elif example_inputs or by_role or overrides or heads != "fused":
            raise ValueError(
                "example inputs, by_role, overrides and heads go with a model: "
                "expected Muon(model, *example_inputs)"
            )
        defaults = common_defaults(
            "muon",
            lr,
            weight_decay,
            decoupled=True,
            cautious=cautious,
            on_nonfinite=on_nonfinite,
            fused=fused,
            capturable=capturable,
        )
        muon = {
            "momentum": momentum,
            "nesterov": nesterov,
            "coefficients": coefficients,
            "ns_steps": ns_steps,
            "scale": scale,
            "ns_dtype": ns_dtype,
        }
        muon |= {"normuon": normuon, "normuon_beta": normuon_beta}
        muon |= {"momentum_warmup": momentum_warmup, "momentum_start": momentum_start}
        adamw = {"betas": betas, "eps": eps, "amsgrad": False, "bias_correction": True}
        super().__init__(params, {**defaults, **muon, **adamw})

    def view_of(self, p: Tensor) -> MatrixView:
        """Return how a parameter that Muon steps is seen as matrices.

        Raises:
            ValueError: a parameter that another rule steps, or that is not this optimizer's.

        """
        if p not in self._views:
            raise ValueError(f"a parameter of shape {tuple(p.shape)} has no view: Muon does not step it here")
        return self._views[p]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; beside the hyper-parameters it may hold "rule" and "view" or "views"."""
        require_group(param_group)
        group = dict(param_group)
        views = group.pop("views", None)
        view = group.pop("view", None)
        super().add_param_group(group)
        added = self.param_groups[-1]
        try:
            if added["rule"] == "muon":
                self._add_views([view] * len(added["params"]) if views is None else list(views))
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def _check_options(self, group: dict[str, Any]) -> None:
        super()._check_options(group)
        require(
            "rule", group["rule"], group["rule"] in ("muon", "adamw"), "'muon' or 'adamw' in this optimizer"
        )
        require(
            "ns_dtype", group["ns_dtype"], group["ns_dtype"] in NS_DTYPES, "one of " + ", ".join(NS_DTYPES)
        )

    def _add_views(self, views: list[MatrixView | None]) -> None:
        """Keep the views of the last group's parameters."""
        last = len(self.param_groups) - 1
        group = self.param_groups[last]
        require(
            "views",
            len(views),
            len(views) == len(group["params"]),
            f"one for each of {many(len(group['params']), 'parameter')}",
        )
        found = {}
        for i, (p, view) in enumerate(zip(group["params"], views, strict=True)):
            name = partial(name_in, self.param_groups, last, i)
            if view is None:
                view = plain_view(p, name)
            if not isinstance(view, MatrixView):
                raise TypeError(f"the view of {name()} is {view!r}: expected a MatrixView")
            view.check(tuple(p.shape))
            found[p] = view
        self._views.update(found)

    def _collect(self, asked: Asked) -> list[Job]:
        jobs = super()._collect(asked)
        for job in jobs:
            for p in job.params if isinstance(job.rule, MuonRule) else ():
                if p.is_complex():
                    refuse_complex(p, self._name_of(p))
                if p not in self._views:
                    raise ValueError(
                        f"{self._name_of(p)} came into its group without a view as matrices: "
                        "expected it in a group of add_param_group"
                    )
                layout_of(self._views[p], tuple(p.shape))  # raises where it was resized
        if self.replicas is not None and self._on_cpu():
            self._require_alike(self.replicas)
        return jobs

    def _require_alike(self, group: dist.ProcessGroup) -> None:
        """Raise ValueError on all processes that share the work unless they step the same parameters."""
        has = bytes(p.grad is not None for group in self.param_groups for p in group["params"])
        if not agree(has, group):
            raise ValueError(
                "processes that share the work of Muon have gradients of different parameters: expected the "
                "same, as DistributedDataParallel leaves them. Nothing was changed. Average the gradients, "
                "or pass replicas=False"
            )

    def _together(self) -> list[dist.ProcessGroup]:
        return super()._together() + ([] if self.replicas is None else [self.replicas])

    def _update(self, job: Job) -> None:
        if not isinstance(job.rule, MuonRule):
            super()._update(job)
            return
        group = job.group
        asked = NS_DTYPES[group["ns_dtype"]]
        if job.known and not self._plain_because(group, job.params[0]):
            dtype = self._iterates_in(group, job.params[0])
            native_steps.take(job.rule, job.known, job.grads, job.t, self._how(group), dtype)
            return
        placed_all = self._placed(job)
        engine = self._engine_of(job)
        options: dict[str, Any] = {
            "t": job.t,
            "how": self._how(group),
            "dtype": fast_dtype(job.params[0]) if asked is None else asked,
            "max_stack_bytes": stack_bytes(self.max_stack_bytes, job.params[0].device),
            "engine": engine,
        }
        items = [item for item in placed_all if isinstance(item, Item)]
        if self.replicas is not None and not any(isinstance(p, DTensor) for p in job.params):
            home = self._steps_alike(self.replicas) and engine.native
            step_replicas(job.rule, items, self.replicas, home=home, **options)
        else:
            step_stacks(job.rule, items, **options)
        if parts := [part for part in placed_all if isinstance(part, Part)]:
            step_parts(job.rule, parts, **options)

    def _known(self, job: Job) -> Any:
        if not isinstance(job.rule, MuonRule):
            return super()._known(job)
        if not native_steps.takes(job.rule, job.t):
            return None
        items = [item for item in self._placed(job) if isinstance(item, Item)]
        whole = len(native_steps.taken(items)) == len(items)
        return native_steps.stretches(job.rule, items) if whole else None

    def _placed(self, job: Job) -> list[Item | Part]:
        rows = zip(job.params, job.grads, *job.columns, strict=True)
        return [placed(p, g, m, self._views[p], *rest) for p, g, m, *rest in rows]

    def _steps_alike(self, group: dist.ProcessGroup) -> bool:
        """Whether all processes of a group, on CPUs, take a step to the same last bit; they ask together."""
        if self._same_code is None or self._same_code[0] is not group:
            self._same_code = group, self._on_cpu() and agree(polar.fingerprint(), group)
        return self._same_code[1]

    def _engine_of(self, job: Job) -> Engine:
        """Return what a job is stepped with."""
        p, look = job.params[0], not job.capturable and has_values(job.grads[0])
        if self._plain_because(job.group, p):
            return Engine(look=look, ok=job.ok)
        if p.device.type == "cpu":
            return Engine(look=look, ok=job.ok, native=True)
        return Engine(kernels.ops_on(p.device), self._tables, look, job.ok)

    @staticmethod
    def _iterates_in(group: dict[str, Any], p: Tensor) -> torch.dtype:
        """Return what the iterations of a parameter run in."""
        asked = NS_DTYPES[group["ns_dtype"]]
        return (fast_dtype(p) if asked is None else asked) or torch.promote_types(p.dtype, torch.float32)

    def _plain_because(self, group: dict[str, Any], p: Tensor) -> str:
        """Return why a parameter is stepped in plain PyTorch, "" where code is compiled for its device."""
        if group["fused"] is False:
            return "fused=False"
        if p.device.type == "cpu":
            return polar.reason(self._iterates_in(group, p))
        return kernels.reason(p.device)

    def _state_shape(self, field: str, p: Tensor) -> tuple[int, ...]:
        if field == "row_square":
            layout = layout_of(self._views[p], tuple(p.shape))
            return (sum(count * fan_out for count, fan_out, _ in layout.matrices),)
        return super()._state_shape(field, p)

    def _engine(self, group: dict[str, Any], rule: Any) -> str:
        if not isinstance(rule, MuonRule):
            return super()._engine(group, rule)
        params = steppable(group["params"])
        shapes: dict[torch.dtype, set[tuple[int, ...]]] = {}
        engines: list[str] = []
        for p in params:
            dtype = self._iterates_in(group, p)
            layout = layout_of(self._views[p], tuple(p.shape))
            shapes.setdefault(dtype, set()).update(shape[1:] for shape in layout.matrices)
            engines.append(self._engine_for(group, rule, p, layout))
        made = [
            f"{many(len(found), 'shape')} in {str(d).removeprefix('torch.')}" for d, found in shapes.items()
        ]
        words = ["stacks of " + " and ".join(made or ["no shapes"])]
        words += counted(engines)
        if self.replicas is not None:
            words.append(f"shared out over {self.replicas.size()} processes")
        if shared := sum(isinstance(p, DTensor) for p in params):
            words.append(f"{many(shared, 'parameter')} spread over processes")
        return ", ".join(words)

    def _engine_for(self, group: dict[str, Any], rule: MuonRule, p: Tensor, layout: Layout) -> str:
        """Return in words what steps a parameter."""
        if why := self._plain_because(group, p):
            return f"plain PyTorch ({why})"
        if p.device.type == "cpu":
            return "orthogonalised by code compiled for this CPU"
        from downslope.torch.kernels import steps

        return "Triton kernels" if steps.takes(rule, p, layout) else "Triton kernels of products alone"
