"""The step of an element-wise rule compiled for this CPU: one pass over all tensors, whatever their sizes.

The rule is run with names for its arrays (`expression`), and what it did becomes the body of a loop. Every
number is read from memory once and written once. The code is compiled when a step first asks for it, in a
tenth of a second, and kept in the user's cache for the next program.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from downslope.rules.rule import Rule
from downslope.torch.blocks import is_dense
from downslope.torch.engine import Write
from downslope.torch.kernel import HALF
from downslope.torch.native import build
from downslope.torch.native.build import BuildError, Source
from downslope.torch.native.expression import Lines, written
from downslope.torch.native.memory import addresses, are_readable, in_order, sizes

_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bfloat16: "Bfloat16",
    torch.float16: "Float16",
}
FLAGS = ("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
"""Without the first two no loop with a root or a choice in it has vectors; by the third every operation
rounds once, as the rule has it, on processors with and without a joint product and sum."""

HEADER = "elementwise.h"

_CODE = """
#include <{header}>
extern "C" void step(void* const* const* columns, const long* sizes, long tensors, const double* numbers,
                     long threads) {{
    {real} k[{many} + 1];
    for (int i = 0; i < {many}; i++) k[i] = {real}(numbers[i]);
    share(sizes, tensors, threads, [&](long tensor, long from, long count) {{
        {pointers}
        const auto ask = [=](long at) {{
            {asked}
        }};
        by_turns<2, LINE_BYTES / sizeof({real}), 384>(count, ask, [&](long at, long many) {{
#pragma omp simd
            for (long i = at; i < at + many; i++) {{
                {lines}
            }}
        }});
    }});
}}
"""
"""Two places, a line of each, 384 numbers ahead: as fast as any that was tried (`benchmarks/README.md`)."""


class Step(NamedTuple):
    """A step that is compiled.

    Attributes:
        code: the library.
        numbers: the hyper-parameters, as the code reads them.

    """

    code: ctypes.CDLL
    numbers: tuple[float, ...]


def step_of(rule: Rule, dtype: torch.dtype, t: int, how: Write) -> Step | str:
    """Return the step of a rule for parameters of a dtype, or why it is not compiled, in words.

    Args:
        rule: an element-wise one.
        dtype: of the parameters and their gradients.
        t: the number of the step, from 1.
        how: the rate and the decay.

    """
    if dtype not in _TYPES:
        return f"nothing compiled for {str(dtype).removeprefix('torch.')}"
    try:
        made = written(rule, t, how)
    except Exception as error:  # of the rule: where arrays do not help it either, the step raises it
        return f"nothing compiled for this rule: {error}"
    code = _compiled(made.lines, dtype)
    return code if isinstance(code, str) else Step(code, made.numbers)


def reason(rule: Rule, dtype: torch.dtype, how: Write) -> str:
    """Return why the steps of a rule are not compiled, "" where they are."""
    first = step_of(rule, dtype, 1, how)
    return first if isinstance(first, str) else ""


def fits(columns: Sequence[Sequence[Tensor]]) -> bool:
    """Whether steps of tensors may be compiled: parameters of one dtype, gradients, parts of the state.

    Those with the same index have the same shape. Without gradients, whether the parameters may be.
    """
    params, states = columns[0], columns[2:]
    dtype = params[0].dtype
    real = {torch.float32 if dtype in HALF else dtype}
    return (
        all(map(are_readable, columns))
        and all(g.dtype == dtype for column in columns[1:2] for g in column)
        and all({t.dtype for t in column} == real for column in states)
        and (all(map(in_order, columns)) or all(map(_lie_alike, zip(*columns, strict=True))))
    )


def _lie_alike(row: tuple[Tensor, ...]) -> bool:
    """Whether tensors have their entries in one order, without gaps."""
    return in_order(row) or (len({t.stride() for t in row}) == 1 and is_dense(row[0]))


class Known(NamedTuple):
    """What a step needs of tensors that fit, and that is the same in the next one.

    Attributes:
        starts: where the parameters, and the parts of the state, begin.
        sizes: of the parameters.
        written: both, of which autograd would not learn that they are written to at their addresses.

    """

    starts: tuple[ctypes.Array[ctypes.c_void_p], ...]
    sizes: ctypes.Array[ctypes.c_long]
    written: list[Tensor]


def known_of(params: Sequence[Tensor], states: Sequence[Sequence[Tensor]]) -> Known:
    """Return it."""
    columns = (params, *states)
    return Known(tuple(map(addresses, columns)), sizes(params), list(chain(*columns)))


def take(step: Step, grads: Sequence[Tensor], known: Known) -> None:
    """Take a step of tensors that fit."""
    increment_version(known.written)
    params, *states = known.starts
    starts = (params, addresses(grads), *states)
    table = (ctypes.c_void_p * len(starts))(*map(ctypes.addressof, starts))
    numbers = (ctypes.c_double * len(step.numbers))(*step.numbers)
    step.code.step(table, known.sizes, len(grads), numbers, torch.get_num_threads())


def source_of(step: Lines, dtype: torch.dtype) -> Source:
    """Return the C++ of a step of parameters of a dtype."""
    real, stored = "double" if dtype == torch.float64 else "float", _TYPES[dtype]
    slots = range(len(step.states))
    types = [f"{stored}*", f"const {stored}*", *(f"{real}*" for _ in slots)]
    names = ["P", "G", *(f"S{i}" for i in slots)]
    pointers = [
        f"{kind} {name} = ({kind})columns[{i}][tensor] + from;"
        for i, (kind, name) in enumerate(zip(types, names, strict=True))
    ]
    asked = [f"__builtin_prefetch({name} + at, {int(name != 'G')});" for name in names]
    many = max((-operand for _, operands in step.operations for operand in operands), default=0)
    lines = [
        f"{real} p, g;",
        "read(p, P[i]);",
        "read(g, G[i]);",
        *(f"const {real} s{i} = S{i}[i];" for i in slots),
        *step.text(),
        *(f"S{i}[i] = {step.name(new)};" for i, new in enumerate(step.states) if new is not None),
        f"write(P[i], {step.name(step.parameter)});",
    ]
    text = _CODE.format(
        header=HEADER,
        real=real,
        many=many,
        pointers=_indented(8, pointers),
        asked=_indented(12, asked),
        lines=_indented(16, lines),
    )
    return Source("step", text, (HEADER,), FLAGS)


def _indented(by: int, lines: Iterable[str]) -> str:
    """Return lines of code as one text, each but the first moved in."""
    return ("\n" + " " * by).join(lines)


@cache
def _compiled(step: Lines, dtype: torch.dtype) -> ctypes.CDLL | str:
    """Return what a step is compiled to, or why it is not."""
    try:
        found = build.load(source_of(step, dtype))
    except BuildError as error:
        return f"nothing compiled for this CPU: {error}"
    pointer, number = ctypes.c_void_p, ctypes.c_long
    found.step.argtypes = (pointer, pointer, number, pointer, number)
    found.step.restype = None
    return found
