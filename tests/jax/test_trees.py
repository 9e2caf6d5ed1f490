"""minimize and least_squares on JAX start from any tree of arrays, and end in one that is nested as it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, struct
from flax.core import FrozenDict

import downslope as ds
from downslope.errors import UsageError
from downslope.solvers.drivers import jax as driver


@jax.tree_util.register_dataclass
@dataclass
class Point:
    a: Any
    b: Any = None
    target: Any = field(default=1.0, metadata={"static": True})


@struct.dataclass
class Linen:
    w: jax.Array
    name: str = struct.field(pytree_node=False, default="w")


@jax.tree_util.register_pytree_node_class
class Strict:
    """Takes arrays alone, as a class may that checks what it is given."""

    def __init__(self, a: Any) -> None:
        self.a = jnp.zeros(a.shape) + a

    def tree_flatten(self) -> Any:
        return (self.a,), None

    @classmethod
    def tree_unflatten(cls, _: Any, children: Any) -> Strict:
        return cls(*children)


class Pair(NamedTuple):
    first: Any
    second: Any


def f(tree: Any) -> Any:
    return sum(jnp.sum((leaf - 1) ** 4 + (leaf - 1) ** 2) for leaf in jax.tree.leaves(tree))


TREES = {
    "dataclass": Point(jnp.zeros(2), jnp.zeros(())),
    "flax.struct": Linen(jnp.zeros((2, 2))),
    "node": Strict(jnp.zeros(3)),
    "equinox": eqx.partition(eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0)), eqx.is_inexact_array)[0],
    "nnx": nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param),
    "frozen": FrozenDict({"z": jnp.zeros(2), "a": {"b": jnp.zeros(1)}}),
    "ordered": OrderedDict(z=jnp.zeros(2), a=jnp.zeros(1)),
    "mix": {
        "z": Pair(Point(jnp.zeros(2)), (Linen(jnp.zeros(1)), None)),
        "a": [jnp.zeros(()), Strict(jnp.ones(2))],
    },
}


@pytest.mark.parametrize("kind", TREES)
def test_the_result_is_nested_as_the_start(kind: str) -> None:
    tree = TREES[kind]
    result = ds.minimize(f, tree, gradient=jax.grad(f) if kind in ("mix", "frozen") else None)
    assert result.success
    for found in (result.x, result.gradient):
        assert type(found) is type(tree)
        assert jax.tree.structure(found) == jax.tree.structure(tree)
    # ‖g‖ within 1e-4 of its first size, 6, in float32, of curvature 2.
    assert all(np.allclose(leaf, 1, atol=1e-3) for leaf in jax.tree.leaves(result.x))
    assert ds.minimize(f, result).success


def test_batches_bounds_and_transformations_take_trees() -> None:
    one = Point(jnp.zeros(2), jnp.zeros(()))
    many = jax.tree.map(lambda a: jnp.stack([a, a + 0.5, a - 0.5]), one)
    for found in (ds.minimize(f, many, batch=True).x, jax.vmap(lambda x: ds.minimize(f, x).x)(many)):
        assert isinstance(found, Point)
        np.testing.assert_allclose(found.a, np.ones((3, 2)), atol=1e-5)
    bounded = ds.minimize(f, one, bounds=(Point(-1.0), Point(jnp.array([0.5, np.inf]), 0.25)))
    np.testing.assert_allclose(bounded.x.a, [0.5, 1.0], atol=1e-5)
    np.testing.assert_allclose(bounded.x.b, 0.25)
    with pytest.raises(UsageError, match=r"bounds of x0\.a\[1\] cross"):
        ds.minimize(f, one, bounds=(Point(jnp.array([0.0, 3.0])), Point(2.0)))


def test_residuals_are_trees_of_a_tree() -> None:
    fit = ds.least_squares(lambda p: Point(p.a - 1, {"b": 2 * p.b}), Point(jnp.zeros(2), jnp.ones(1)))
    assert fit.success
    assert isinstance(fit.x, Point)
    np.testing.assert_allclose(fit.x.a, 1, atol=1e-8)


def test_static_parts_are_the_functions_and_nothing_is_compiled_twice() -> None:
    def to_target(p: Point) -> Any:
        return jnp.sum((p.a - p.target) ** 2)

    for target in (1.0, 2.0, 2.0, 1.0):
        np.testing.assert_allclose(ds.minimize(to_target, Point(jnp.zeros(2), None, target)).x.a, target)
    assert len(driver._compiled[to_target]) == 2
    array = np.array([3.0, 4.0])  # no key of a cache
    for _ in range(2):
        np.testing.assert_allclose(ds.minimize(to_target, Point(jnp.zeros(2), None, array)).x.a, array)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"q": [Point(jnp.zeros(2), "text")]}, r"x0\['q'\]\[0\]\.b is a str: .*equinox\.partition"),
        (Point(jnp.zeros(2), jnp.tanh), r"x0\.b is .*: expected an array .*flax\.nnx\.state"),
        (Point(jnp.zeros(2), True), r"x0\.b is a bool"),
        (Point(jnp.zeros(2), 3), r"x0\.b is an int beside arrays of jax"),
        (Point(jnp.zeros(2), jnp.arange(2)), r"x0\.b has dtype int.*convert it first, or .*equinox"),
        (Point(jnp.zeros(2), jax.random.key(0)), r"x0\.b has dtype key.*equinox"),
        (Point(jnp.zeros(2), jnp.array([0.0, np.nan])), r"x0\.b\[1\] is nan"),
        (Point(None), "x0 is empty"),
        (None, "x0 is None"),
        ({"a": jnp.zeros(2), "b": "text"}, r"x0\['b'\] is a str: .*belongs in args"),
    ],
)
def test_what_is_no_floating_array_is_refused_with_where_it_is(tree: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ds.minimize(f, tree)


def test_a_gradient_that_is_nested_otherwise_is_told() -> None:
    with pytest.raises(UsageError, match="not nested as x0: gradient is a dict, expected a Point"):
        ds.minimize(f, Point(jnp.zeros(2)), gradient=lambda p: {"a": p.a})
    with pytest.raises(UsageError, match=r"gradient\.a has shape \(1,\): expected the shape \(2,\)"):
        ds.minimize(f, Point(jnp.zeros(2)), gradient=lambda p: Point(p.a[:1]))
