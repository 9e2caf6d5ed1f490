"""Recurrent layers that a library kernel runs whole: their arguments say which weight does what."""

from __future__ import annotations

from typing import Any

import torch

from downslope.grouping.facts import Kind
from downslope.grouping.flow.info import Info
from downslope.grouping.torch.pointwise import tensors
from downslope.grouping.torch.record import Record

# mkldnn counts its cells: relu RNN, tanh RNN, LSTM, GRU.
_MKLDNN_GATES = {0: 1, 1: 1, 2: 4, 3: 3}


def _mkldnn(record: Record, name: str, a: dict[str, Any], out: Any) -> None:
    gates = _MKLDNN_GATES[a["mode"]]
    x = record.get(a["input"])
    info = layer(record, x, a["weight0"], a["weight1"], gates, a["hidden_size"])
    for key in ("weight2", "weight3"):
        record.absorb(record.get(a[key]), Kind.ADDITION, "bias", info)
    for t in tensors(out):
        record.set(t, info)


def layer(record: Record, x: Info, read: torch.Tensor, again: torch.Tensor, gates: int, hidden: int) -> Info:
    """Enter the weight that reads the input and the one that reads the state; return the result."""
    record.feed(x)
    writers = set()
    for tensor, data in ((read, x), (again, Info(data=True, depth=x.depth + 1))):
        for trace in record.get(tensor).weights:
            axes = {"outputs": frozenset({0}), "inputs": frozenset({1})}
            number = record.meet(trace, Kind.RECURRENCE, "recurrence", data, **axes)
            record.uses[number].gates = gates if tensor.shape[0] == gates * hidden else 1
            # The state reads every earlier result of both weights.
            record.uses[number].feeds = True
            writers.add(number)
    return Info(data=True, depth=x.depth + 1, writers=record.open(writers))


def _flat(record: Record, name: str, a: dict[str, Any], out: Any) -> None:
    """Label a kernel that runs all layers: the weights come in order, four (or two) a layer."""
    x = record.get(a["input"])
    weights = [t for t in tensors((a["weight"],)) if t.dim() == 2] if "weight" in a else []
    biases = [t for t in tensors((a["weight"],)) if t.dim() == 1]
    info = x
    hidden = a["hidden_size"]
    directions = 2 if a.get("bidirectional") else 1
    step = 3 if a.get("proj_size") else 2
    for low in range(0, len(weights), step * directions):
        made = []
        for d in range(low, min(low + step * directions, len(weights)), step):
            gates = weights[d].shape[0] // hidden
            made.append(layer(record, info, weights[d], weights[d + 1], gates, hidden))
        info = made[0]
    for b in biases:
        record.absorb(record.get(b), Kind.ADDITION, "bias", info)
    for t in tensors(out):
        record.set(t, info)


HANDLERS: dict[str, Any] = {"mkldnn_rnn_layer": _mkldnn, "_cudnn_rnn": _flat, "miopen_rnn": _flat}
