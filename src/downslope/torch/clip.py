r"""QK-clip: queries and keys are scaled down where attention logits grow too large.

Muon lets attention logits grow where AdamW does not; MuonClip bounds them after each step, per head:

.. math::
    S_h = \max_{i,j}\; q_{h,i} \cdot k_{h,j} / \sqrt{d}, \qquad
    \gamma_h = \min(1, \tau / S_h), \qquad
    W_q^h \leftarrow \sqrt{\gamma_h}\, W_q^h, \quad W_k^h \leftarrow \sqrt{\gamma_h}\, W_k^h

Where several query heads share a key (grouped-query attention), the key belongs to no one of them: it
stays, and the query takes :math:`\gamma_h` whole, as the source does for shared rotary keys.

    logits = AttentionLogits()
    with logits:
        loss = model(batch)
    loss.backward()
    optimizer.step()
    for block, largest in zip(model.blocks, logits):
        qk_clip(block.query.weight, block.key.weight, largest, tau=100.0)

Source: Kimi Team, Kimi K2, 2025, arXiv:2507.20534.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from downslope.grouping.view import MatrixView
from downslope.rules.checks import require, require_number
from downslope.torch.kernel import OPS


@torch.no_grad()
def qk_clip(
    query: Tensor,
    key: Tensor,
    max_logits: Tensor,
    *,
    tau: float = 100.0,
    query_bias: Tensor | None = None,
    key_bias: Tensor | None = None,
) -> Tensor:
    r"""Scale the heads of a query and a key projection whose largest logit exceeds `tau`.

    A fused projection is given by its parts, `w[:d]` and `w[d:2*d]`, or as a whole to `qk_clip_fused`; a
    transposed one (a Conv1D's) as `w.mT`. Nothing is read from an accelerator: a head whose logit is
    infinite or NaN there stays as it is, and its :math:`\gamma` is NaN.

    Args:
        query: (heads · dim, fan_in), head after head; written.
        key: (key_heads · dim, fan_in), where key_heads divides heads; written.
        max_logits: S, (heads,): the largest logit of each head, as `AttentionLogits` finds it.
        tau: :math:`\tau` > 0, what no logit is to exceed.
        query_bias: (heads · dim,), written; a bias is part of the query and scales with it.
        key_bias: (key_heads · dim,), written.

    Returns:
        :math:`\gamma`, (heads,): 1 where nothing was done.

    Raises:
        ValueError: shapes that do not fit one another; a `tau` that is not positive; on a CPU, a logit that
            is infinite or NaN. Nothing was changed.

    >>> import torch
    >>> q, k = torch.ones(4, 3), torch.ones(4, 3)
    >>> qk_clip(q, k, torch.tensor([50.0, 400.0]), tau=100.0)
    tensor([1.0000, 0.2500])
    >>> q[:, 0]
    tensor([1.0000, 1.0000, 0.5000, 0.5000])

    """
    heads, key_heads = _check(query, key, max_logits, tau)
    for name, bias, weight in (("query_bias", query_bias, query), ("key_bias", key_bias, key)):
        shape = None if bias is None else tuple(bias.shape)
        require(name, shape, shape is None or shape == (len(weight),), f"the shape {(len(weight),)}")
    known = max_logits < math.inf  # -inf is a head whose logits are all masked
    gamma = torch.where(known & (max_logits > tau), tau / max_logits, 1.0)
    shared = key_heads < heads
    _scale((query, query_bias), gamma if shared else gamma.sqrt())
    if not shared:
        _scale((key, key_bias), gamma.sqrt())
    return gamma.masked_fill(~known, math.nan)


@torch.no_grad()
def qk_clip_fused(
    weight: Tensor,
    view: MatrixView,
    max_logits: Tensor,
    *,
    tau: float = 100.0,
    bias: Tensor | None = None,
) -> Tensor:
    r"""Scale the heads of a fused projection, seen as a view whose first matrices are query and key.

    The view is the one that `downslope.torch.partition` finds: one block after the other, or
    interleaved head by head, and of whichever axis is the output. With `heads="split"` it finds one block
    a head, of which none says whether it is a query or a key; such a view is refused.

    Args:
        weight: the parameter; written.
        view: cuts its outputs into query, key and, usually, value.
        max_logits: as in `qk_clip`.
        tau: as in `qk_clip`.
        bias: as long as all outputs; written.

    Raises:
        ValueError: as in `qk_clip`, or a view without blocks, or with one a head.

    >>> import torch
    >>> from downslope.grouping.view import MatrixView
    >>> w = torch.ones(6, 4)
    >>> view = MatrixView((0,), (1,), blocks=(2, 2, 2))
    >>> qk_clip_fused(w, view, torch.tensor([400.0, 50.0]), tau=100.0)
    tensor([0.2500, 1.0000])
    >>> w[:, 0]
    tensor([0.5000, 1.0000, 0.5000, 1.0000, 1.0000, 1.0000])

    """
    two = len(view.blocks) >= 2 and view.blocks_along == "outputs" and not view.batch
    require("view", view, two, "outputs cut into query, key and value, without batch axes")
    heads = max_logits.numel()
    split = 1 < heads < len(view.blocks) - 1 and len(set(view.blocks)) == 1
    require(
        "view",
        view,
        not split,
        f"query as one block of {heads} heads, not a block a head: pass the view of heads='fused', "
        "partition(model, batch)[name].view, or the rows of query and key to qk_clip",
    )
    stacks = [stack.clone() for stack in view.split(OPS, weight)]
    query, key = [matrix for stack in stacks for matrix in stack][:2]
    parts: list[Tensor] = []
    biases: list[Tensor | None] = [None, None]
    if bias is not None:
        along = MatrixView((0,), (1,), blocks=view.blocks, repeats=view.repeats)
        parts = [stack.clone() for stack in along.split(OPS, bias[:, None])]
        biases = [matrix[:, 0] for stack in parts for matrix in stack][:2]
    gamma: Tensor = qk_clip(query, key, max_logits, tau=tau, query_bias=biases[0], key_bias=biases[1])
    weight.copy_(view.join(OPS, stacks, tuple(weight.shape)))
    if bias is not None:
        bias.copy_(along.join(OPS, parts, (len(bias), 1))[:, 0])
    return gamma


def _check(query: Tensor, key: Tensor, max_logits: Tensor, tau: float) -> tuple[int, int]:
    require_number("tau", tau, 0.0)
    require("tau", tau, tau > 0, "a number above 0")
    fits = max_logits.ndim == 1 and len(max_logits) > 0 and len(query) % len(max_logits) == 0
    require("max_logits", tuple(max_logits.shape), fits, f"one for each head, which divide {len(query)} rows")
    heads = len(max_logits)
    dim = len(query) // heads
    key_heads = len(key) // dim
    fits = len(key) % dim == 0 and key_heads > 0 and heads % key_heads == 0
    require("key", tuple(key.shape), fits, f"rows for a divisor of {heads} heads of {dim}")
    if max_logits.device.type == "cpu":
        finite = bool((max_logits < math.inf).all())
        require(
            "max_logits", max_logits, finite, "finite numbers: the forward pass left the range of its dtype"
        )
    return heads, key_heads


def _scale(projection: tuple[Tensor, Tensor | None], factor: Tensor) -> None:
    """Multiply the rows of each head of a weight and its bias by its factor, in place."""
    weight, bias = projection
    rows = factor.to(weight.dtype).repeat_interleave(len(weight) // len(factor), output_size=len(weight))
    weight.mul_(rows[:, None])
    if bias is not None:
        bias.mul_(rows.to(bias.dtype))
