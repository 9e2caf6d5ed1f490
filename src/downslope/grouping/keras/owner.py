"""Which living model owns the variables that an optimizer was given.

Keras hands an optimizer variables and no model. A variable does not know its layer either, but the
model that is being trained is alive: it is looked for among the objects that Python keeps.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import keras

from downslope.errors import UsageError
from downslope.words import listed


def owners_of(variables: Sequence[Any], optimizer: Any = None) -> list[tuple[Any, list[Any]]]:
    """Return models, or layers, that together own the variables, each with those that it owns.

    One model for all is looked for first: the one compiled with `optimizer`, else the smallest.

    Raises:
        UsageError: a variable that no living model or layer owns.

    """
    living = [o for o in gc.get_objects() if issubclass(type(o), keras.Layer)]
    wanted = {id(v): v for v in variables}
    owned = {id(o): _trained(o) & wanted.keys() for o in living}
    found = []
    while wanted:
        candidates = [o for o in living if owned[id(o)] & wanted.keys()]
        if not candidates:
            raise UsageError(_nobody(list(wanted.values())))
        best = min(candidates, key=lambda o: _rank(o, owned[id(o)] & wanted.keys(), optimizer))
        mine = owned[id(best)] & wanted.keys()
        found.append((best, [wanted.pop(key) for key in list(wanted) if key in mine]))
    return found


def _trained(layer: Any) -> set[int]:
    """Return the variables that a layer trains, by identity; none where an error left it half made.

    Such a layer lives on in the error's traceback, which notebooks keep.
    """
    try:
        return {id(v) for v in layer.trainable_variables}
    except Exception:  # in whatever state it is, and whatever its own properties do
        return set()


def _rank(layer: Any, mine: set[int], optimizer: Any) -> tuple[Any, ...]:
    """Order candidates: most variables wanted, compiled with this optimizer, a model, fewest others."""
    compiled = getattr(layer, "optimizer", None)
    compiled_here = optimizer is not None and optimizer in (
        compiled,
        getattr(compiled, "inner_optimizer", None),
    )
    return (-len(mine), not compiled_here, not isinstance(layer, keras.Model), len(layer.variables))


def _nobody(variables: Sequence[Any]) -> str:
    names = listed(str(getattr(v, "path", v.name)) for v in variables)
    return (
        f"no Keras model owns {names}, so that what they are used for is unknown: "
        "pass a partition, Muon(partition)"
    )
