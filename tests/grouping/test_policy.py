"""From facts to roles and views: one row a case, no framework."""

# ruff: noqa: E501
import pytest

from downslope.grouping.facts import Kind, ModelFacts, ParameterFacts, Use
from downslope.grouping.policy import NARROW, assign
from downslope.grouping.view import MatrixView

C, CONV, LOOK, JOIN, ADD, MUL, RNN, UNKNOWN = (
    Kind.CONTRACTION, Kind.CONVOLUTION, Kind.LOOKUP, Kind.JOIN, Kind.ADDITION, Kind.SCALING, Kind.RECURRENCE, Kind.UNKNOWN,
)  # fmt: skip


def hidden(**options):
    given = {"outputs": (0,), "inputs": (1,), "depth": 2, "deepest": 2, "feeds": True} | options
    return Use(given.pop("kind", C), **given)


def one(shape, *uses, trainable=True, aliases=(), split_heads=False):
    model = ModelFacts((ParameterFacts("w", shape, uses, trainable, aliases),), depth=5)
    (a,) = assign(model, split_heads=split_heads)
    return a


RAW = {"depth": 0, "deepest": 0}
LAST = {"feeds": False, "last": True}
ROLES = [
    ("hidden", (32, 16), [hidden()], {}),
    ("input", (32, 16), [hidden(**RAW)], {}),
    ("output", (32, 16), [hidden(**LAST)], {}),
    # One layer that is both reads raw data and leaves the model: the stricter.
    ("output", (32, 16), [hidden(**RAW, **LAST)], {}),
    # Its result leaves the model, but goes on inside as well: a trunk, not a head.
    ("hidden", (32, 16), [hidden(last=True)], {}),
    # A recurrence reads raw data at first and its own results later.
    ("hidden", (32, 32), [hidden(depth=0, deepest=4)], {}),
    # Two modules share it, and one of them reads raw data.
    ("input", (32, 32), [hidden(**RAW), hidden(depth=3, deepest=3)], {"aliases": ("other",)}),
    ("hidden", (32, 32), [hidden(**RAW), hidden(depth=3, deepest=3)], {}),
    # Transposed at the end of an autoencoder: input once, output once.
    ("output", (32, 16), [hidden(**RAW), hidden(outputs=(1,), inputs=(0,), **LAST)], {}),
    ("hidden", (32, 16), [hidden(data=False)], {}),
    ("router", (8, 16), [hidden(routes=True)], {}),
    ("router", (8, 16), [hidden(routes=True, last=True)], {}),
    ("embedding", (99, 16), [Use(LOOK, (1,), (0,))], {}),
    ("embedding", (99, 16), [Use(LOOK, (1,), (0,)), hidden(**LAST)], {"aliases": ("head",)}),
    ("embedding", (1, 1, 16), [Use(JOIN, (2,))], {}),
    ("embedding", (1, 50, 16), [Use(ADD, (1, 2))], {}),
    ("vector", (16,), [Use(ADD, (0,))], {}),
    ("vector", (1, 16, 1, 1), [Use(ADD, (1,))], {}),
    ("vector", (16,), [Use(MUL, (0,))], {}),
    ("vector", (48, 16), [Use(MUL, (0, 1))], {}),
    ("vector", (1, 16), [hidden()], {}),
    ("vector", (NARROW - 1, 16), [hidden()], {}),
    ("hidden", (NARROW, 16), [hidden()], {}),
    ("output", (1, 16), [hidden(**LAST)], {}),
    ("input", (32, 2), [hidden(**RAW)], {}),
    # Depthwise kernels, wherever they stand.
    ("vector", (32, 1, 3, 3), [hidden(kind=CONV, inputs=(1, 2, 3), groups=32)], {}),
    ("vector", (32, 1, 3, 3), [hidden(kind=CONV, inputs=(1, 2, 3), groups=32, **RAW)], {}),
    ("hidden", (32, 4, 3, 3), [hidden(kind=CONV, inputs=(1, 2, 3), groups=8)], {}),
    ("hidden", (64, 16), [hidden(kind=RNN, blocks=(16,) * 4)], {}),
    ("unused", (32, 16), [], {}),
    ("unclear", (32, 16), [Use(UNKNOWN, (0, 1), operation="mystery")], {}),
    ("vector", (16,), [Use(UNKNOWN, (0,), operation="mystery")], {}),
    # What is understood outweighs what is not.
    ("hidden", (32, 16), [hidden(), Use(UNKNOWN, (0, 1), operation="mystery")], {}),
    ("frozen", (32, 16), [hidden()], {"trainable": False}),
]  # fmt: skip


@pytest.mark.parametrize(("role", "shape", "uses", "options"), ROLES)
def test_roles(role, shape, uses, options):
    a = one(shape, *uses, **options)
    assert a.role.value == role
    assert a.rule == {"hidden": "muon", "frozen": "none"}.get(role, "adamw")
    assert bool(a.warning) == (role in ("unused", "unclear"))


VIEWS = [
    ((32, 16), hidden(), MatrixView((0,), (1,)), [(1, 32, 16)]),
    ((16, 32), hidden(outputs=(1,), inputs=(0,)), MatrixView((1,), (0,)), [(1, 32, 16)]),
    ((32, 16, 3, 3), hidden(kind=CONV, inputs=(1, 2, 3)), MatrixView((0,), (1, 2, 3)), [(1, 32, 144)]),
    # An axis of size 1 that no label shows belongs to the kernel.
    ((32, 16, 1), hidden(kind=CONV, inputs=(1,)), MatrixView((0,), (1, 2)), [(1, 32, 16)]),
    ((8, 24, 16), hidden(outputs=(1,), inputs=(2,), batch=(0,)), MatrixView((1,), (2,), (0,)), [(8, 24, 16)]),
    # One expert is selected at a time: the axis is in no contraction.
    ((8, 24, 16), hidden(outputs=(1,), inputs=(2,)), MatrixView((1,), (2,), (0,)), [(8, 24, 16)]),
    ((48, 16), hidden(blocks=(16,) * 3), MatrixView((0,), (1,), blocks=(16,) * 3), [(3, 16, 16)]),
    ((32, 16), hidden(blocks=(16, 8, 8)), MatrixView((0,), (1,), blocks=(16, 8, 8)), [(1, 16, 16), (2, 8, 16)]),
    ((48, 16), hidden(blocks=(4,) * 3, repeats=4), MatrixView((0,), (1,), blocks=(4,) * 3, repeats=4), [(3, 16, 16)]),
    # Used in parts, as F.multi_head_attention_forward does with its packed weight.
    ((48, 16), hidden(parts=((0, 0, 16), (0, 16, 48))), MatrixView((0,), (1,), blocks=(16, 32)), [(1, 16, 16), (1, 32, 16)]),
    ((32, 8, 3), hidden(kind=CONV, inputs=(1, 2), groups=2), MatrixView((0,), (1, 2), blocks=(16, 16)), [(2, 16, 24)]),
    # A transposed convolution counts its groups along the inputs.
    (
        (32, 8, 3),
        hidden(kind=CONV, outputs=(1,), inputs=(0, 2), groups=2, along="inputs"),
        MatrixView((1,), (0, 2), blocks=(48, 48), blocks_along="inputs"),
        [(2, 8, 48)],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "use", "view", "matrices"), VIEWS)
def test_views(shape, use, view, matrices):
    a = one(shape, use)
    assert a.view == view
    assert a.view.matrices(shape) == matrices


def test_heads_are_split_on_demand_only():
    use = hidden(blocks=(32, 16, 16), head=8)
    assert one((64, 32), use).view.blocks == (32, 16, 16)
    assert one((64, 32), use, split_heads=True).view.matrices((64, 32)) == [(8, 8, 32)]
    assert one((64, 32), hidden(), split_heads=True).view.blocks == ()


def test_reasons_say_where_and_how():
    a = one((48, 16), hidden(blocks=(16,) * 3))
    assert a.reason == "contracted over axis 1 at depth 2 of 5; its output splits into 3 equal parts"
    tied = one((99, 16), Use(LOOK, (1,), (0,)), hidden(**LAST), aliases=("head.weight",))
    assert "rows are looked up; also contracted over axis 1" in tied.reason
    assert tied.reason.endswith("shared with head.weight")
