"""What Muon is given, a model, a partition or parameters: as groups, each parameter with its view."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from downslope.grouping.partition import Partition
from downslope.grouping.view import MatrixView
from downslope.rules.checks import require


def replicas_of(params: Any, asked: Any) -> dist.ProcessGroup | None:
    """Return the processes that share the work, if there are others."""
    params = getattr(params, "_orig_mod", params)  # of torch.compile
    if asked is None and isinstance(params, nn.parallel.DistributedDataParallel):
        asked = params.process_group
    if asked is None or asked is False:
        return None
    if not isinstance(asked, dist.ProcessGroup):
        raise TypeError(
            f"replicas = {asked!r}: expected a process group, as torch.distributed.new_group makes them, "
            "False, or None"
        )
    if asked.size() < 2:
        return None
    return asked


def partition_of(
    model: nn.Module,
    example_inputs: tuple[Any, ...],
    partition: Partition | None,
    overrides: Any,
    heads: Any,
) -> Partition:
    """Return the partition of a model, bound to its parameters."""
    from downslope.grouping.torch import named_parameters
    from downslope.grouping.torch import partition as trace

    if partition is None:
        traced: Partition = trace(model, *example_inputs, overrides=overrides, heads=heads)
        return traced
    if example_inputs or overrides or heads != "fused":
        raise ValueError(
            "a given partition is used as it is: pass no example inputs, overrides or heads beside it"
        )
    own = named_parameters(model)
    for a in partition:
        if a.name not in own:
            raise ValueError(f"the partition names {a.name!r}, which this model lacks")
        if tuple(own[a.name].shape) != a.shape:
            raise ValueError(f"{a.name} has shape {tuple(own[a.name].shape)}, in the partition {a.shape}")
    if missing := [name for name in own if name not in partition]:
        raise ValueError(f"the model's parameter {missing[0]!r} is not in the partition")
    return Partition(partition, own)


def groups_of(partition: Partition, by_role: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one group for each role and rule, hidden matrices first."""
    if partition.parameters is None:
        raise ValueError(
            "this partition holds no parameters (it was loaded): expected Muon(model, partition=partition)"
        )
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for a in sorted(partition, key=lambda a: a.rule != "muon"):
        if a.rule == "none":
            continue
        empty: dict[str, Any] = {"params": [], "views": [], "role": a.role.value, "rule": a.rule}
        group = groups.setdefault((a.role.value, a.rule), empty)
        group["params"].append((a.name, partition.parameters[a.name]))
        group["views"].append(a.view)
    if not groups:
        what = "has no parameters" if not len(partition) else "has every parameter frozen"
        raise ValueError(f"the model {what}: there is nothing to optimize")
    unknown = by_role.keys() - {role for role, _ in groups}
    require(
        "by_role",
        sorted(unknown),
        not unknown,
        "roles that this model has: " + ", ".join(sorted({r for r, _ in groups})),
    )
    for (role, rule), group in groups.items():
        if role == "vector":
            group["weight_decay"] = 0.0
        group.update(by_role.get(role, {}))
        if rule != "muon":
            del group["views"]
    return list(groups.values())


def plain_view(p: Tensor, name: Callable[[], str]) -> MatrixView:
    """Return the view of a parameter that came without one: (fan_out, fan_in), or a convolution's kernel."""
    if p.ndim < 2:
        raise ValueError(
            f'{name()} is no matrix: put it in a group with "rule": "adamw", '
            "or pass the model and a batch, Muon(model, batch)"
        )
    if p.ndim == 3:
        raise ValueError(
            f'{name()} may be a stack of matrices or a 1-D convolution: give its group a "view", '
            "MatrixView((1,), (2,), batch=(0,)) or MatrixView((0,), (1, 2))"
        )
    return MatrixView.of_kernel(p.ndim)
