"""The step on Keras's PyTorch backend: in place, by the blocks and stacks of `downslope.torch`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._compile import _disable_dynamo

from downslope.keras.slots import Work
from downslope.rules.muon import Muon
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
    work: Sequence[Work], t: Any, learning_rate: Any, *, ns_dtype: Any, max_stack_bytes: int | None
) -> None:
    """Take the step of every variable; those of one setting and dtype share the work."""
    keep_freed_memory()
    alike: dict[Any, list[Work]] = {}
    for w in work:
        alike.setdefault((w.slot.shared, w.value.dtype, w.value.device), []).append(w)
    t, lr = int(t), float(learning_rate)
    for group in alike.values():
        setting = group[0].setting
        rate = lr * setting.lr_ratio
        if isinstance(setting.rule, Muon):
            items, asked, value = [_item(w) for w in group], NS_DTYPES[ns_dtype], group[0].value
            dtype = fast_dtype(value) if asked is None else asked
            step_stacks(
                setting.rule,
                items,
                t=t,
                how=Write(rate, setting.weight_decay, setting.cautious),
                dtype=dtype,
                max_stack_bytes=stack_bytes(max_stack_bytes, value.device),
                engine=Engine(native=_is_compiled(value, dtype)),
            )
        else:
            _elementwise(group, t, rate)


def _is_compiled(value: Any, dtype: torch.dtype | None) -> bool:
    """Whether Muon's step, iterated in a dtype or in the precision of a variable, is compiled for its CPU."""
    own = torch.promote_types(value.dtype, torch.float32)
    return value.device.type == "cpu" and not polar.reason(dtype or own)


def _elementwise(group: Sequence[Work], t: int, lr: float) -> None:
    rule, decay, cautious = group[0].setting.rule, group[0].setting.weight_decay, group[0].setting.cautious
    params, grads = [w.value for w in group], [w.g for w in group]
    states = [[part for part in w.state if part is not None] for w in group]
    columns = [list(column) for column in zip(*states, strict=True)]
    step_elementwise(rule, [params, grads, *columns], t, Write(lr, decay, cautious))


def _item(w: Work) -> Item:
    view = w.setting.view
    assert view is not None
    layout = layout_of(view, tuple(w.value.shape))
    return Item(w.value, w.g, w.state.momentum_buffer, view, layout, w.state.row_square)
