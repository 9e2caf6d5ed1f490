"""The user's arrays as one flat vector, and back.

A solver works on a vector (n,), or on a batch of them (B, n). What the user came with may be one
array of any shape, or a nested dict, list or tuple of arrays of one framework: `Structure` lays them
end to end and restores them. A plain list of numbers is a NumPy vector in float64.

Everything that can be wrong with a starting point is found here, with the name of the part.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

from downslope.errors import UsageError, a_type
from downslope.ops import ops_for
from downslope.ops.protocol import Array
from downslope.rules.loop import mapped, named

Tree: TypeAlias = Any
"""An array, or a dict, list or tuple of trees."""

DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Part:
    """One array of the structure: its name ("" where it is the only one), shape and place in the vector."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Structure:
    """How a vector of n entries is the user's arrays.

    Attributes:
        framework: "numpy", "torch", "jax" or "tensorflow".
        parts: the arrays in order; their shapes are without the batch axis.
        size: n, entries of the vector.
        batch: problems along the leading axis, or None for a single one.
        dtype: "float32" or "float64".
        template: the nesting, with the numbers of the parts where the arrays were.

    """

    framework: str
    parts: tuple[Part, ...]
    size: int
    batch: int | None
    dtype: str
    template: Tree

    @cached_property
    def flat(self) -> bool:
        """Whether the user's point is the vector itself."""
        return self.template == 0 and len(self.parts[0].shape) == 1

    def restore(self, vector: Array) -> Tree:
        """Return the user's arrays for a vector (n,), or for vectors (..., n) with the leading axes kept."""
        if self.flat:
            return vector
        x = ops_for(vector)
        leading = tuple(vector.shape[:-1])

        def part(_: str, index: int) -> Array:
            p = self.parts[index]
            return x.reshape(vector[..., p.start : p.stop], (*leading, *p.shape))

        return mapped(part, self.template)

    def flatten(self, tree: Tree, name: str = "gradient") -> Array:
        """Return the vector of arrays nested as the user's point; `name` is for the error.

        Raises:
            UsageError: another nesting, or an array of another shape.

        """
        if self.flat and getattr(tree, "shape", None) == self.whole(0):
            return tree
        try:
            mapped(lambda where, index, array: self._check(name, where, index, array), self.template, tree)
        except UsageError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{name} is not nested as x0: {error}") from None
        return self._joined([array for _, array in named(tree)])

    def where(self, index: int) -> str:
        """Return how the user calls entry `index` of the vector, as `['w'][0, 2]`.

        >>> import numpy as np
        >>> structure, _ = structure_of({"b": np.zeros(2), "w": np.zeros((2, 3))})
        >>> structure.where(7)
        "['w'][1, 2]"

        """
        part = next(p for p in self.parts if index < p.stop)
        inside = np.unravel_index(index - part.start, part.shape) if part.shape else ()
        entry = f"[{', '.join(str(int(i)) for i in inside)}]" if inside else ""
        return bracketed(part.name) + entry

    def whole(self, index: int) -> tuple[int, ...]:
        """Return the shape of a part, of a batch with all problems."""
        shape = self.parts[index].shape
        return shape if self.batch is None else (self.batch, *shape)

    def _check(self, name: str, where: str, index: int, array: Array) -> None:
        shape = getattr(array, "shape", None)
        if shape is None or tuple(shape) != self.whole(index):
            found = a_type(array) if shape is None else f"shape {tuple(shape)}"
            raise UsageError(
                f"{name}{bracketed(where)} has {found}: expected the shape {self.whole(index)} of x0"
            )

    def _joined(self, arrays: Sequence[Array]) -> Array:
        x = ops_for(arrays[0])
        leading = () if self.batch is None else (self.batch,)
        rows = [x.reshape(a, (*leading, p.stop - p.start)) for a, p in zip(arrays, self.parts, strict=True)]
        return rows[0] if len(rows) == 1 else x.concat(rows, -1)


def structure_of(x0: Tree, *, batch: bool = False, name: str = "x0") -> tuple[Structure, Array]:
    """Return the structure of a starting point and its vector, (n,) or (B, n); the arrays are not kept.

    Raises:
        UsageError: no entry, integers or another dtype than float32 and float64, two dtypes, two
            frameworks, two devices, batches of two lengths, NaN or infinity.

    """
    tree = _arrays(x0, name)
    leaves = [(where, leaf) for where, leaf in named(tree)]
    if not leaves:
        raise UsageError(f"{name} is empty: expected an array, or a dict, list or tuple of arrays")
    frameworks = {}
    for where, leaf in leaves:
        frameworks[_framework(leaf, name + bracketed(where))] = name + bracketed(where)
    if len(frameworks) > 1:
        shown = ", ".join(f"{where} of {framework}" for framework, where in frameworks.items())
        raise UsageError(f"{name} mixes frameworks ({shown}): expected arrays of one")
    (framework,) = frameworks
    dtype = _one_dtype(leaves, name)
    count = _one_batch(leaves, name) if batch else None
    parts, at = [], 0
    for where, leaf in leaves:
        shape = tuple(int(n) for n in leaf.shape[1 if batch else 0 :])
        parts.append(Part(where, shape, at, at + math.prod(shape)))
        at += math.prod(shape)
    if at == 0 or count == 0:
        raise UsageError(f"{name} is empty: expected at least one entry")
    numbers = iter(range(len(parts)))
    template = mapped(lambda _, __: next(numbers), tree)
    structure = Structure(framework, tuple(parts), at, count, dtype, template)
    own = import_module(f"downslope.gradients.{framework}")
    own.check_point([(name + bracketed(where), leaf) for where, leaf in leaves])
    return structure, own.owned(structure._joined([leaf for _, leaf in leaves]))


def bracketed(dotted: str) -> str:
    """Return a part's name as it is written after the variable: `w.0` is `['w'][0]`."""
    if not dotted:
        return ""
    return "".join(f"[{k}]" if k.isdigit() else f"[{k!r}]" for k in dotted.split("."))


def _arrays(x0: Tree, name: str) -> Tree:
    """Return the tree with plain numbers, and lists of nothing but numbers, as float64 arrays."""
    if _is_plain(x0):
        try:
            return np.asarray(x0, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{name} is no array: {error}") from None
    if isinstance(x0, dict):
        return {k: _arrays(v, f"{name}[{k!r}]") for k, v in x0.items()}
    if isinstance(x0, (list, tuple)):
        made = [_arrays(v, f"{name}[{i}]") for i, v in enumerate(x0)]
        return type(x0)(*made) if hasattr(x0, "_fields") else type(x0)(made)
    keras = any(kind.__module__.partition(".")[0] == "keras" for kind in type(x0).__mro__)
    return x0.value if keras and hasattr(x0, "value") else x0  # a variable holds an array of the backend


def _is_plain(tree: Tree) -> bool:
    if isinstance(tree, (list, tuple)) and not hasattr(tree, "_fields"):
        return all(_is_plain(v) for v in tree)
    return isinstance(tree, (int, float, np.number)) and not isinstance(tree, (bool, complex))


def _framework(leaf: Any, where: str) -> str:
    if isinstance(leaf, np.matrix):  # it has no single axis: its row of one is again a matrix
        raise UsageError(f"{where} is an np.matrix: expected an array; give np.asarray({where})")
    try:
        found = type(ops_for(leaf)).__module__.rpartition(".")[2]
    except TypeError:
        found = ""
    if not found or not hasattr(leaf, "dtype"):
        hint = ""
        if hasattr(leaf, "named_parameters"):
            hint = "; of a module give dict(module.named_parameters()) and torch.func.functional_call"
        elif _is_jax_tree(leaf):
            hint = (
                ", or a nested dict, list or tuple of them; of another tree of JAX give the vector of "
                "x0, restore = jax.flatten_util.ravel_pytree(tree), and fun(restore(x))"
            )
        raise UsageError(
            f"{where} is {a_type(leaf)}: expected an array of NumPy, PyTorch, JAX or TensorFlow{hint}"
        )
    return found


def _is_jax_tree(value: Any) -> bool:
    """Whether JAX knows a value as a tree, as it does the models of Equinox and Flax."""
    jax = sys.modules.get("jax")
    return jax is not None and not jax.tree_util.all_leaves([value])


def _dtype_name(leaf: Any) -> str:
    return str(getattr(leaf.dtype, "name", leaf.dtype)).removeprefix("torch.")


def _one_dtype(leaves: list[tuple[str, Any]], name: str) -> str:
    found = {}
    for where, leaf in leaves:
        dtype = _dtype_name(leaf)
        if dtype not in DTYPES:
            raise UsageError(
                f"{name}{bracketed(where)} has dtype {dtype}: expected float32 or float64; convert it first"
            )
        found[dtype] = name + bracketed(where)
    if len(found) > 1:
        shown = ", ".join(f"{where} is {dtype}" for dtype, where in found.items())
        raise UsageError(f"{name} mixes dtypes ({shown}): expected one")
    return next(iter(found))


def _one_batch(leaves: list[tuple[str, Any]], name: str) -> int:
    found = {}
    for where, leaf in leaves:
        if len(leaf.shape) == 0:
            raise UsageError(
                f"{name}{bracketed(where)} is one number: a batch has the problems along the leading axis"
            )
        found[int(leaf.shape[0])] = name + bracketed(where)
    if len(found) > 1:
        shown = ", ".join(f"{where} has {count}" for count, where in found.items())
        raise UsageError(f"{name} holds batches of two lengths ({shown}): expected one leading axis")
    return next(iter(found))
