"""Whether a saved state fits an optimizer: looked at before anything of it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from downslope.rules.checks import require
from downslope.rules.polynomials import KELLER5
from downslope.rules.rule import Rule
from downslope.rules.sgd import SGD
from downslope.torch.groups import RULES, name_in, refuse_other_options, rule_of
from downslope.torch.kernel import state_fields
from downslope.words import listed, many

ShapeOf = Callable[[str, Tensor], tuple[int, ...]]


def require_state(state_dict: dict[str, Any], groups: Sequence[dict[str, Any]], shape_of: ShapeOf) -> None:
    """Raise ValueError unless a state is one of these groups; `shape_of` says which shape a part has."""
    saved_groups = state_dict["param_groups"]
    if len(saved_groups) != len(groups):
        count = many(len(saved_groups), "parameter group")
        raise ValueError(f"the state has {count}, this optimizer {len(groups)}")
    for i, (saved, group) in enumerate(zip(saved_groups, groups, strict=True)):
        name = saved.get("rule", group["rule"])
        if RULES.get(name) is not RULES[group["rule"]]:
            raise ValueError(
                f"group {i} of the state was made by rule {name!r}, this optimizer's is {group['rule']!r}"
            )
        refuse_other_options(saved, f"group {i} of the state was made with ")
        if len(saved["params"]) != len(group["params"]):
            count = many(len(saved["params"]), "parameter")
            raise ValueError(f"group {i} of the state has {count}, this optimizer's {len(group['params'])}")
        rule = rule_of({**group, **{k: v for k, v in saved.items() if k != "params"}})
        for j, (key, p) in enumerate(zip(saved["params"], group["params"], strict=True)):
            if slot := state_dict["state"].get(key):
                _require_slot(rule, slot, p, partial(name_in, groups, i, j), shape_of)


def in_words_of_here(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return a state of `torch.optim.Muon` as the rule here would have made it, any other as it is.

    Raises:
        ValueError: it is no state of an optimizer, or its polynomial is none of the rule's here.

    """
    fine = {"state", "param_groups"} <= state_dict.keys()
    require("the state to load", state_dict, fine, "'state' and 'param_groups', as state_dict() returns them")
    groups, slots = [], dict(state_dict["state"])
    for i, saved in enumerate(state_dict["param_groups"]):
        group = dict(saved)
        if (polynomial := group.pop("ns_coefficients", None)) is not None:
            if tuple(polynomial) != KELLER5:
                raise ValueError(
                    f"group {i} of the state was made with ns_coefficients = {polynomial}: "
                    f"expected {KELLER5[:]}, those of coefficients='keller5'"
                )
            group |= {"coefficients": "keller5", "scale": group.pop("adjust_lr_fn", None) or "original"}
            for key in group["params"]:
                if key in slots:
                    slots[key] = {"step": 0, **slots[key]}  # it counts none, and needs none
        groups.append(group)
    return {**state_dict, "state": slots, "param_groups": groups}


def _require_slot(
    rule: Rule, slot: dict[str, Any], p: Tensor, name: Callable[[], str], shape_of: ShapeOf
) -> None:
    fields = state_fields(rule)
    wanted = set(fields) if isinstance(rule, SGD) else {"step", *fields}  # torch.optim.SGD counts no steps
    missing = {key for key in wanted if slot.get(key) is None}
    if missing:
        lacking = listed(sorted(missing))
        raise ValueError(
            f"the state of {name()} lacks {lacking}: another rule, or another setting of it, made it"
        )
    for key in sorted(fields):
        expected, value = tuple(shape_of(key, p)), slot[key]
        if not isinstance(value, Tensor) or value.shape != expected:
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value)}"
            whose = "the parameter" if expected == p.shape else "expected"
            raise ValueError(f"{key} of {name()} has {found}, {whose} {expected}")
