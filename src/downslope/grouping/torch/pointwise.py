"""Operations element by element: additions and scalings, joins, lookups, and everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from downslope.grouping.facts import Kind
from downslope.grouping.labels import Dims, axes_of, blurred, broadcast, factors, size_of
from downslope.grouping.torch.record import CONSTANT, NONE, RAW, Info, Record, Trace

Shape = tuple[int, ...]

ADD = {"add", "add_", "sub", "sub_", "rsub", "where", "masked_fill", "masked_fill_", "maximum", "minimum", "lerp", "lerp_",
       "addcmul", "addcmul_", "addcdiv", "addcdiv_", "logaddexp", "hypot"}  # fmt: skip
SCALE = {"mul", "mul_", "div", "div_", "pow", "prelu", "_prelu_kernel", "__rpow__", "float_power"}
NORMS = {"native_layer_norm", "native_group_norm", "native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit",
         "_native_batch_norm_legit_no_training", "_native_batch_norm_legit_functional", "_batch_norm_with_update",
         "batch_norm", "miopen_batch_norm", "_fused_rms_norm", "rms_norm", "instance_norm", "group_norm", "layer_norm"}  # fmt: skip
JOIN = {"cat", "stack", "hstack", "vstack", "copy_", "index_copy", "index_put", "index_put_", "_index_put_impl_", "scatter",
        "scatter_", "scatter_add", "scatter_add_", "index_add", "index_add_", "slice_scatter", "select_scatter",
        "block_diag", "masked_scatter", "masked_scatter_", "concat", "complex", "scatter_reduce", "scatter_reduce_",
        "index_reduce", "meshgrid"}  # fmt: skip
LOOKUP = {"embedding": "weight", "_embedding_bag": "weight", "_embedding_bag_forward_only": "weight", "index": "self",
          "index_select": "self", "gather": "self", "take": "self", "take_along_dim": "self", "_unsafe_index": "self",
          "masked_select": "self", "embedding_bag": "weight", "grid_sampler_2d": "input", "grid_sampler_3d": "input"}  # fmt: skip
SHIFTING = {"neg", "dropout", "native_dropout", "fill_", "alpha_dropout", "_fused_dropout", "nan_to_num"}
RANKING = {"topk", "argmax", "argmin", "sort", "argsort", "max", "min", "kthvalue", "multinomial"}
FACTORIES = {"zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_empty", "new_full", "new_ones",
             "new_empty_strided", "empty_strided", "bernoulli_", "zero_", "zeros", "ones", "empty", "full", "arange", "eye",
             "linspace", "logspace", "scalar_tensor", "bernoulli", "tril_indices", "triu_indices"}  # fmt: skip
REDUCING = {"sum", "mean", "linalg_vector_norm", "norm", "amax", "amin", "var", "std", "var_mean", "logsumexp", "prod",
            "any", "all", "count_nonzero", "std_mean", "cumsum"}  # fmt: skip


def absorb(
    record: Record, weight: Info, kind: Kind, operation: str, data: Info, linear: bool = True
) -> tuple[Trace, ...]:
    """Enter the uses of parameters that meet data element by element, or beside it; return their traces."""
    products = []
    for trace in () if weight.data else weight.weights:
        if trace.inner:
            outputs = axes_of(trace.dims) - trace.inner
            record.meet(trace, Kind.CONTRACTION, operation, CONSTANT, outputs=outputs, inputs=trace.inner)
            continue
        met = kind if not trace.fetched else Kind.LOOKUP
        number = record.meet(trace, met, operation, data, outputs=axes_of(trace.dims))
        if met is Kind.SCALING and len(axes_of(trace.dims)) > 1:
            products.append(replace(trace, origin=number, linear=False))
    return tuple(products)


def combine(
    record: Record, kind: Kind, operation: str, parts: Sequence[tuple[Info, Shape]], out: torch.Tensor
) -> Info:
    """Return what an elementwise result of these is."""
    shape = tuple(out.shape)
    infos = [info for info, _ in parts]
    if not any(i.data for i in infos):
        return record.merged([_fitted(i, own, shape) for i, own in parts])
    whole = record.merged(infos)
    products: tuple[Trace, ...] = ()
    for info, own in parts:
        if not info.data and info.weights:
            products += absorb(record, _fitted(info, own, shape), kind, operation, whole)
    if kind is Kind.ADDITION:
        record.note_join(infos)
    results = [t for k, (i, own) in enumerate(parts) for t in _kept(parts, k, kind, shape)]
    return record.merged(infos, (*_distinct(results), *products))


def _kept(parts: Sequence[tuple[Info, Shape]], k: int, kind: Kind, shape: Shape) -> list[Trace]:
    """Return the results that go on through an elementwise operation.

    A sum of results is linear in each. A product is linear in one factor as long as the other
    comes from no weight, or is stretched along the outputs: a norm's scale, a rotary table.
    """
    info, own = parts[k]
    kept = []
    for trace in info.results:
        dims = _fit(trace.dims, own, shape)
        linear = trace.linear
        for j, (other, size) in enumerate(parts):
            if kind is Kind.SCALING and j != k and other.data and other.depth > 0:
                padded = (1,) * (len(shape) - len(size)) + size
                if any(n != 1 and axes_of((d,)) for d, n in zip(dims, padded, strict=True)):
                    break
        else:
            kept.append(replace(trace, dims=dims, linear=linear))
    return kept


def _distinct(traces: Sequence[Trace]) -> list[Trace]:
    found: dict[tuple[int, frozenset[tuple[int, int]]], Trace] = {}
    for t in traces:
        found.setdefault((t.origin, frozenset((f.axis or 0, f.start) for f in factors(t.dims))), t)
    return list(found.values())


def _fit(dims: Dims, own: Shape, shape: Shape) -> Dims:
    if len(dims) != len(own):
        return blurred(dims, shape)
    return broadcast(dims, own, shape)


def _fitted(info: Info, own: Shape, shape: Shape) -> Info:
    return replace(info, weights=tuple(replace(t, dims=_fit(t.dims, own, shape)) for t in info.weights))


def tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors among the arguments of an operation."""
    found: list[torch.Tensor] = []
    for v in (
        value if isinstance(value, (list, tuple)) else value.values() if isinstance(value, dict) else (value,)
    ):
        if isinstance(v, torch.Tensor):
            found.append(v)
        elif isinstance(v, (list, tuple)):
            found.extend(tensors(v))
    return found


def elementwise(record: Record, name: str, a: dict[str, Any], out: torch.Tensor) -> None:
    """Label sums, products and choices between tensors."""
    kind = Kind.SCALING if name in SCALE else Kind.ADDITION
    parts = [(record.get(t), tuple(t.shape)) for t in tensors(a)]
    infos = [i for i, _ in parts]
    if any(i.choices for i in infos):
        note_routes(record, infos)
    record.set(out, combine(record, kind, name.strip("_"), parts, out))


def norm(record: Record, name: str, a: dict[str, Any], out: Any) -> None:
    """Label the result of a normalisation with a gain and a bias."""
    x = a.get("input", a.get("self"))
    result = out[0] if isinstance(out, (list, tuple)) else out
    info = record.get(x)
    for key, kind in (("weight", Kind.SCALING), ("bias", Kind.ADDITION)):
        t = a.get(key)
        if t is not None and info.data:
            absorb(record, record.get(t), kind, name.removeprefix("native_"), info)
    for t in tensors(out):
        record.set(t, replace(info, results=(), weights=info.weights))
    record.set(result, info)


def join(record: Record, name: str, a: dict[str, Any], out: torch.Tensor) -> None:
    """Label what tensors become that are put side by side, or written into another."""
    inputs = tensors(a)
    infos = [record.get(t) for t in inputs]
    shape = tuple(out.shape)
    if any(i.choices for i in infos):
        note_routes(record, infos)
    if not any(i.data for i in infos):
        weights = tuple(
            replace(t, dims=_side_by_side(name, a, t.dims, x, out))
            for x, i in zip(inputs, infos, strict=True)
            for t in i.weights
        )
        record.set(out, record.merged([Info(weights=weights)]))
        return
    whole = record.merged(infos)
    for info in infos:
        absorb(record, info, Kind.JOIN, name.strip("_"), whole)
    record.note_join(infos)
    results = tuple(
        replace(t, dims=_side_by_side(name, a, t.dims, x, out))
        for x, i in zip(inputs, infos, strict=True)
        for t in i.results
    )
    info = record.merged(infos, tuple(_distinct(results)))
    has_parameter = any(i.weights and not i.data for i in infos)
    record.set(out, replace(info, depth=max(info.depth, 1)) if has_parameter and shape else info)


def _side_by_side(name: str, a: dict[str, Any], dims: Dims, x: torch.Tensor, out: torch.Tensor) -> Dims:
    shape = tuple(out.shape)
    if name == "stack":
        at = a.get("dim", 0) % out.dim()
        return (*dims[:at], *blurred((), (shape[at],)), *dims[at:])
    if name in ("cat", "concat") and len(dims) == len(shape):
        at = a.get("dim", 0) % out.dim()
        whole = dims[at] if size_of(dims[at]) == shape[at] else blurred((dims[at],), (shape[at],))[0]
        return (*dims[:at], whole, *dims[at + 1 :])
    return dims if size_of_all(dims) == shape else blurred(dims, shape)


def size_of_all(dims: Dims) -> Shape:
    """Return the shape that labels describe."""
    return tuple(size_of(d) for d in dims)


def lookup(record: Record, name: str, a: dict[str, Any], out: Any) -> None:
    """Label what an index picks from a table, from a stack of matrices, or from data."""
    table: torch.Tensor = a[LOOKUP[name]]
    others = [t for key, v in a.items() if key != LOOKUP[name] for t in tensors((v,))]
    info, picks = record.get(table), [record.get(t) for t in others]
    result = out[0] if isinstance(out, (list, tuple)) else out
    if any(p.choices for p in picks) and (info.data or _matrices(info)):
        note_routes(record, [info, *picks])
    whole = record.merged([info, *picks])
    if info.weights and not info.data:
        traces = tuple(_fetch(t, name, a, table, result) for t in info.weights)
        if name not in ("index", "index_select", "gather", "_unsafe_index") or any(p.data for p in picks):
            for t in traces:
                if len(axes_of(t.dims)) < 2:
                    record.meet(
                        replace(t, dims=()),
                        Kind.LOOKUP,
                        name.strip("_"),
                        whole,
                        inputs=t.fetched,
                        outputs=axes_of(t.dims),
                    )
            keep = tuple(t for t in traces if len(axes_of(t.dims)) > 1)
            info = Info(weights=keep, data=True, depth=max(whole.depth, 1), choices=whole.choices)
        else:
            info = Info(weights=traces)
    else:
        results = tuple(replace(t, dims=_after_index(name, a, t.dims, result)) for t in info.results)
        info = replace(record.merged([info, *picks]), results=results) if whole.data else whole
    for t in tensors(out):
        record.set(t, info)


def _matrices(info: Info) -> bool:
    return any(len(axes_of(t.dims)) > 2 for t in info.weights)


def _after_index(name: str, a: dict[str, Any], dims: Dims, out: torch.Tensor) -> Dims:
    if name == "index_select" or (name == "gather" and len(dims) == out.dim()):
        at = a["dim"] % len(dims)
        return tuple(
            blurred((d,), (n,))[0] if k == at or size_of(d) != n else d
            for k, (d, n) in enumerate(zip(dims, out.shape, strict=True))
        )
    if name == "index" and (
        a["indices"] and a["indices"][0] is not None and all(i is None for i in a["indices"][1:])
    ):
        lead = out.dim() - (len(dims) - 1)
        if a["indices"][0].dtype != torch.bool and lead >= 0:
            return (*blurred((), tuple(out.shape[:lead])), *dims[1:])
    return blurred(dims, tuple(out.shape))


def _fetch(trace: Trace, name: str, a: dict[str, Any], table: torch.Tensor, out: torch.Tensor) -> Trace:
    """Return the labels of what was fetched: the picked axes are gone, the others at the end."""
    if name in ("index", "_unsafe_index"):
        picked = [k for k, i in enumerate(a["indices"]) if i is not None]
    elif name in ("index_select", "gather"):
        picked = [a["dim"] % table.dim()]
    else:
        picked = (
            [0] if name.endswith(("embedding", "embedding_bag", "forward_only")) else list(range(table.dim()))
        )
    gone = axes_of([trace.dims[k] for k in picked])
    rest = tuple(d for k, d in enumerate(trace.dims) if k not in picked)
    lead = tuple(out.shape[: max(out.dim() - len(rest), 0)])
    if len(rest) <= out.dim() and tuple(map(size_of, rest)) == tuple(out.shape[len(lead) :]):
        dims = (*blurred((), lead), *rest)
    else:
        dims = blurred(rest, tuple(out.shape))
    return replace(trace, dims=dims, fetched=trace.fetched | gone)


def note_routes(record: Record, infos: Sequence[Info]) -> None:
    """Say that a ranking decided what the data meets, where it picks from more than itself."""
    for k, info in enumerate(infos):
        for use in info.choices:
            for j, other in enumerate(infos):
                mine = use in other.writers or any(t.origin == use for t in other.results)
                if j != k and not mine and use not in other.choices and (other.depth or other.weights):
                    record.uses[use].routes = True


def rank(record: Record, name: str, a: dict[str, Any], out: Any) -> None:
    """Label the values and the indices of a ranking."""
    x: torch.Tensor = a["self"]
    info = record.get(x)
    values, indices = (out[0], out[1]) if isinstance(out, (list, tuple)) else (None, out)
    at = a.get("dim", -1)
    ranked = (
        frozenset(
            t.origin
            for t in info.results
            if at is not None and len(t.dims) == x.dim() and axes_of((t.dims[at % x.dim()],))
        )
        if x.dim()
        else NONE
    )
    if values is not None:
        record.set(values, replace(record.merged([info]), choices=info.choices))
    if indices.dtype.is_floating_point:
        record.set(indices, record.merged([info, *(record.get(t) for t in tensors(a))]))
    else:
        record.set(indices, Info(data=info.data, depth=info.depth, choices=info.choices | ranked))


def reduce(record: Record, name: str, a: dict[str, Any], out: Any) -> None:
    """Label a reduction; a product of data and a matrix that is summed over is a contraction."""
    x: torch.Tensor = a.get("self", a.get("x"))
    info = record.get(x)
    dims = a.get("dim")
    gone = (
        set(range(x.dim()))
        if dims in (None, [])
        else {k % max(x.dim(), 1) for k in (dims if isinstance(dims, (list, tuple)) else (dims,))}
    )
    keep = bool(a.get("keepdim", False))
    info = _summed(record, info, gone) if name in ("sum", "mean") else info

    def move(labels: Dims) -> Dims:
        return tuple(() if k in gone else d for k, d in enumerate(labels) if keep or k not in gone)

    for t in tensors((out,)) if not isinstance(out, (list, tuple)) else tensors(out):
        same = t.dim() == x.dim() - (0 if keep else len(gone))
        weights = tuple(
            replace(w, dims=move(w.dims) if same else blurred(w.dims, tuple(t.shape))) for w in info.weights
        )
        results = tuple(
            replace(w, dims=move(w.dims))
            for w in info.results
            if same and not axes_of([w.dims[k] for k in gone])
        )
        record.set(t, replace(info, weights=weights, results=results))


def _summed(record: Record, info: Info, gone: set[int]) -> Info:
    number = 0
    for t in info.results:
        met = record.uses[t.origin]
        inputs = axes_of([t.dims[k] for k in gone if k < len(t.dims)])
        outputs = axes_of(t.dims) - inputs
        if met.kind is Kind.SCALING and inputs and outputs:
            record.feed(info)
            basis = replace(RAW, depth=met.depth, data=met.data)
            number = record.meet(
                replace(t, origin=met.parameter),
                Kind.CONTRACTION,
                "mul and sum",
                basis,
                outputs=outputs,
                inputs=inputs,
            )
            info = replace(info, depth=info.depth + 1, writers=frozenset({number}))
    return info


def anything(record: Record, name: str, inputs: Sequence[torch.Tensor], out: Any) -> None:
    """Label the result of an operation whose arithmetic is not known here."""
    infos = [record.get(t) for t in inputs]
    if any(i.choices for i in infos):
        note_routes(record, infos)
    whole = record.merged(infos)
    if whole.data:
        for t, info in zip(inputs, infos, strict=True):
            absorb(record, info, Kind.UNKNOWN, name, whole)
    for t in tensors(out if isinstance(out, (list, tuple)) else (out,)):
        shape = tuple(t.shape)
        if whole.data:
            one = len(inputs) == 1
            results = tuple(
                replace(r, linear=r.linear and name in SHIFTING)
                for x, i in zip(inputs, infos, strict=True)
                for r in i.results
                if one and tuple(x.shape) == shape
            )
            record.set(t, record.merged(infos, results))
        else:
            parts = [(i, tuple(x.shape)) for i, x in zip(infos, inputs, strict=True)]
            weights = tuple(replace(w, dims=_fit(w.dims, own, shape)) for i, own in parts for w in i.weights)
            record.set(t, replace(record.merged([Info(weights=weights)]), choices=whole.choices))
