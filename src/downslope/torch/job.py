"""Parameters that are stepped together, and what of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from downslope.rules.rule import Rule


@dataclass
class Job:
    """Parameters of one dtype, device and step count, with what the rule needs.

    They are of one group; on a CPU, where no other process takes the step too, of all groups with the same
    options, of which `group` is the first.

    `columns` holds the parts of the rule's state, each a list with one tensor a parameter, in the
    order of `state_fields(rule)`. Gradients and columns are this process's parts of what is spread over
    several, and pairs of real numbers of what is complex. `t` is the number of this step, from 1. Of a
    capturable job it is a tensor on the device, which its slots share and no others do, and where the bool
    `ok` there is False nothing changes. `ready` says whether its slots hold all that the rule needs.
    `known` is what compiled code found of the same tensors a step ago, None where that may have changed.
    """

    rule: Rule
    group: dict[str, Any]
    params: list[Tensor]
    grads: list[Tensor]
    slots: list[dict[str, Any]]
    columns: list[list[Tensor]]
    t: Any
    capturable: bool = False
    ready: bool = True
    ok: Tensor | None = None
    known: Any = None
