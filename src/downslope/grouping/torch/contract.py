"""Operations that contract, told as letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from downslope.grouping.facts import Kind
from downslope.grouping.flow import contract as flow
from downslope.grouping.flow.info import Info
from downslope.grouping.flow.pointwise import combine
from downslope.grouping.labels import axes_of
from downslope.grouping.torch.pointwise import anything, tensors
from downslope.grouping.torch.record import Record

LETTERS: dict[str, tuple[str, str, str | None]] = {
    "mm": ("self", "mat2", "ik,kj->ij"),
    "addmm": ("mat1", "mat2", "ik,kj->ij"),
    "_addmm_activation": ("mat1", "mat2", "ik,kj->ij"),
    "addmm_": ("mat1", "mat2", "ik,kj->ij"),
    "bmm": ("self", "mat2", "bik,bkj->bij"),
    "baddbmm": ("batch1", "batch2", "bik,bkj->bij"),
    "baddbmm_": ("batch1", "batch2", "bik,bkj->bij"),
    "addbmm": ("batch1", "batch2", "bik,bkj->ij"),
    "mv": ("self", "vec", "ik,k->i"),
    "addmv": ("mat", "vec", "ik,k->i"),
    "addmv_": ("mat", "vec", "ik,k->i"),
    "dot": ("self", "tensor", "k,k->"),
    "vdot": ("self", "other", "k,k->"),
    "_grouped_mm": ("self", "mat2", None),
    "addr": ("vec1", "vec2", "i,j->ij"),
}


def contract(record: Record, name: str, a: dict[str, Any], out: torch.Tensor) -> None:
    """Label the result of a matrix product."""
    left, right, letters = LETTERS[name]
    if letters is None:
        letters = _grouped(a["self"].dim(), a["mat2"].dim())
    info = product(record, name, a[left], a[right], letters)
    if name.startswith("add") or name.startswith("badd"):
        shift = a["self"]
        info = combine(
            record,
            Kind.ADDITION,
            "add",
            [(info, tuple(out.shape)), (record.get(shift), tuple(shift.shape))],
            tuple(out.shape),
        )
    record.set(out, info)


def nested(record: Record, name: str, a: dict[str, Any], results: Sequence[torch.Tensor]) -> None:
    """Label a linear layer of tensors of tensors, whose last axis is all that is known of them."""
    data, weight = record.get(a["input"]), record.get(a["weight"])
    info = flow.product(
        record, name, data, weight, "k", "jk", "j", dict(zip("jk", a["weight"].shape, strict=True))
    )
    if a.get("bias") is not None:
        record.absorb(record.get(a["bias"]), Kind.ADDITION, "bias", info)
    for t in results:
        record.set(t, replace(info, results=()))


def _grouped(left: int, right: int) -> str:
    """Return the letters of a grouped product: a side without a group axis has its groups in a row."""
    return f"{'gik'[3 - left :]},{'gkj'[3 - right :]}->{'gij' if left == right else 'ij'}"


def product(record: Record, name: str, x: torch.Tensor, y: torch.Tensor, letters: str) -> Info:
    """Return what the contraction of two tensors is; enter the use if one of them is a weight."""
    (lx, ly), lo = letters.split("->")[0].split(","), letters.split("->")[1]
    sizes = dict(zip(lx, x.shape, strict=True)) | dict(zip(ly, y.shape, strict=True))
    return flow.product(record, name, record.get(x), record.get(y), lx, ly, lo, sizes)


def convolution(record: Record, a: dict[str, Any], out: torch.Tensor) -> None:
    """Label the result of a convolution of any rank, transposed or grouped."""
    x, w = record.get(a["input"]), record.get(a["weight"])
    kernel, o = tuple(a["weight"].shape), 1 if a.get("transposed", False) else 0
    at = out.dim() - len(kernel) + 1
    info = flow.convolution(record, x, w, kernel, o, tuple(out.shape), at, a.get("groups", 1))
    if a.get("bias") is not None:
        record.absorb(record.get(a["bias"]), Kind.ADDITION, "bias", info)
    record.set(out, info)


def bilinear(record: Record, a: dict[str, Any], out: torch.Tensor) -> None:
    """Label the result of x Wₖ y: each matrix of the weight is summed over whole."""
    x, w, y = (record.get(a[k]) for k in ("i1", "i2", "i3"))
    data = record.merged([replace(x, weights=()), replace(y, weights=())])
    if not data.data or w.data or not w.weights:
        record.set(out, record.merged([x, w, y]))
        return
    record.feed(x)
    record.feed(y)
    writers = set()
    for trace in w.weights:
        outputs, inputs = axes_of(trace.dims[:1]), axes_of(trace.dims[1:])
        writers.add(record.meet(trace, Kind.CONTRACTION, "bilinear", data, outputs=outputs, inputs=inputs))
    record.set(out, Info(data=True, depth=data.depth + 1, writers=record.open(writers)))


def attention(record: Record, name: str, a: dict[str, Any], out: Any) -> None:
    """Label the result of a fused attention kernel: heads run side by side before the last two axes."""
    note_heads(record, [a[k] for k in ("query", "key", "value")])
    anything(record, name, tensors(a), out)


def note_heads(record: Record, given: Sequence[torch.Tensor]) -> None:
    """Enter that queries, keys and values have heads before their last two axes."""
    letters = [*range(given[0].dim() - 2), "l", "e"]
    for t in given:
        record.note_heads(record.get(t), letters, letters[:-2], letters[:-2])


ATTENTION = {
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "scaled_dot_product_attention",
}
