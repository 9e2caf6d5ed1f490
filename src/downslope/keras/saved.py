"""What is saved beside an optimizer's variables, so that a state is loaded only where it belongs.

Keras saves the variables of an optimizer by number. The header says whose they are: the rule, and
for each variable its name, shape and parts of state. Numbers that Keras appends to automatic names
("dense_3") change whenever a model is made again, and a loaded model may leave out the names of what a
layer stands in; these are not compared, all else of a name is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

KEY = "downslope"
_REMEDY = (
    "Nothing of the optimizer was changed. To take the weights alone, load them before `compile`, "
    "or with `load_model(..., compile=False)`"
)


def same_place(one: str, other: str) -> bool:
    """Whether two paths may name the same variable: one is the end of the other, but for numbers.

    >>> same_place("sequential/dense_1/kernel", "dense_4/kernel")
    True
    >>> same_place("sequential/dense/kernel", "head/kernel")
    False

    """
    a, b = (re.sub(r"_\d+(?=/|$)", "", name).split("/")[::-1] for name in (one, other))
    return all(x == y for x, y in zip(a, b, strict=False))


def header_of(optimizer: str, rows: Sequence[Mapping[str, Any]], count: int) -> np.ndarray:
    """Return the header as bytes: the optimizer's name, a row for each variable, how many arrays follow."""
    text = json.dumps({"version": 1, "optimizer": optimizer, "variables": list(rows), "count": count})
    return np.frombuffer(text.encode(), dtype=np.uint8)


def is_unbuilt(store: Mapping[str, Any]) -> bool:
    """Whether a store holds no more than a count of no steps and a learning rate."""
    return set(store.keys()) <= {"0", "1"} and int(np.asarray(store["0"])) == 0


def check_header(
    store: Mapping[str, Any], optimizer: str, rows: Sequence[Mapping[str, Any]], count: int
) -> None:
    """Raise ValueError unless the stored state belongs to this optimizer and these variables."""
    if KEY not in store.keys():  # noqa: SIM118  (Keras's stores iterate over nothing)
        raise ValueError(f"the saved state is not one of downslope.keras.{optimizer}. {_REMEDY}")
    saved = json.loads(np.asarray(store[KEY]).tobytes())
    if saved["optimizer"] != optimizer:
        raise ValueError(
            f"the saved state was made by {saved['optimizer']}, this optimizer is {optimizer}. {_REMEDY}"
        )
    if len(saved["variables"]) != len(rows):
        raise ValueError(
            f"the saved state has {len(saved['variables'])} variables, the model {len(rows)}. {_REMEDY}"
        )
    for was, now in zip(saved["variables"], rows, strict=True):
        if not same_place(was["name"], now["name"]):
            raise ValueError(
                f"the saved state names {was['name']!r} where the model has {now['name']!r}: "
                f"was a layer renamed or moved? {_REMEDY}"
            )
        _check_row(was, now)
    if saved["count"] != count:
        raise ValueError(
            f"the saved state has {saved['count']} arrays, this optimizer {count}: averaged weights or "
            f"accumulated gradients were switched on in one of them only. {_REMEDY}"
        )


def _check_row(was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key in ("shape", "rule", "state"):
        if was[key] != now[key]:
            raise ValueError(
                f"{key} of {now['name']} is {now[key]}, in the saved state {was[key]}. {_REMEDY}"
            )
