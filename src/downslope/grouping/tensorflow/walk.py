"""Follow every value through a graph: functions are entered, loops run, branches all taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from downslope.grouping.flow.info import CONSTANT, RAW, Info
from downslope.grouping.flow.uses import Uses
from downslope.grouping.labels import axes_of, foreign
from downslope.grouping.tensorflow import operations

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
LOOPS = ("While", "StatelessWhile")
BRANCHES = ("If", "StatelessIf", "Case", "StatelessCase")


class Walk:
    """One walk over a graph with all that it calls."""

    def __init__(self, uses: Uses) -> None:
        self.uses = uses
        self.known: dict[str, Info] = {}

    def get(self, tensor: Any) -> Info:
        """Return what is known of a tensor; what was never said is a constant."""
        return self.known.get(tensor.name, CONSTANT)

    def graph(self, graph: Any) -> None:
        """Go through a graph's operations in the order in which they were made."""
        for op in graph.get_operations():
            if op.outputs and op.outputs[0].name not in self.known:
                made = self._operation(graph, op, [self.get(t) for t in op.inputs])
                self.known.update(zip((t.name for t in op.outputs), made, strict=False))

    def _operation(self, graph: Any, op: Any, infos: list[Info]) -> Sequence[Info]:
        if op.type in CALLS:
            return self._called(graph, op.get_attr("f").name, infos)
        if op.type in operations.RANDOM:
            return [RAW for _ in op.outputs]
        if not any(i.data or i.weights for i in infos) or op.type in operations.SHAPES:
            return [CONSTANT for _ in op.outputs]
        if op.type in LOOPS:
            return self._loop(graph, op, infos)
        if op.type in BRANCHES:
            return self._branches(graph, op, infos)
        if op.type.startswith("TensorList"):
            return [self._list(op, infos)] * len(op.outputs)
        return operations.result(self.uses, op, infos)

    def _called(self, graph: Any, name: str, infos: Sequence[Info]) -> list[Info]:
        inner = graph._get_function(name).graph
        walk = Walk(self.uses)
        walk.known = {t.name: info for t, info in zip(inner.inputs, infos, strict=True)}
        walk.graph(inner)
        return [walk.get(t) for t in inner.outputs]

    def _loop(self, graph: Any, op: Any, infos: list[Info]) -> list[Info]:
        carry = infos
        for _ in range(2):  # once from the beginning, once from what a turn has left
            self._called(graph, op.get_attr("cond").name, carry)
            out = self._called(graph, op.get_attr("body").name, carry)
            carry = [self._either([new, old]) for new, old in zip(out, carry, strict=True)]
        return carry

    def _branches(self, graph: Any, op: Any, infos: list[Info]) -> list[Info]:
        index, *operands = infos
        if op.type.endswith("If"):
            names = [op.get_attr("then_branch").name, op.get_attr("else_branch").name]
        else:
            names = [f.name for f in op.get_attr("branches")]
        taken = [self._called(graph, name, operands) for name in names]
        outs = [self._either(list(column)) for column in zip(*taken, strict=True)]
        if index.choices:  # the data's way through the branches is chosen by a ranking
            self.uses.note_routes([index, *outs])
        return [replace(o, choices=o.choices | index.choices, data=o.data or index.data) for o in outs]

    def _either(self, infos: Sequence[Info]) -> Info:
        """Return what a value is that may be any of these."""
        whole = self.uses.merged(infos, infos[0].results)
        return replace(whole, weights=whole.weights or infos[0].weights) if not whole.data else whole

    def _list(self, op: Any, infos: list[Info]) -> Info:
        """Return what a list of tensors is, known as they are when stacked, or an item of it."""
        if op.type in ("TensorListGetItem", "TensorListPopBack"):
            return replace(
                infos[0],
                weights=tuple(
                    replace(t, dims=t.dims[1:], stacked=t.stacked | axes_of(t.dims[:1]))
                    for t in infos[0].weights
                ),
                results=tuple(replace(t, dims=t.dims[1:]) for t in infos[0].results),
            )
        if op.type in ("TensorListSetItem", "TensorListPushBack"):
            item = infos[-1].moved(lambda dims: (foreign(2), *dims))
            return self.uses.merged([infos[0], item], item.results)
        return infos[0]
