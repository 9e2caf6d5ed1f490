"""What a parameter group says: its rule, checked, and what to call its parameters in an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NoReturn, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from downslope import rules
from downslope.errors import a_type
from downslope.rules.checks import require, require_number, shown
from downslope.rules.rule import Rule

RULES: dict[str, type[Rule]] = {
    "sgd": rules.SGD,
    "adagrad": rules.AdaGrad,
    "rmsprop": rules.RMSProp,
    "adam": rules.Adam,
    "adamw": rules.Adam,
    "muon": rules.Muon,
}
"""The value of a group's "rule", and the rule it stands for."""

_NOT_HERE = {"maximize": False, "differentiable": False, "dampening": 0, "lr_decay": 0}
"""Options of `torch.optim` that no rule here has, and the values with which they do nothing."""

_INSTEAD = {
    "maximize": ". Negate the loss",
    "lr_decay": ". Give the rate a schedule of torch.optim.lr_scheduler",
}


class OfTorch(TypedDict, total=False):
    """Arguments that every element-wise optimizer of `torch.optim` takes, and that change nothing here.

    `foreach` chooses between ways that take the same steps; the others are refused unless they are False.
    """

    foreach: bool | None
    maximize: bool
    differentiable: bool


_OPTIONS = ("rule", "on_nonfinite", "capturable", "ns_dtype")
"""Options of a group that are no part of its rule, and that are compared as they are."""

ON_NONFINITE = ("raise", "skip", "ignore")


def require_group(group: object) -> None:
    """Raise TypeError for a parameter group that is no dict."""
    if not isinstance(group, dict):
        raise TypeError(f'a parameter group is {a_type(group)}: expected a dict, as {{"params": [...]}}')


def require_known_rule(group: dict[str, Any], own: str) -> None:
    """Raise ValueError unless the group names a rule and has its options; `own` is the optimizer's."""
    name = group.get("rule")
    require("rule", name, name in RULES, "one of " + ", ".join(RULES))
    lacking = [option for option in _own_hyperparameters(str(name)) if option not in group]
    require("rule", name, not lacking, f"{own!r}, since this optimizer has no {', '.join(lacking)}")


def rule_of(group: dict[str, Any]) -> Rule:
    """Return the rule that a group's present values describe; raise ValueError where one is out of range."""
    lr = group["lr"]
    if not isinstance(lr, Tensor) or (lr.device.type == "cpu" and not group.get("capturable")):
        require_number("lr", lr, 0.0)  # reading a device's would wait for it
    require_number("weight_decay", group["weight_decay"], 0.0)
    values = tuple(_hashable(group[name]) for name in _own_hyperparameters(group["rule"]))
    l2 = 0.0 if group["decoupled_weight_decay"] else group["weight_decay"]
    return _make_rule(group["rule"], values, float(l2))


@lru_cache(maxsize=256)
def _make_rule(name: str, values: tuple[Any, ...], l2: float) -> Rule:
    return RULES[name](**dict(zip(_own_hyperparameters(name), values, strict=True)), l2=l2)


@lru_cache
def _own_hyperparameters(name: str) -> tuple[str, ...]:
    return tuple(field for field in RULES[name].hyperparameters() if field != "l2")


def _hashable(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return tuple(value) if isinstance(value, list) else value


def options_of(group: dict[str, Any], rule: Rule) -> tuple[Any, ...]:
    """Return what the step of a group's parameters depends on, to compare with that of another group."""
    lr = group["lr"]
    rate = id(lr) if isinstance(lr, Tensor) else float(lr)
    asked = (bool(group["cautious"]), group["fused"] is not False)  # 0 is not False, though it equals it
    return (rule, rate, decoupled_decay(group), *asked, *map(group.get, _OPTIONS))


def decoupled_decay(group: dict[str, Any]) -> float:
    """Return the weight decay that `step` applies to a group."""
    return float(group["weight_decay"]) if group["decoupled_weight_decay"] else 0.0


def common_defaults(
    rule: str,
    lr: Any,
    weight_decay: float,
    *,
    decoupled: bool,
    cautious: bool,
    on_nonfinite: str,
    fused: bool | None,
    capturable: bool | None,
    of_torch: OfTorch | None = None,
) -> dict[str, Any]:
    """Return the group values that every optimizer here has, with those that `torch.optim` looks for.

    Raises:
        TypeError: `of_torch` has an argument that is none of torch's.

    """
    given = dict(of_torch or {})
    if unknown := given.keys() - OfTorch.__annotations__.keys():
        raise TypeError(f"got an unexpected keyword argument {min(unknown)!r}")
    common = {"foreach": None, "maximize": False, "differentiable": False} if of_torch is not None else {}
    return {
        "rule": rule,
        "lr": lr,
        "weight_decay": weight_decay,
        "decoupled_weight_decay": decoupled,
        "cautious": cautious,
        "on_nonfinite": on_nonfinite,
        "fused": fused,
        "capturable": capturable,
        **common,
        **given,
    }


def capturable_on(group: dict[str, Any], device: torch.device) -> bool:
    """Whether a group's step reads nothing from a device: by default everywhere but on a CPU."""
    asked = group["capturable"]
    return device.type != "cpu" if asked is None else bool(asked)


def require_parameter(p: Tensor, rule: str, name: Callable[[], str]) -> None:
    """Raise if a rule can never step a parameter; one of integers that is frozen may stand among others."""
    if p.is_complex() and rule == "muon":
        refuse_complex(p, name())
    frozen = isinstance(p, nn.Parameter) and not p.requires_grad
    if not (frozen or p.is_floating_point() or p.is_complex()):
        raise TypeError(f"{name()} has dtype {p.dtype}: expected a real floating dtype")
    if any(step == 0 and n > 1 for step, n in zip(p.stride(), p.shape, strict=True)):
        raise ValueError(
            f"{name()} is expanded, entries of it share memory: expected one of its own, "
            "as of nn.Parameter(p.clone())"
        )


def refuse_complex(p: Tensor, name: str) -> NoReturn:
    """Raise for a parameter of complex numbers, by name, that Muon is to step."""
    raise TypeError(
        f'{name} has dtype {p.dtype}: expected a real floating dtype, or a group with "rule": "adamw"'
    )


def steppable(params: Sequence[Tensor]) -> list[Tensor]:
    """Return the parameters of a group that may have a gradient: none of integers."""
    return [p for p in params if p.is_floating_point() or p.is_complex()]


def refuse_gradient(name: str, p: Tensor, g: Tensor) -> NoReturn:
    """Raise for the gradient of a parameter, by name, that no rule here can step."""
    if g.layout is not torch.strided:
        raise ValueError(
            f"the gradient of {name} is sparse: no rule here takes one. "
            "Make it dense (nn.Embedding(..., sparse=False)), or use torch.optim.SparseAdam for it"
        )
    if g.shape != p.shape:
        raise ValueError(
            f"the gradient of {name} has shape {tuple(g.shape)}: the parameter was resized since; "
            "compute it again"
        )
    raise TypeError(f"the gradient of {name} has dtype {g.dtype}, the parameter {p.dtype}: compute it again")


def refuse_other_options(group: dict[str, Any], where: str = "") -> None:
    """Raise ValueError if a group, called `where`, has an option of `torch.optim` that no rule here has."""
    for option, nothing in _NOT_HERE.items():  # also where they are written to later
        if (value := group.get(option, nothing)) != nothing:
            raise ValueError(
                f"{where}{option} = {shown(value)}: expected {nothing}, since the rules here have no such "
                "option" + _INSTEAD.get(option, "")
            )


def name_in(groups: Sequence[dict[str, Any]], number: int, i: int) -> str:
    """Return what to call parameter i of a group: its name where it came with one, else place and shape.

    Of a name that several groups have, it is said in which.
    """
    group, where = groups[number], f" in group {number}"
    if names := group.get("param_names"):
        alike = sum(names[i] in other.get("param_names", ()) for other in groups)
        return str(names[i]) + where * (alike > 1)
    return f"parameter {i} of shape {tuple(group['params'][i].shape)}{where}"
