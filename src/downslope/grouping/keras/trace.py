"""How data passes through a Keras model, followed symbolically.

A model or layer called on `keras.KerasTensor`s leaves behind the graph of the operations and layers
that were called: no data is needed, and it is the same on every backend. Layers that Keras brings
along are known by what they do with their weights (`layers`); a layer made of others, or written by
the user, is called on the same symbolic tensors and followed inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import layers, tree

from downslope.errors import one_line
from downslope.grouping.facts import Kind
from downslope.grouping.keras.layers import stages_of
from downslope.grouping.keras.operations import PICKS, RANKS, meetings_of
from downslope.grouping.met import Info, Meeting, Record, Stage, merged


@dataclass
class Trace(Record):
    """All uses that were seen, and the layers that could not be followed inside."""

    unseen: list[tuple[str, str]] = field(default_factory=list)
    _infos: dict[int, Info] = field(default_factory=dict)
    _kept: list[Any] = field(default_factory=list)

    # -- following ---------------------------------------------------------------------------

    def model(self, model: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Follow a whole model from symbolic inputs to its outputs."""
        with _graph_restored(model):
            outputs = self._inside(model, tuple(args), kwargs, [Info()])
        self.finish(outputs)

    def in_order(self, model: Any) -> None:
        """Take the layers of a model one after another, where it could not be followed."""
        self.finish([self._unfollowed(model, Info())])

    def _inside(
        self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[Info]
    ) -> list[Info]:
        """Call a layer on symbolic tensors and return what is known of its results."""
        inputs = [t for t in tree.flatten((args, kwargs)) if _symbolic(t)]
        for t, info in zip(inputs, given * len(inputs) if len(given) == 1 else given, strict=True):
            self._say(t, info)
        outputs = [t for t in tree.flatten(layer.call(*args, **kwargs)) if _symbolic(t)]
        return [self._info_of(t) for t in outputs]

    def _info_of(self, tensor: Any) -> Info:
        """Return what is known of a tensor, from the operations that made it."""
        waiting = [tensor]
        while waiting:  # a loop of our own: graphs are deeper than Python's stack
            t = waiting[-1]
            node = _node_of(t)
            if id(t) in self._infos or node is None:
                self._infos.setdefault(id(t), Info())
                waiting.pop()
                continue
            missing = [i for i in node.input_tensors if id(i) not in self._infos]
            if missing:
                waiting += missing
                continue
            for output, info in zip(node.outputs, self._step(node), strict=True):
                self._say(output, info)
            waiting.pop()
        return self._infos[id(tensor)]

    def _say(self, tensor: Any, info: Info) -> None:
        self._infos[id(tensor)] = info
        self._kept.append(tensor)  # an id is a tensor's own only as long as it lives

    # -- one operation -----------------------------------------------------------------------

    def _step(self, node: Any) -> list[Info]:
        """Return what is known of the results of one call in the graph."""
        operation, args, kwargs = node.operation, node.arguments.args, node.arguments.kwargs
        infos = [self._infos[id(t)] for t in node.input_tensors]
        if isinstance(operation, keras.Layer):
            return self._layer(operation, args, kwargs, infos, len(node.outputs))
        self.routes(infos)
        name = type(operation).__name__
        if len(infos) == 1:
            self._parts(name, node, infos[0])
        found = meetings_of(operation, args, kwargs)
        info = self.meet(found, merged(infos))
        if name in RANKS:
            info = Info(info.depth, info.writers, info.choices | info.writers)
        elif name in PICKS and any(m.kind is Kind.LOOKUP for m in found):
            info = Info(max(info.depth, 1), frozenset(), info.choices)
        return [info] * len(node.outputs)

    def _parts(self, name: str, node: Any, info: Info) -> None:
        """Note which parts of a projection's outputs are used by themselves: fused Q, K and V, or a gate."""
        size = node.input_tensors[0].shape[-1]
        if name == "Split" and node.operation.axis in (-1, len(node.input_tensors[0].shape) - 1):
            high = 0
            for output in node.outputs:
                low, high = high, high + output.shape[-1]
                self.part(info, low, high)
        elif name == "GetItem":
            key = node.arguments.args[1] if len(node.arguments.args) > 1 else node.arguments.kwargs["key"]
            last = key[-1] if isinstance(key, (tuple, list)) else None
            reaches = last is not None and (Ellipsis in key or len(key) == len(node.input_tensors[0].shape))
            if reaches and isinstance(last, slice) and last.step in (None, 1):
                self.part(info, *last.indices(size)[:2])

    def _layer(
        self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], infos: list[Info], results: int
    ) -> list[Info]:
        whole = merged(infos)
        if not layer.variables:
            self.routes(infos)
            return [whole] * results
        stages = stages_of(layer, reverse=bool(kwargs.get("reverse", args[1:] == (True,))))
        if stages is not None:
            return [self._stages(stages, whole)] * results
        if isinstance(layer, (layers.Bidirectional, layers.TimeDistributed)):
            return [self._wrapped(layer, whole)] * results
        try:
            found = self._inside(layer, args, kwargs, infos)
        except Exception as error:  # whatever a user's layer raises when it meets a symbolic tensor
            self.unseen.append((layer.name, one_line(error)))
            return [self._unfollowed(layer, whole)] * results
        return found if len(found) == results else [merged(found)] * results

    def _wrapped(self, layer: Any, info: Info) -> Info:
        inner = (
            [layer.forward_layer, layer.backward_layer]
            if isinstance(layer, layers.Bidirectional)
            else [layer.layer]
        )
        return merged([self._unfollowed(each, info) for each in inner])

    def _unfollowed(self, layer: Any, info: Info) -> Info:
        """Take the known parts of a layer in the order in which they were made."""
        stages = stages_of(layer)
        if stages is not None:
            return self._stages(stages, info)
        for part in layer._flatten_layers(include_self=False, recursive=False):
            info = self._unfollowed(part, info)
        own = [v for v in layer.weights if not any(met.meeting.variable is v for met in self.uses)]
        return self.meet(
            [Meeting(v, Kind.UNKNOWN, type(layer).__name__, tuple(range(len(v.shape)))) for v in own], info
        )

    def _stages(self, stages: Sequence[Stage], info: Info) -> Info:
        for stage in stages:
            info = self.meet(stage, info)
        return info


def _symbolic(t: Any) -> bool:
    return isinstance(t, keras.KerasTensor)


def _node_of(tensor: Any) -> Any:
    """Return the call that made a symbolic tensor, None for an input."""
    history = getattr(tensor, "_keras_history", None)
    if history is None or history.operation is None:
        return None
    node = history.operation._inbound_nodes[history.node_index]
    return None if node.is_input else node


@contextmanager
def _graph_restored(model: Any) -> Iterator[None]:
    """Take back the calls that a trace adds to the graph of a model's layers."""
    known = list(model._flatten_layers())
    before = [(layer, len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in known]
    try:
        yield
    finally:
        for layer, inbound, outbound in before:
            del layer._inbound_nodes[inbound:]
            del layer._outbound_nodes[outbound:]
