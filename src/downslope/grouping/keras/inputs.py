"""What a Keras model can be called with: what it was given, or what it remembers of its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any

import keras
from keras import tree

Way = tuple[tuple[Any, ...], dict[str, Any]]
# What to take for a size that is not known, a length or a width: the first that works.
SIZES = (64, 16, 8, 4, 224)
MOST_WAYS = 64


def ways(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Way]:
    """Yield ways of calling a model, the most faithful first.

    Functional and sequential models know the shapes and dtypes of their inputs; others only the
    shapes with which they were built, so that integers (tokens) are tried where floats fail.
    """
    if args or kwargs:
        yield args, dict(kwargs)
    elif getattr(model, "inputs", None):
        given = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
        for size in _sizes(t.shape for t in tree.flatten(given)):
            yield (tree.map_structure(lambda t, n=size: _tensor(t.shape, t.dtype, n), given),), {}
    else:
        yield from islice(_as_built(model), MOST_WAYS)


def _as_built(model: Any) -> Iterator[Way]:
    config = model.get_build_config() or {}
    named = {k.removesuffix("_shape"): s for k, s in (config.get("shapes_dict") or {}).items()}
    shapes = config.get("input_shape") or named
    if not shapes:
        return
    leaves = list(_leaves(shapes))
    dtypes = (keras.config.floatx(), "int32")
    for size, kinds in product(_sizes(leaves), product(dtypes, repeat=len(leaves))):
        made = _filled(shapes, iter([_tensor(s, d, size) for s, d in zip(leaves, kinds, strict=True)]))
        yield ((), made) if shapes is named else ((made,), {})


def _sizes(shapes: Any) -> tuple[int, ...]:
    return SIZES if any(n is None for shape in shapes for n in shape[1:]) else SIZES[:1]


def _is_shape(shape: Any) -> bool:
    return not isinstance(shape, Mapping) and all(n is None or isinstance(n, int) for n in shape)


def _leaves(shapes: Any) -> Iterator[Sequence[int | None]]:
    if _is_shape(shapes):
        yield shapes
    else:
        for s in shapes.values() if isinstance(shapes, Mapping) else shapes:
            yield from _leaves(s)


def _filled(shapes: Any, tensors: Iterator[Any]) -> Any:
    if _is_shape(shapes):
        return next(tensors)
    if isinstance(shapes, Mapping):
        return {k: _filled(s, tensors) for k, s in shapes.items()}
    return type(shapes)(_filled(s, tensors) for s in shapes)


def _tensor(shape: Sequence[int | None], dtype: str, unknown: int) -> Any:
    """Return a symbolic tensor with a batch of two and, for any other unknown axis, `unknown`."""
    sizes = [n if n is not None else unknown if axis else 2 for axis, n in enumerate(shape)]
    return keras.KerasTensor(tuple(sizes), dtype)
