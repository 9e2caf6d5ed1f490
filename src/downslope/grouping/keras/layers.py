"""What each of Keras's own layers does with its weights: which axes are outputs and which are inputs.

Kernels are (in, out) here, and (height, width, in, out) for convolutions; an `EinsumDense` says in
its equation which axes are which. A layer is a list of stages, each of which reads what the one
before it wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import layers

from downslope.grouping.facts import Kind
from downslope.grouping.met import Axes, Meeting, Stage, contraction


def stages_of(layer: Any, reverse: bool = False) -> list[Stage] | None:
    """Return the stages of a layer that is known here, None of any other.

    `reverse` is the argument with which a `ReversibleEmbedding` is called to project back.
    """
    if type(layer).__name__ == "ConvLSTMCell":  # Keras does not export it
        return _cell(layer)
    for kind, describe in _KNOWN:
        if isinstance(layer, kind):
            if kind is layers.Embedding and reverse:
                return _projecting_back(layer)
            return describe(layer)
    return None


def addition(variable: Any) -> Meeting:
    """Return the meeting of a layer's bias, a vector even where it is laid out as heads × units."""
    return Meeting(variable, Kind.ADDITION, "bias", outputs=_all(variable)[-1:])


def scaling(variable: Any) -> Meeting:
    """Return the meeting of a gain."""
    return Meeting(variable, Kind.SCALING, "scale", outputs=_all(variable))


def _all(variable: Any) -> Axes:
    return tuple(range(len(variable.shape)))


def _variables(layer: Any, *names: str) -> Iterator[Any]:
    for name in names:
        value = getattr(layer, name, None)
        if isinstance(value, keras.Variable):
            yield value


def _biases(layer: Any) -> Stage:
    return [addition(v) for v in _variables(layer, "bias")]


def _dense(layer: Any) -> list[Stage]:
    return _with_lora(layer, lambda v: contraction(v, "io", "ni", "no", "dense"))


def _with_lora(layer: Any, kernel: Callable[[Any], Meeting]) -> list[Stage]:
    whole = [kernel(v) for v in _variables(layer, "_kernel")]
    if not getattr(layer, "lora_enabled", False):
        return [whole + _biases(layer)]
    a, b = layer.lora_kernel_a, layer.lora_kernel_b
    last = len(a.shape) - 1
    narrow = Meeting(a, Kind.CONTRACTION, "lora", (last,), tuple(range(last)))
    wide = Meeting(b, Kind.CONTRACTION, "lora", tuple(range(1, len(b.shape))), (0,))
    return [[*whole, narrow], [wide, *_biases(layer)]]


def _einsum_dense(layer: Any) -> list[Stage]:
    left, kept = layer.equation.replace(" ", "").split("->")
    other, letters = left.split(",")
    return _with_lora(layer, lambda v: contraction(v, letters, other, kept, "einsum"))


def _embedding(layer: Any) -> list[Stage]:
    tables = _variables(layer, "_embeddings", "lora_embeddings_a")
    found = [Meeting(v, Kind.LOOKUP, "embedding", outputs=(1,), inputs=(0,)) for v in tables]
    wide = [contraction(v, "io", "ni", "no", "lora") for v in _variables(layer, "lora_embeddings_b")]
    return [found, wide] if wide else [found]


def _projecting_back(layer: Any) -> list[Stage]:
    own = [contraction(v, "io", "ni", "no", "projection") for v in _variables(layer, "reverse_embeddings")]
    tied = [contraction(v, "oi", "ni", "no", "projection") for v in _variables(layer, "_embeddings")]
    return [own or tied]


def _convolution(layer: Any) -> list[Stage]:
    def kernel(v: Any) -> Meeting:
        last = len(v.shape) - 1
        blocks = (v.shape[last] // layer.groups,) * layer.groups if layer.groups > 1 else ()
        return Meeting(v, Kind.CONVOLUTION, "convolution", (last,), tuple(range(last)), blocks=blocks)

    return _with_lora(layer, kernel)


def _transposed(layer: Any) -> list[Stage]:
    found = []
    for v in _variables(layer, "kernel"):
        out = len(v.shape) - 2  # (height, width, out, in)
        inputs = tuple(axis for axis in _all(v) if axis != out)
        found.append(Meeting(v, Kind.CONVOLUTION, "transposed convolution", (out,), inputs))
    return [found + _biases(layer)]


def _depthwise_kernel(v: Any) -> Meeting:
    last = len(v.shape) - 1  # (height, width, in, multiplier): a filter for each channel
    return Meeting(v, Kind.CONVOLUTION, "depthwise convolution", (last,), tuple(range(last - 1)), (last - 1,))


def _depthwise(layer: Any) -> list[Stage]:
    return [[_depthwise_kernel(v) for v in _variables(layer, "kernel")] + _biases(layer)]


def _separable(layer: Any) -> list[Stage]:
    point = [
        Meeting(v, Kind.CONVOLUTION, "convolution", (len(v.shape) - 1,), tuple(range(len(v.shape) - 1)))
        for v in _variables(layer, "pointwise_kernel")
    ]
    return [[_depthwise_kernel(v) for v in _variables(layer, "depthwise_kernel")], point + _biases(layer)]


def _recurrent(layer: Any) -> list[Stage]:
    cells = layer.cell.cells if isinstance(layer.cell, layers.StackedRNNCells) else [layer.cell]
    return [stage for cell in cells for stage in (stages_of(cell) or [])]


def _cell(layer: Any) -> list[Stage]:
    """The kernels of the gates lie side by side along the outputs; the state reads all of them."""
    stage = []
    for v in _variables(layer, "kernel", "recurrent_kernel"):
        last = len(v.shape) - 1
        units = getattr(layer, "units", None) or layer.filters
        gates = v.shape[last] // units
        blocks = (units,) * gates if gates > 1 else ()
        again = v.name.startswith("recurrent")
        kernel = Meeting(
            v, Kind.RECURRENCE, "recurrence", (last,), tuple(range(last)), blocks=blocks, again=again
        )
        stage.append(kernel)
    return [stage + _biases(layer)]


def _norm(layer: Any) -> list[Stage]:
    return [
        [scaling(v) for v in _variables(layer, "gamma", "scale", "alpha", "mean", "variance")]
        + [addition(v) for v in _variables(layer, "beta")]
    ]


def _attention(layer: Any) -> list[Stage]:
    return [[scaling(v) for v in _variables(layer, "scale", "concat_score_weight")]]


def _kinds(*names: str) -> tuple[type, ...]:
    return tuple(getattr(layers, name) for name in names if hasattr(layers, name))


_KNOWN: tuple[tuple[Any, Callable[[Any], list[Stage]]], ...] = (
    (layers.EinsumDense, _einsum_dense),
    (layers.Dense, _dense),
    (layers.Embedding, _embedding),
    (_kinds("SeparableConv1D", "SeparableConv2D"), _separable),
    (_kinds("DepthwiseConv1D", "DepthwiseConv2D"), _depthwise),
    (_kinds("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _transposed),
    (_kinds("Conv1D", "Conv2D", "Conv3D"), _convolution),
    (layers.RNN, _recurrent),
    (_kinds("LSTMCell", "GRUCell", "SimpleRNNCell"), _cell),
    (
        _kinds("BatchNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization", "PReLU"),
        _norm,
    ),
    (_kinds("Attention", "AdditiveAttention"), _attention),
)
