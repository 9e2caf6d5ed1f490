"""The step on Keras's PyTorch backend: in place, by the blocks and stacks of `downslope.torch`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._compile import _disable_dynamo

from downslope.keras.slots import Work
from downslope.rules.muon import Muon
from downslope.rules.rule import Rule
from downslope.torch.element_step import step_elementwise
from downslope.torch.engine import Engine, Write
from downslope.torch.muon import NS_DTYPES
from downslope.torch.native import polar
from downslope.torch.places import Item, layout_of
from downslope.torch.precision import fast_dtype
from downslope.torch.stacks import keep_freed_memory, stack_bytes, step_stacks


@_disable_dynamo  # inside a compiled train step it runs as it is: kernels need no compiler
@torch.no_grad()
def as_it_is(update: Callable[..., None], *args: Any) -> None:
    """Take a step that is neither differentiated nor, with `jit_compile=True`, compiled."""
    update(*args)


def step_in_place(
    work: Sequence[Work],
    t: Any,
    learning_rate: Any,
    *,
    ns_dtype: str,
    max_stack_bytes: int | None,
    fused: bool | None,
) -> None:
    """Take the step of every variable; those of one setting and dtype share the work."""
    keep_freed_memory()
    alike: dict[Any, list[Work]] = {}
    for w in work:
        alike.setdefault((w.slot.shared, w.value.dtype, w.value.device), []).append(w)
    t, lr = int(t), float(learning_rate)
    for group in alike.values():
        setting = group[0].setting
        how = Write(lr * setting.lr_ratio, setting.weight_decay, setting.cautious, fused is not False)
        if isinstance(setting.rule, Muon):
            items, value = [_item(w) for w in group], group[0].value
            step_stacks(
                setting.rule,
                items,
                t=t,
                how=how,
                dtype=_asked(value, ns_dtype),
                max_stack_bytes=stack_bytes(max_stack_bytes, value.device),
                engine=Engine(native=not _plain_because(value, ns_dtype, fused)),
            )
        else:
            _elementwise(setting.rule, group, t, how)


def engine_of(value: Any, ns_dtype: str, fused: bool | None) -> str:
    """Return in words what orthogonalises matrices of the dtype and device of a tensor."""
    if why := _plain_because(value, ns_dtype, fused):
        return f"plain PyTorch ({why})"
    dtype = _asked(value, ns_dtype) or torch.float32
    return f"orthogonalised by code compiled for this CPU, in {str(dtype).removeprefix('torch.')}"


def _asked(value: Any, ns_dtype: str) -> torch.dtype | None:
    """Return the dtype that a variable's iterations run in, None for its own."""
    asked: torch.dtype | None = NS_DTYPES[ns_dtype]
    return fast_dtype(value) if asked is None else asked


def _plain_because(value: Any, ns_dtype: str, fused: bool | None) -> str:
    """Return why a variable's matrices are orthogonalised in plain PyTorch, "" where they are not."""
    if fused is False:
        return "fused=False"
    if value.device.type != "cpu":
        return f"nothing compiled for {value.device.type}"
    return polar.reason(_asked(value, ns_dtype) or torch.promote_types(value.dtype, torch.float32))


def _elementwise(rule: Rule, group: Sequence[Work], t: int, how: Write) -> None:
    params, grads = [w.value for w in group], [w.g for w in group]
    states = [[part for part in w.state if part is not None] for w in group]
    columns = [list(column) for column in zip(*states, strict=True)]
    step_elementwise(rule, [params, grads, *columns], t, how)


def _item(w: Work) -> Item:
    view = w.setting.view
    assert view is not None
    layout = layout_of(view, tuple(w.value.shape))
    return Item(w.value, w.g, w.state.momentum_buffer, view, layout, w.state.row_square)
