"""The largest logits of attention, seen while a model runs: what QK-clip goes by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_CHUNK = 1 << 24
"""Logits computed at a time when the largest is looked for."""

_LEFT_OUT = -9e3
"""What a mask adds where it leaves out, at most: the least number of a dtype, or -10,000, which bfloat16
rounds to -9,984."""


class AttentionLogits(TorchFunctionMode):
    """The largest attention logit of each head, seen while a model runs.

    As a context it watches `torch.nn.functional.scaled_dot_product_attention` (also as transformers call
    it, with `attn_implementation="sdpa"`) and `nn.MultiheadAttention`, with weights or without, in
    PyTorch's own Transformer layers too; the logits of each call are computed once more, in float32 at
    least and in portions. Calls are numbered from 0 in each run of the context; of several runs
    (micro-batches) the larger value stays. Inside `torch.compile`, and of attention written as products
    and a softmax, nothing is seen: `qk_clip` then takes the maxima that such a model finds itself.

    What masks leave out does not count: False, and of what is added -9,000 and less, which includes
    `torch.finfo(dtype).min`. Other biases are no part of the logits. A query of (length, dim) or (batch,
    length, dim) has one head; heads without a batch are (1, heads, length, dim).

    >>> import torch
    >>> logits = AttentionLogits()
    >>> q = torch.ones(1, 2, 3, 4)  # batch, heads, length, dim
    >>> with logits:
    ...     _ = torch.nn.functional.scaled_dot_product_attention(q, 3 * q, q)
    >>> logits[0]
    tensor([6., 6.])

    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[Tensor] = []
        self._next = 0

    def __enter__(self) -> AttentionLogits:
        self._next = 0
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let every function through; look at the queries and keys of attention."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func in _ARGUMENTS:
            with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
                self._note(_largest(*_ARGUMENTS[func](*args, **kwargs)))
        return out

    def _note(self, largest: Tensor) -> None:
        if self._next == len(self._seen):
            self._seen.append(largest)
        else:
            self._seen[self._next] = torch.maximum(self._seen[self._next], largest)
        self._next += 1

    def reset(self) -> None:
        """Forget what was seen, as after a step that was clipped."""
        self._seen.clear()

    def __getitem__(self, i: int) -> Tensor:
        return self._seen[i]

    def __len__(self) -> int:
        return len(self._seen)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._seen)


class _Call(NamedTuple):
    """What decides the logits of a call: (batch, ..., heads, length, dim), and masks that fit the logits."""

    query: Tensor
    key: Tensor
    masks: Sequence[Tensor]
    causal: bool
    scale: float


def _of_product(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> _Call:
    """Read the arguments of scaled dot-product attention."""
    if query.ndim > 2 and enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    elif query.ndim <= 3:  # no heads
        query, key = query.unsqueeze(-3), key.unsqueeze(-3)
        attn_mask = attn_mask.unsqueeze(-3) if attn_mask is not None else None
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    return _Call(query, key, [] if attn_mask is None else [_kept(attn_mask)], is_causal, scale)


def _of_module(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    *rest: Any,
    **options: Any,
) -> _Call:
    """Read the arguments of `nn.MultiheadAttention`'s function, (length, batch, width), and project them.

    That function runs where no mode sees what it calls, so queries and keys are made once more.
    """
    options |= zip(_MORE, rest, strict=False)
    if query.ndim == 2:
        query, key = query.unsqueeze(1), key.unsqueeze(1)
    batch, dim = query.shape[1], query.shape[2] // num_heads
    if options.get("use_separate_proj_weight"):
        weights = [options["q_proj_weight"], options["k_proj_weight"]]
    else:
        assert in_proj_weight is not None
        weights = list(in_proj_weight.chunk(3)[:2])
    biases = [None, None] if in_proj_bias is None else in_proj_bias.chunk(3)[:2]
    query = torch.nn.functional.linear(query, weights[0], biases[0])
    key = torch.nn.functional.linear(key, weights[1], biases[1])
    if bias_k is not None:
        key = torch.cat([key, bias_k.to(key.dtype).expand(1, batch, -1)])
    query, key = (t.reshape(len(t), batch, num_heads, dim).permute(1, 2, 0, 3) for t in (query, key))
    if (static := options.get("static_k")) is not None:
        key = static.unflatten(0, (batch, num_heads))
    if add_zero_attn:
        key = torch.nn.functional.pad(key, (0, 0, 0, 1))
    masks = []
    if (mask := options.get("attn_mask")) is not None:
        masks.append(mask.unflatten(0, (batch, num_heads)) if mask.ndim == 3 and len(mask) > 1 else mask)
    if (padding := options.get("key_padding_mask")) is not None:
        masks.append(padding.reshape(batch, 1, 1, -1))
    others = key.shape[-2]
    kept = [_kept(~mask if mask.dtype == torch.bool else mask) for mask in masks]
    kept = [torch.nn.functional.pad(mask, (0, others - mask.shape[-1]), value=True) for mask in kept]
    return _Call(query, key, kept, False, 1 / math.sqrt(dim))


_MORE = (
    "dropout_p",
    "out_proj_weight",
    "out_proj_bias",
    "training",
    "key_padding_mask",
    "need_weights",
    "attn_mask",
    "use_separate_proj_weight",
    "q_proj_weight",
    "k_proj_weight",
    "v_proj_weight",
    "static_k",
)
"""Further arguments of `nn.MultiheadAttention`'s function, in order; later ones do not matter here."""

_ARGUMENTS: dict[Any, Callable[..., _Call]] = {
    torch.nn.functional.scaled_dot_product_attention: _of_product,
    torch.nn.functional.multi_head_attention_forward: _of_module,
}


def _kept(mask: Tensor) -> Tensor:
    """Return where a mask, boolean or added to the logits, leaves them in."""
    return mask if mask.dtype == torch.bool else mask > _LEFT_OUT


def _largest(query: Tensor, key: Tensor, masks: Sequence[Tensor], causal: bool, scale: float) -> Tensor:
    """Return the largest logit of each head, (heads,), in float32."""
    if query.is_nested:
        pairs = zip(query.unbind(), key.unbind(), strict=True)
        return torch.stack([_largest(q, k, masks, causal, scale) for q, k in pairs]).amax(0)
    shape = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])  # type: ignore[no-untyped-call]
    heads, length, others = shape[-1], query.shape[-2], key.shape[-2]
    found = query.new_full((heads,), -math.inf, dtype=torch.float32)
    if not shape.numel() * others:
        return found
    wide = torch.promote_types(query.dtype, torch.float32)
    rows = max(1, _CHUNK // (shape.numel() * others))
    # autocast would round the products again, and float16 has no number above 65,504
    with torch.autocast(query.device.type, enabled=False):
        key = key.to(wide)
        for low in range(0, length, rows):
            high = min(low + rows, length)
            logits = (query[..., low:high, :].to(wide) * scale) @ key.mT
            if causal:
                places = torch.arange(others, device=query.device)
                ahead = places > torch.arange(low, high, device=query.device).unsqueeze(-1)
                logits.masked_fill_(ahead, -math.inf)
            for mask in masks:
                part = mask if mask.shape[-2] == 1 else mask[..., low:high, :]
                logits.masked_fill_(~part, -math.inf)
            largest = logits.reshape(-1, heads, (high - low) * others).amax(dim=(0, 2))
            found = torch.maximum(found, largest.float())
    return found
