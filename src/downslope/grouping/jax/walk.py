"""Follow every value through a jaxpr: calls are entered, loops run, branches all taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from downslope.grouping.flow import moves
from downslope.grouping.flow.info import CONSTANT, RAW, Info
from downslope.grouping.flow.uses import Uses
from downslope.grouping.jax import operations
from downslope.grouping.labels import Dims, axes_of, blurred, cut, foreign, regroup, size_of

MOST_TURNS = 64
"""A loop over stacked layers is run turn by turn, at most so often."""

RANDOM = {"random_bits", "threefry2x32", "random_gamma", "rng_bit_generator", "rng_uniform"}
RANKING = {"top_k", "approx_top_k", "argmax", "argmin", "sort"}
MOVES = {
    "reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "tile", "slice", "rev", "split",
    "unstack",
}  # fmt: skip
SAME = {
    "psum", "psum_invariant", "pmax", "pmin", "ppermute", "pbroadcast", "pvary", "optimization_barrier",
    "sharding_constraint", "reshard", "layout_constraint", "device_put", "name",
}  # fmt: skip
"""What leaves every axis where it is, of one value or of several at once."""


class Walk:
    """One walk over a jaxpr with all that it calls."""

    def __init__(self, record: Uses) -> None:
        self.record = record

    def jaxpr(self, closed: ClosedJaxpr | Jaxpr, inputs: Sequence[Info]) -> list[Info]:
        """Return what the outputs are, given what the inputs are."""
        jaxpr = getattr(closed, "jaxpr", closed)
        known: dict[Any, Info] = dict.fromkeys(jaxpr.constvars, CONSTANT)
        known.update(zip(jaxpr.invars, inputs, strict=True))

        def get(v: Any) -> Info:
            return CONSTANT if isinstance(v, Literal) else known[v]

        for eqn in jaxpr.eqns:
            made = self._equation(eqn, [get(v) for v in eqn.invars])
            known.update(zip(eqn.outvars, made, strict=True))
        return [get(v) for v in jaxpr.outvars]

    def _equation(self, eqn: Any, infos: list[Info]) -> list[Info]:
        name = eqn.primitive.name
        if name in ("scan", "while", "cond"):
            return {"scan": self._scan, "while": self._while, "cond": self._cond}[name](eqn, infos)
        if (inner := _called(eqn)) is not None:
            return self.jaxpr(inner, infos)
        if name in RANDOM:
            return [RAW for _ in eqn.outvars]
        if not any(i.data or i.weights for i in infos):
            return [CONSTANT for _ in eqn.outvars]
        if name in SAME and len(eqn.outvars) == len(infos):
            return infos
        if name in MOVES or name.startswith("all_gather"):
            return self._moved(eqn, infos)
        if name in RANKING:
            return operations.rank(self.record, eqn, infos)
        handler = operations.handler(name)
        return [handler(self.record, eqn, infos)] if handler else operations.anything(self.record, eqn, infos)

    # -- loops and branches ------------------------------------------------------------------

    def _scan(self, eqn: Any, infos: list[Info]) -> list[Info]:
        n, m = eqn.params["num_consts"], eqn.params["num_carry"]
        consts, carry, xs = infos[:n], infos[n : n + m], infos[n + m :]
        layers = any(i.weights and not i.data for i in xs)
        turns = min(eqn.params["length"], MOST_TURNS if layers else 2)
        ys: list[Info] = []
        for _ in range(turns):
            out = self.jaxpr(eqn.params["jaxpr"], [*consts, *carry, *map(_turn, xs)])
            carry = [self._either([new, old]) for new, old in zip(out[:m], carry, strict=True)]
            ys = out[m:]
        return [*carry, *(y.moved(lambda dims: (foreign(2), *dims)) for y in ys)]

    def _while(self, eqn: Any, infos: list[Info]) -> list[Info]:
        c, b = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        condition, body, carry = infos[:c], infos[c : c + b], infos[c + b :]
        for _ in range(2):
            self.jaxpr(eqn.params["cond_jaxpr"], [*condition, *carry])
            out = self.jaxpr(eqn.params["body_jaxpr"], [*body, *carry])
            carry = [self._either([new, old]) for new, old in zip(out, carry, strict=True)]
        return carry

    def _cond(self, eqn: Any, infos: list[Info]) -> list[Info]:
        index, *operands = infos
        taken = [self.jaxpr(branch, operands) for branch in eqn.params["branches"]]
        outs = [self._either(list(column)) for column in zip(*taken, strict=True)]
        if index.choices:  # the data's way through the branches is chosen by a ranking
            self.record.note_routes([index, *outs])
        return [replace(o, choices=o.choices | index.choices, data=o.data or index.data) for o in outs]

    def _either(self, infos: Sequence[Info]) -> Info:
        """Return what a value is that may be any of these."""
        whole = self.record.merged(infos, infos[0].results)
        return replace(whole, weights=whole.weights or infos[0].weights) if not whole.data else whole

    # -- rearrangements ----------------------------------------------------------------------

    def _moved(self, eqn: Any, infos: list[Info]) -> list[Info]:
        name, info, p = eqn.primitive.name, infos[0], eqn.params
        own, shape = tuple(eqn.invars[0].aval.shape), tuple(eqn.outvars[0].aval.shape)
        if name == "split":
            return moves.parts(self.record, info, p["axis"], [int(n) for n in p["sizes"]])
        if name == "unstack":
            at = p["axis"]
            found = moves.parts(self.record, info, at, [1] * len(eqn.outvars))
            return [i.moved(lambda dims: (*dims[:at], *dims[at + 1 :])) for i in found]
        if name == "slice":
            starts, stops, steps = p["start_indices"], p["limit_indices"], p["strides"]
            return [moves.sliced(self.record, info, own, starts, stops, steps)]
        return [info.moved(_move(name, p, own, shape))]


def _called(eqn: Any) -> Any:
    """Return the jaxpr that an equation calls with its own operands, if it does."""
    for value in eqn.params.values():
        inner = getattr(value, "jaxpr", value)
        if (
            hasattr(inner, "eqns")
            and len(inner.invars) == len(eqn.invars)
            and len(inner.outvars) == len(eqn.outvars)
        ):
            return value
    return None


def _pieces(dims: Dims, own: tuple[int, ...]) -> Dims:
    """Return the labels of what one device holds of a value, of this shape."""
    return tuple(d if size_of(d) == n else cut(d, 0, n) for d, n in zip(dims, own, strict=True))


def _turn(info: Info) -> Info:
    """Return what one turn of a loop sees of what it runs over: the first axis is gone."""
    return replace(
        info,
        weights=tuple(
            replace(t, dims=t.dims[1:], stacked=t.stacked | axes_of(t.dims[:1])) for t in info.weights
        ),
        results=tuple(replace(t, dims=t.dims[1:]) for t in info.results),
    )


def _move(
    name: str, p: dict[str, Any], own: tuple[int, ...], shape: tuple[int, ...]
) -> Callable[[Dims], Dims]:
    if name == "transpose":
        return lambda dims: tuple(dims[k] for k in p["permutation"])
    if name == "squeeze":
        gone = {k % len(own) for k in p["dimensions"]}
        return lambda dims: tuple(d for k, d in enumerate(dims) if k not in gone)
    if name == "broadcast_in_dim":
        places = p["broadcast_dimensions"]

        def stretch(dims: Dims) -> Dims:
            new = [foreign(n) for n in shape]
            for at, d, n in zip(places, dims, own, strict=True):
                new[at] = d if n == shape[at] else foreign(shape[at])
            return tuple(new)

        return stretch
    if name == "tile":
        return lambda dims: tuple((*foreign(n), *d) for n, d in zip(p["reps"], dims, strict=True))
    if name == "rev" or p.get("tiled"):  # pieces that lie on several devices become the whole
        return lambda dims: dims
    if name.startswith("all_gather"):
        at, count = p["all_gather_dimension"], p["axis_size"]
        return lambda dims: (*(here := _pieces(dims, own))[:at], foreign(count), *here[at:])
    if prod(own) == prod(shape):
        return lambda dims: regroup(dims, shape)
    return lambda dims: dims if tuple(map(size_of, dims)) == shape else blurred(dims, shape)
