"""The user's arrays as one flat vector, and back.

A solver works on a vector (n,), or on a batch of them (B, n). What the user came with may be one
array of any shape, or a tree of arrays of one framework (see `nest.py`): `Structure` lays them
end to end and restores them. A plain list of numbers is a NumPy vector in float64.

Everything that can be wrong with a starting point is found here, with the name of the part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np

from downslope.errors import UsageError, a_type
from downslope.gradients.nest import Nest, Tree, nest_of
from downslope.ops import ops_for
from downslope.ops.protocol import Array

DTYPES = ("float32", "float64")

FILTERED = (
    "of a tree of JAX give the part with arrays to change alone, as equinox.partition(model, "
    "equinox.is_inexact_array) or flax.nnx.state(model, flax.nnx.Param) take it out"
)
"""What to do with leaves that are no floating arrays."""


@dataclass(frozen=True)
class Part:
    """One array of the structure.

    Attributes:
        where: how it is written after the user's point, as "['w']"; "" where it is the only one.
        shape: its shape.
        start, stop: its place in the vector.

    """

    where: str
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
        nest: how the arrays are nested.

    """

    framework: str
    parts: tuple[Part, ...]
    size: int
    batch: int | None
    dtype: str
    nest: Nest

    @cached_property
    def flat(self) -> bool:
        """Whether the user's point is the vector itself."""
        return self.nest.kind is None and len(self.parts[0].shape) == 1

    def restore(self, vector: Array) -> Tree:
        """Return the user's arrays for a vector (n,), or for vectors (..., n) with the leading axes kept."""
        if self.flat:
            return vector
        x, leading = ops_for(vector), tuple(vector.shape[:-1])
        arrays = (x.reshape(vector[..., p.start : p.stop], (*leading, *p.shape)) for p in self.parts)
        return self.nest.made_of(arrays)

    def arrays(self, tree: Tree, name: str = "x") -> list[Any]:
        """Return what a tree nested as the user's point has where that has its arrays.

        Raises:
            UsageError: another nesting.

        """
        return self.nest.leaves_of(tree, name, "x0")

    def flatten(
        self, tree: Tree, name: str = "gradient", converted: Callable[[Any], Array] | None = None
    ) -> Array:
        """Return the vector of arrays nested as the user's point.

        Args:
            tree: the arrays.
            name: what they are called in an error.
            converted: makes arrays of what the tree holds.

        Raises:
            UsageError: another nesting, or an array of another shape; of one number any will do.

        """
        if self.flat and getattr(tree, "shape", None) == self.whole(0):
            return tree
        arrays = self.arrays(tree, name)
        if converted is not None:
            arrays = [converted(a) for a in arrays]
        for index, array in enumerate(arrays):
            self._check(name, index, array)
        return self._joined(arrays)

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
        return part.where + entry

    def whole(self, index: int) -> tuple[int, ...]:
        """Return the shape of a part, of a batch with all problems."""
        shape = self.parts[index].shape
        return shape if self.batch is None else (self.batch, *shape)

    def _check(self, name: str, index: int, array: Array) -> None:
        shape = getattr(array, "shape", None)
        if shape is not None and self.batch is None and math.prod(shape) == math.prod(self.whole(index)) == 1:
            return  # one number is one number, in whichever brackets
        if shape is None or tuple(shape) != self.whole(index):
            found = a_type(array) if shape is None else f"shape {tuple(shape)}"
            raise UsageError(
                f"{name}{self.parts[index].where} has {found}: expected the shape {self.whole(index)} of x0"
            )

    def _joined(self, arrays: Sequence[Array]) -> Array:
        x = ops_for(arrays[0])
        leading = () if self.batch is None else (self.batch,)
        rows = [x.reshape(a, (*leading, p.stop - p.start)) for a, p in zip(arrays, self.parts, strict=True)]
        return rows[0] if len(rows) == 1 else x.concat(rows, -1)


def structure_of(x0: Tree, *, batch: bool = False, name: str = "x0") -> tuple[Structure, Array]:
    """Return the structure of a starting point and its vector, (n,) or (B, n); the arrays are not kept.

    Raises:
        UsageError: no entry, another dtype than float32 and float64 (NumPy's integers become float64, those
            of other frameworks do not), two dtypes, two frameworks, two devices, batches of two lengths, NaN
            or infinity.

    """
    nest, found = nest_of(x0, name, _is_plain)
    if x0 is None:
        raise UsageError(f"{name} is None: expected an array, or a dict, list or tuple of arrays")
    if not found:
        raise UsageError(f"{name} is empty: expected an array, or a dict, list or tuple of arrays")
    leaves = [(where, _array(leaf, where)) for where, leaf in found]
    frameworks = {_framework(leaf, where, nest): where for where, leaf in leaves}
    if len(frameworks) > 1:
        for where, leaf in found:
            if _is_plain(leaf):
                others = " and ".join(sorted(frameworks.keys() - {"numpy"}))
                raise UsageError(
                    f"{where} is {a_type(leaf)} beside arrays of {others}: expected an array of {others}, or "
                    "what does not change in args"
                )
        shown = ", ".join(f"{where} of {framework}" for framework, where in frameworks.items())
        raise UsageError(f"{name} mixes frameworks ({shown}): expected arrays of one")
    (framework,) = frameworks
    dtype = _one_dtype(leaves, name, nest)
    count = _one_batch(leaves, name) if batch else None
    parts, at = [], 0
    for where, leaf in leaves:
        shape = tuple(int(n) for n in leaf.shape[1 if batch else 0 :])
        parts.append(Part(where.removeprefix(name), shape, at, at + math.prod(shape)))
        at += math.prod(shape)
    if at == 0 or count == 0:
        raise UsageError(f"{name} is empty: expected at least one entry")
    structure = Structure(framework, tuple(parts), at, count, dtype, nest)
    own = import_module(f"downslope.gradients.{framework}")
    own.check_point(leaves)
    return structure, own.owned(structure._joined([leaf for _, leaf in leaves]))


def _array(leaf: Any, where: str) -> Any:
    """Return a leaf with plain numbers, lists of nothing but numbers, and NumPy's integers in float64."""
    if _is_plain(leaf):
        try:
            return np.asarray(leaf, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{where} is no array: {error}") from None
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "iu":
        return leaf.astype(np.float64)
    keras = any(kind.__module__.partition(".")[0] == "keras" for kind in type(leaf).__mro__)
    return (
        leaf.value if keras and hasattr(leaf, "value") else leaf
    )  # a variable holds an array of the backend


def _is_plain(tree: Tree) -> bool:
    if isinstance(tree, (list, tuple)) and not hasattr(tree, "_fields"):
        return all(_is_plain(v) for v in tree)
    return isinstance(tree, (int, float, np.number)) and not isinstance(tree, (bool, complex))


def _framework(leaf: Any, where: str, nest: Nest) -> str:
    if isinstance(leaf, np.matrix):  # it has no single axis: its row of one is again a matrix
        raise UsageError(f"{where} is an np.matrix: expected an array; give np.asarray({where})")
    if isinstance(leaf, np.ma.MaskedArray):
        raise UsageError(
            f"{where} is a masked array: expected a plain one; give its compressed() or filled()"
        )
    sparse = str(getattr(leaf, "layout", "torch.strided")) != "torch.strided"
    if sparse or type(leaf).__name__ in ("SparseTensor", "RaggedTensor"):
        raise UsageError(f"{where} is a sparse or ragged {type(leaf).__name__}: expected a dense one")
    try:
        found = type(ops_for(leaf)).__module__.rpartition(".")[2]
    except TypeError:
        found = ""
    if not found or not hasattr(leaf, "dtype"):
        hint = ""
        if hasattr(leaf, "named_parameters"):
            hint = "; of a module give dict(module.named_parameters()) and torch.func.functional_call"
        elif nest.has_registered:
            hint = f"; {FILTERED}"
        elif nest.kind is not None:
            hint = "; what does not change belongs in args"
        raise UsageError(
            f"{where} is {a_type(leaf)}: expected an array of NumPy, PyTorch, JAX or TensorFlow{hint}"
        )
    return found


def _dtype_name(leaf: Any) -> str:
    return str(getattr(leaf.dtype, "name", leaf.dtype)).removeprefix("torch.")


def _one_dtype(leaves: list[tuple[str, Any]], name: str, nest: Nest) -> str:
    found = {}
    for where, leaf in leaves:
        dtype = _dtype_name(leaf)
        if dtype not in DTYPES:
            hint = f", or {FILTERED}" if nest.has_registered else ""
            raise UsageError(
                f"{where} has dtype {dtype}: expected float32 or float64; convert it first{hint}"
            )
        found[dtype] = where
    if len(found) > 1:
        shown = ", ".join(f"{where} is {dtype}" for dtype, where in found.items())
        raise UsageError(f"{name} mixes dtypes ({shown}): expected one")
    return next(iter(found))


def _one_batch(leaves: list[tuple[str, Any]], name: str) -> int:
    found = {}
    for where, leaf in leaves:
        if len(leaf.shape) == 0:
            raise UsageError(f"{where} is one number: a batch has the problems along the leading axis")
        found[int(leaf.shape[0])] = where
    if len(found) > 1:
        shown = ", ".join(f"{where} has {count}" for count, where in found.items())
        raise UsageError(f"{name} holds batches of two lengths ({shown}): expected one leading axis")
    return next(iter(found))
