"""From facts to roles, views and reasons: the rules of grouping, in the order in which they decide.

1. A parameter that is not trained is **frozen**; one that the batch did not reach is **unused**.
2. What is looked up, or stands among the data itself (tables, class tokens, learned queries,
   position tables that are added), is an **embedding**, even if it is also contracted (tied).
3. What is contracted with the data is seen as a stack of (fan_out, fan_in) matrices, and is
   - a **router** if a ranking of its result decides which data meets which other weights, or if data
     picks from its result, entry by entry, what weighs them,
   - an **output** if its result reaches the model's output and goes into no further contraction,
   - an **input** if it is only ever contracted with raw data, or with constants,
   - a **vector** if its matrices have a side below `NARROW` (depthwise kernels, scalar gates),
   - **hidden** otherwise.
4. What is only added or multiplied element by element is a **vector**.

A weight that is used in different ways, or under two names, gets the strictest of its roles:
embedding, then output, input, router, vector, hidden. Only hidden matrices of real numbers go to Muon: its
update gives every direction of a matrix the same length, which asks that the matrix maps one
learned space to another. A table's rows are met one at a time, and the axes of raw data and of
the model's outputs have scales of their own.

Nothing here knows a framework, or reads a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from downslope.grouping.facts import Kind, ModelFacts, ParameterFacts, Use
from downslope.grouping.partition import Assignment, Role
from downslope.grouping.view import MatrixView

NARROW = 4
STRICTEST = (Role.EMBEDDING, Role.OUTPUT, Role.INPUT, Role.ROUTER, Role.VECTOR, Role.HIDDEN)


@dataclass(frozen=True)
class Verdict:
    """What one way of using a parameter makes of it."""

    role: Role
    reason: str
    view: MatrixView | None = None


def assign(model: ModelFacts, *, split_heads: bool = False) -> list[Assignment]:
    """Return one assignment for each parameter.

    >>> from downslope.grouping.facts import ModelFacts, ParameterFacts, Use
    >>> use = Use(Kind.CONTRACTION, (0,), (1,), depth=1, deepest=1, feeds=True)
    >>> a, = assign(ModelFacts((ParameterFacts("w", (64, 32), (use,)),), depth=3))
    >>> a.role.value, a.reason
    ('hidden', 'contracted over axis 1 at depth 1 of 3')

    """
    return [_assignment(p, model.depth, split_heads) for p in model.parameters]


def _assignment(p: ParameterFacts, depth: int, split_heads: bool) -> Assignment:
    verdicts = sorted(_verdicts(p, depth, split_heads), key=lambda v: _strictness(v.role))
    if not p.trainable:
        view = next((v.view for v in verdicts if v.view), None)
        return Assignment(p.name, p.shape, Role.FROZEN, "none", view, "requires no gradient")
    if not verdicts:
        why = "no operation of this forward pass read it"
        warning = "not used on this batch: AdamW, unless a batch that uses it shows more"
        return Assignment(p.name, p.shape, Role.UNUSED, Role.UNUSED.rule, None, why, warning)
    first = verdicts[0]
    view = next((v.view for v in verdicts if v.view and v.role is first.role), None)
    view = view or next((v.view for v in verdicts if v.view), None)
    reason = first.reason
    others = {v.role for v in verdicts[1:]} - {first.role, Role.VECTOR, Role.UNCLEAR}
    if others:
        reason += f"; also {' and '.join(sorted(_also(v) for v in verdicts[1:] if v.role in others))}"
    if p.aliases:
        reason += f"; shared with {', '.join(p.aliases)}"
    rule = first.role.rule
    if p.complex and rule == "muon":
        rule, reason = "adamw", f"{reason}; of complex numbers, whose parts AdamW steps"
    return Assignment(p.name, p.shape, first.role, rule, view, reason, _warning(p, first))


def _strictness(role: Role) -> int:
    return STRICTEST.index(role) if role in STRICTEST else len(STRICTEST)


def _also(v: Verdict) -> str:
    return f"{v.reason} ({v.role.value})"


def _warning(p: ParameterFacts, v: Verdict) -> str:
    if v.role is Role.UNCLEAR:
        return f"its use is not understood ({v.reason}): AdamW, unless an override says more"
    return ""


def _verdicts(p: ParameterFacts, depth: int, split_heads: bool) -> list[Verdict]:
    """Judge each way of using a parameter by itself."""
    ways: dict[tuple[object, ...], list[Use]] = {}
    for use in p.uses:
        key = (use.outputs, use.inputs, use.batch) if use.kind.multiplies else (use.kind,)
        ways.setdefault(key, []).append(use)
    if any(
        u.kind.multiplies and u.data for u in p.uses
    ):  # a product with a constant is no use of its own then
        ways = {k: [u for u in us if u.data or not u.kind.multiplies] for k, us in ways.items()}
    judged = [
        _contracted(p, uses, depth, split_heads) if uses[0].kind.multiplies else _met(p, uses)
        for uses in ways.values()
        if uses
    ]
    unclear = [v for v in judged if v.role is Role.UNCLEAR]
    return [v for v in judged if v.role is not Role.UNCLEAR] or unclear


def _met(p: ParameterFacts, uses: Sequence[Use]) -> Verdict:
    """Judge what is looked up, joined, added or scaled."""
    kind, operation = uses[0].kind, uses[0].operation
    wide = max(sum(p.shape[a] > 1 for a in u.outputs) for u in uses) > 1
    if kind is Kind.LOOKUP:
        return Verdict(Role.EMBEDDING, "rows are looked up")
    if kind is Kind.JOIN:
        if len(p.shape) < 2 or (operation == "returned" and not wide):
            return Verdict(Role.VECTOR, "stands beside the data as it is")
        return Verdict(Role.EMBEDDING, "stands among the data as a token, a query or a state")
    if kind is Kind.ADDITION:
        return (
            Verdict(Role.EMBEDDING, "a table added to the data")
            if wide
            else Verdict(Role.VECTOR, "added to the data")
        )
    if kind is Kind.SCALING:
        return Verdict(Role.VECTOR, "multiplies the data element by element")
    return Verdict(Role.UNCLEAR if wide else Role.VECTOR, f"meets the data in {operation}")


def _contracted(p: ParameterFacts, uses: Sequence[Use], depth: int, split_heads: bool) -> Verdict:
    """Judge a weight that is contracted with the data."""
    view = view_of(p.shape, uses, split_heads)
    reason = _reason(p.shape, uses, view, depth)
    if view is None:
        return Verdict(Role.VECTOR, reason)
    last, feeds = any(u.last for u in uses), any(u.feeds for u in uses)
    raw = [u.deepest == 0 for u in uses]
    # The widest of its matrices counts: a scalar gate may ride along in a fused projection.
    narrow = max(min(o, i) for _, o, i in view.matrices(p.shape))
    if narrow == 1 and (uses[0].groups > 1 or view.batch):
        return Verdict(Role.VECTOR, f"{reason}; one row for each channel", view)
    if any(u.routes for u in uses):
        return Verdict(
            Role.ROUTER, f"{reason}; a ranking of its result chooses which data meets which weights", view
        )
    if feeds and any(u.picked for u in uses):
        return Verdict(Role.ROUTER, f"{reason}; data picks entries of its result, to weigh others by", view)
    if last and not feeds:
        return Verdict(Role.OUTPUT, f"{reason}; its result leaves the model", view)
    if all(raw) or (p.aliases and any(raw)):
        return Verdict(Role.INPUT, f"{reason}: raw data" if any(u.data for u in uses) else reason, view)
    if narrow < NARROW:
        return Verdict(Role.VECTOR, f"{reason}; a side of {narrow} is below {NARROW}", view)
    return Verdict(Role.HIDDEN, reason, view)


def view_of(shape: tuple[int, ...], uses: Sequence[Use], split_heads: bool = False) -> MatrixView | None:
    """Return a weight as matrices, from the axes over which it is contracted; None if it is a vector."""
    use = uses[0]
    missing = [a for a in range(len(shape)) if a not in (*use.outputs, *use.inputs, *use.batch)]
    inputs = tuple(sorted((*use.inputs, *(a for a in missing if shape[a] == 1))))
    batch = tuple(sorted((*use.batch, *(a for a in missing if shape[a] > 1))))
    if not use.outputs or not inputs:
        flat = [a for a in range(len(shape)) if a not in batch]
        if len(flat) < 2:
            return None
        outputs = use.outputs or tuple(a for a in flat if a not in use.inputs)[:1] or flat[:1]
        inputs = tuple(a for a in flat if a not in outputs)
        return MatrixView(tuple(outputs), inputs, batch) if inputs else None
    if use.groups > 1:
        side = prod(shape[a] for a in (use.outputs if use.along == "outputs" else inputs))
        return MatrixView(use.outputs, inputs, batch, _groups(uses, side), use.along)
    side = prod(shape[a] for a in use.outputs)
    blocks, repeats = _blocks(uses, side)
    head = max(u.head for u in uses)
    if split_heads and head and all(b % head == 0 for b in blocks or (side,)):
        blocks, repeats = (head,) * (side // head), 1
    return MatrixView(use.outputs, inputs, batch, blocks, repeats=repeats)


def _groups(uses: Sequence[Use], side: int) -> tuple[int, ...]:
    """Return the sizes of the groups along a side; parts of a kernel may be used in groups of their own."""
    whole = uses[0].along != "outputs"
    parts = [] if whole else sorted({(*part[1:], u.groups) for u in uses for part in u.parts})
    sizes = [size for low, high, count in parts for size in ((high - low) // count,) * count]
    if sum(sizes) == side:
        return tuple(sizes)
    size = sizes[0] if sizes else side // uses[0].groups  # what was used of it shows one group's size
    # A side shorter than there are groups is none that was grouped, as the rank of an adapter's factors.
    return (size,) * (side // size) if size and side % size == 0 else ()


def _blocks(uses: Sequence[Use], side: int) -> tuple[tuple[int, ...], int]:
    """Return the fused projections of a weight: its result is cut, or parts of it are used alone."""
    for u in uses:
        if u.blocks and sum(u.blocks) * u.repeats == side:
            return u.blocks, u.repeats
    parts = sorted({part[1:] for u in uses for part in u.parts})
    edges = [0, *(high for _, high in parts)]
    if len(parts) > 1 and edges[:-1] == [low for low, _ in parts] and edges[-1] == side:
        return tuple(high - low for low, high in parts), 1
    return (), 1


def _reason(shape: tuple[int, ...], uses: Sequence[Use], view: MatrixView | None, depth: int) -> str:
    kind = next((u.kind for u in uses), Kind.CONTRACTION)
    verb = {Kind.CONVOLUTION: "convolved", Kind.RECURRENCE: "contracted at every step"}.get(
        kind, "contracted"
    )
    inputs = view.inputs if view else uses[0].inputs
    low, high = min(u.depth for u in uses), max(u.deepest for u in uses)
    where = f"depth {low}" if low == high else f"depths {low} to {high}"
    words = (
        f"{verb} over {_axes(inputs)} at {where} of {depth}"
        if any(u.data for u in uses)
        else f"{verb} with a constant"
    )
    if view and view.blocks and uses[0].groups > 1:
        words += f", in {len(view.blocks)} groups"
    elif view and view.blocks:
        equal = len(set(view.blocks)) == 1
        parts = f"{len(view.blocks)} equal parts" if equal else f"parts of {', '.join(map(str, view.blocks))}"
        words += f"; its output splits into {parts}" + (f", {view.repeats} times" if view.repeats > 1 else "")
    if view and view.batch:
        words += f"; a stack along {_axes(view.batch)}"
    return words


def _axes(axes: Sequence[int]) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else f"axes {', '.join(map(str, axes))}"
