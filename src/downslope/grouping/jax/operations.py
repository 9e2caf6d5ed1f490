"""The equations of a jaxpr that are no call: which axes they sum over, pick from, or put side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from downslope.grouping.facts import Kind
from downslope.grouping.flow import contract, pointwise
from downslope.grouping.flow.gather import picked
from downslope.grouping.flow.info import Info
from downslope.grouping.flow.uses import Uses
from downslope.grouping.labels import Dim, Dims, blurred, foreign

SCALE = {"mul", "div", "pow"}
ADD = {
    "add",
    "add_any",
    "sub",
    "max",
    "min",
    "select_n",
    "clamp",
    "rem",
    "atan2",
    "nextafter",
    "and",
    "or",
    "xor",
}
COMPARE = {"eq", "ne", "lt", "le", "gt", "ge"}
SHIFTING = {"neg", "copy", "convert_element_type", "reduce_precision"}
MIXING = {"cumsum", "cumlogsumexp", "cumprod", "cummax", "sort", "fft", "rev"}
REDUCING = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"}
JOIN = {
    "concatenate", "stack", "pad", "dynamic_update_slice", "scatter", "scatter-add", "scatter_add",
    "scatter_mul", "scatter-mul", "scatter-sub", "scatter-max", "scatter-min",
}  # fmt: skip


def handler(name: str) -> Callable[[Uses, Any, Sequence[Info]], Info] | None:
    """Return what reads an equation, None where its arithmetic is not known."""
    if name in ADD | SCALE | COMPARE:
        return elementwise
    if name in JOIN:
        return join
    if name in REDUCING:
        return reduce
    known = {"dot_general": dot_general, "ragged_dot_general": ragged_dot, "gather": gather}
    return {**known, "conv_general_dilated": convolution, "dynamic_slice": dynamic_slice}.get(name)


def _shapes(eqn: Any) -> list[tuple[int, ...]]:
    return [tuple(v.aval.shape) for v in eqn.invars]


def dot_general(uses: Uses, eqn: Any, infos: Sequence[Info]) -> Info:
    """Return what a `dot_general` makes."""
    return _product(uses, eqn, infos, eqn.params["dimension_numbers"])


def ragged_dot(uses: Uses, eqn: Any, infos: Sequence[Info]) -> Info:
    """Return what a product makes in which each run of rows meets a matrix of its own."""
    numbers, (data, stack, sizes) = eqn.params["ragged_dot_dimension_numbers"], infos[:3]
    data = replace(data, choices=data.choices | sizes.choices)
    if not numbers.rhs_group_dimensions:  # runs that are summed over, as in its gradient
        return uses.merged([data, stack])
    return _product(uses, eqn, [data, stack], numbers.dot_dimension_numbers, numbers.rhs_group_dimensions)


def _product(
    uses: Uses, eqn: Any, infos: Sequence[Info], numbers: Any, picked_from: Sequence[int] = ()
) -> Info:
    (x, y), ((cx, cy), (bx, by)) = _shapes(eqn)[:2], numbers
    left: list[Any] = [("left", k) for k in range(len(x))]
    right: list[Any] = [("right", k) for k in range(len(y))]
    for i, j in (*zip(cx, cy, strict=True), *zip(bx, by, strict=True)):
        right[j] = left[i]
    free_x = [left[k] for k in range(len(x)) if k not in (*cx, *bx)]
    free_y = [right[k] for k in range(len(y)) if k not in (*cy, *by, *picked_from)]
    kept = (*(left[k] for k in bx), *free_x, *free_y)
    sizes = dict(zip(left, x, strict=True)) | dict(zip(right, y, strict=True))
    return contract.product(uses, eqn.primitive.name, infos[0], infos[1], left, right, kept, sizes)


def convolution(uses: Uses, eqn: Any, infos: Sequence[Info]) -> Info:
    """Return what a `conv_general_dilated` makes, of any rank, layout and number of groups."""
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    shape, kernel = tuple(eqn.outvars[0].aval.shape), _shapes(eqn)[1]
    o, at = numbers.rhs_spec[0], numbers.out_spec[1]
    return contract.convolution(uses, infos[0], infos[1], kernel, o, shape, at, groups)


def elementwise(uses: Uses, eqn: Any, infos: Sequence[Info]) -> Info:
    """Return what a value is that was made position by position."""
    name, shape = eqn.primitive.name, tuple(eqn.outvars[0].aval.shape)
    if any(i.choices for i in infos):
        uses.note_routes(infos)
    kind = Kind.SCALING if name in SCALE else Kind.ADDITION
    parts = list(zip(infos, _shapes(eqn), strict=True))
    return pointwise.combine(uses, kind, name, parts, shape)


def join(uses: Uses, eqn: Any, infos: Sequence[Info]) -> Info:
    """Return what values become that are put side by side, or written into another."""
    parts = list(zip(infos, _shapes(eqn), strict=True))
    name, shape = eqn.primitive.name, tuple(eqn.outvars[0].aval.shape)
    new = name == "stack"
    at = eqn.params.get("axis" if new else "dimension")
    return pointwise.join(uses, name, parts, shape, at, new)


def reduce(uses: Uses, eqn: Any, infos: Sequence[Info]) -> Info:
    """Return what is left after axes were reduced away."""
    gone = {int(k) for k in eqn.params["axes"]}
    return pointwise.reduced(uses, infos[0], gone, summed=eqn.primitive.name == "reduce_sum")


def gather(uses: Uses, eqn: Any, infos: Sequence[Info]) -> Info:
    """Return what an index picks from a table, from a stack of matrices, or from data."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, full = eqn.outvars[0].aval.shape, eqn.invars[0].aval.shape
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    own = [k for k in range(len(sizes)) if k not in gone]

    def move(dims: Dims) -> Dims:
        new = [foreign(n) for n in shape]
        for at, k in zip(numbers.offset_dims, own, strict=True):
            new[at] = dims[k] if sizes[k] == full[k] else _stretched(dims[k], sizes[k])
        return tuple(new)

    beside = numbers.operand_batching_dims
    axes = [k for k in sorted({*numbers.start_index_map, *beside}) if k in gone or sizes[k] != full[k]]
    return picked(uses, infos, move, axes, gone, beside=beside)


def dynamic_slice(uses: Uses, eqn: Any, infos: Sequence[Info]) -> Info:
    """Return what is at a place that is known only when the function runs."""
    sizes, full = eqn.params["slice_sizes"], eqn.invars[0].aval.shape
    axes = [k for k, n in enumerate(sizes) if n != full[k]]

    def move(dims: Dims) -> Dims:
        return tuple(
            _stretched(d, n) if k in axes else d for k, (d, n) in enumerate(zip(dims, sizes, strict=True))
        )

    return picked(uses, infos, move, axes, [k for k in axes if sizes[k] == 1])


def _stretched(dim: Dim, size: int) -> Dim:
    return blurred((dim,), (size,))[0] if size > 1 else ()


def rank(uses: Uses, eqn: Any, infos: Sequence[Info]) -> list[Info]:
    """Return what the values and the places of a ranking are."""
    n = len(eqn.invars[0].aval.shape)
    axes = eqn.params.get("axes", (eqn.params.get("dimension", -1),))
    values, places = pointwise.ranked(uses, infos[0], axes[0] % n if n else None)
    if eqn.primitive.name in ("argmax", "argmin"):
        return [places]
    rest = [i for i in infos[1:] if i.data]
    places = replace(places, depth=max((places.depth, *(i.depth for i in rest))))
    return [values, *[places] * (len(eqn.outvars) - 1)]


def anything(uses: Uses, eqn: Any, infos: Sequence[Info]) -> list[Info]:
    """Return what an operation makes of which no more is known than what goes in."""
    name, parts = eqn.primitive.name, list(zip(infos, _shapes(eqn), strict=True))
    if len(parts) > 1:
        pointwise.absorb_unknown(uses, name, infos)
    flags = {"shifting": name in SHIFTING, "mixing": name in MIXING}
    return [
        pointwise.anything(uses, parts, tuple(getattr(v.aval, "shape", ())), **flags) for v in eqn.outvars
    ]
