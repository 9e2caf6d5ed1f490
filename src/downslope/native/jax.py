"""The polar factors of Muon's stacks in JAX: compiled for this CPU where a program runs on it, else plain.

They are an operation of their own. What it becomes is chosen where a program is lowered: for a CPU a call of
`polar_xla.cpp`, which shares the work among XLA's threads and gathers nothing, but where a program is spread
over several devices, which then share the matrices; for other devices, in programs that are exported, where
nothing could be compiled, and under differentiation what `orthogonalize` does. The code is compiled when a
program first asks for it, in four seconds, and kept in the user's cache for the next.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from downslope.native import build
from downslope.native import polar as native
from downslope.native.build import BuildError, Made, Source
from downslope.native.tape import program_of
from downslope.ops.jax import JaxOps
from downslope.ops.protocol import Array
from downslope.rules.checks import require
from downslope.rules.orthogonalize import orthogonalize

NS_DTYPES = ("auto", "bfloat16", "float32", "float64")
_COMPILED = (None, "auto", "bfloat16", "float32")


class How(NamedTuple):
    """How matrices are orthogonalised.

    Attributes:
        coefficients: the set.
        steps: how many iterations; None is as many as the set is made for.
        dtype: what they run in, by name; None is the matrices' own, "auto" what is fastest on a CPU with
            compiled code and their own elsewhere.

    """

    coefficients: str
    steps: int | None
    dtype: str | None


def polars_of(stacks: Sequence[Array], how: How, fused: bool | None = None) -> Any:
    """Return the polar factors of stacks (..., m, n) of matrices of one shape, plain ones if not `fused`."""
    alike = all(s.dtype == jnp.float32 and 0 not in s.shape for s in stacks)
    if fused is False or not alike or how.dtype not in _COMPILED:
        return _plain(*stacks, **how._asdict())
    return _polars(how, *stacks)


def dtype_named(ns_dtype: Any) -> str | None:
    """Return the name of a dtype that iterations may run in; float16 lacks the range."""
    if ns_dtype is None:
        return None
    try:
        name = "auto" if isinstance(ns_dtype, str) and ns_dtype == "auto" else jnp.dtype(ns_dtype).name
    except TypeError:
        name = "unknown"
    require("ns_dtype", ns_dtype, name in NS_DTYPES, "None or one of " + ", ".join(NS_DTYPES))
    return name


def engine(dtype: Any = "float32", ns_dtype: Any = "auto", *, platform: str | None = None) -> str:
    """Return in words what orthogonalises the matrices of `muon`, and why where it is plain JAX.

    Args:
        dtype: of the parameters.
        ns_dtype: as given to `muon`.
        platform: what the program runs on: "cpu", "gpu", …; None is where JAX runs by default.

    >>> engine(platform="gpu")
    'plain JAX (nothing compiled for gpu)'
    >>> engine("float64", platform="cpu")
    'plain JAX (nothing compiled for float64)'

    """
    name, own = dtype_named(ns_dtype), jnp.promote_types(dtype, jnp.float32).name
    platform = platform or jax.default_backend()
    if platform != "cpu":
        return f"plain JAX (nothing compiled for {platform})"
    if "float64" in (own, name):
        return "plain JAX (nothing compiled for float64)"
    half = _in_half(name)
    if why := _reason(half):
        return f"plain JAX ({why})"
    return f"orthogonalised by code compiled for this CPU, in {'bfloat16' if half else 'float32'}"


def _plain(*stacks: Array, coefficients: str, steps: int | None, dtype: str | None) -> list[Array]:
    """Return polar factors found by plain JAX, of all stacks together."""
    whole = stacks[0] if len(stacks) == 1 else jnp.concatenate(stacks, axis=-3)
    ns_dtype = None if dtype in (None, "auto") else jnp.dtype(dtype)
    done = orthogonalize(JaxOps(), whole, coefficients=coefficients, steps=steps, dtype=ns_dtype)
    ends = accumulate(s.shape[-3] for s in stacks)
    return [done[..., end - s.shape[-3] : end, :, :] for s, end in zip(stacks, ends, strict=True)]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _polars(how: How, *stacks: Array) -> Any:
    return _bound(how, *stacks)


@_polars.defjvp
def _derivative(how: How, stacks: Any, tangents: Any) -> Any:
    return jax.jvp(partial(_plain, **how._asdict()), stacks, tangents)


@partial(jax.jit, static_argnums=0)
def _bound(how: How, *stacks: Array) -> Any:
    return polars_p.bind(*stacks, **how._asdict())


polars_p: Any = Primitive("downslope_polars")
polars_p.multiple_results = True
polars_p.def_impl(_plain)
polars_p.def_abstract_eval(lambda *stacks, **_: list(stacks))


def _batched(stacks: Sequence[Array], axes: Sequence[Any], **how: Any) -> Any:
    """Take what is mapped over as more leading axes, apart from what is not."""
    done: list[Any] = [None] * len(stacks)
    for mapped in (True, False):
        where = [i for i, axis in enumerate(axes) if (axis is not None) == mapped]
        own = [jnp.moveaxis(stacks[i], axes[i], 0) if mapped else stacks[i] for i in where]
        for i, polar in zip(where, polars_p.bind(*own, **how) if own else (), strict=True):
            done[i] = polar
    return done, [axis if axis is None else 0 for axis in axes]


def _lower_for_cpu(context: Any, *stacks: Any, **how: Any) -> Any:
    """Call the compiled code, but in programs that run elsewhere, which does not have it."""
    half = _in_half(how["dtype"])
    exported = getattr(context.module_context.lowering_parameters, "for_export", False)
    if exported or _reason(half):
        return _lower_plain(context, *stacks, **how)
    # Programs of several processes are to be the same, though one of them may have no compiler.
    if jax.process_count() == 1 and (devices := _devices_of(context)) > 1:
        return mlir.lower_fun(partial(_shared, devices), multiple_results=True)(context, *stacks, **how)
    shape = context.avals_in[0].shape[-2:]
    multiplier = native.multiplier(_library, half)
    program, squares = program_of(*shape, how["coefficients"], how["steps"], multiplier)
    call = jax.ffi.ffi_lowering(_target())
    words = np.frombuffer(bytes(program), np.int32)
    return call(context, *stacks, program=words, squares=np.int64(squares), multiplier=np.int32(multiplier))


def _devices_of(context: Any) -> int:
    """Return over how many devices the compiler spreads a program, 1 where the user's `shard_map` has."""
    devices: int = getattr(context.module_context.axis_context, "num_devices", 1)
    mesh = jax.sharding.get_abstract_mesh()
    return devices if mesh.empty or mesh.size == devices else 1


def _shared(devices: int, *stacks: Array, **how: Any) -> list[Array]:
    """Let each device take its part of the matrices, and hand what it made of them to all."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        mesh = jax.sharding.AbstractMesh((devices,), ("devices",))

    def own(*stacks: Array) -> list[Array]:
        flat = [s.reshape(-1, *s.shape[-2:]) for s in stacks]
        ends = list(accumulate(s.shape[0] for s in flat))
        each = -(-ends[-1] // devices)
        rest = jnp.zeros((each * devices - ends[-1], *flat[0].shape[1:]), flat[0].dtype)
        first = each * jax.lax.axis_index(mesh.axis_names)
        part = jax.lax.dynamic_slice_in_dim(jnp.concatenate([*flat, rest]), first, each)
        (made,) = polars_p.bind(part, **how)
        done = jnp.split(jax.lax.all_gather(made, mesh.axis_names, tiled=True)[: ends[-1]], ends[:-1])
        return [polar.reshape(s.shape) for polar, s in zip(done, stacks, strict=True)]

    whole: Any = jax.sharding.PartitionSpec  # untyped
    return jax.shard_map(own, mesh=mesh, in_specs=whole(), out_specs=whole(), check_vma=False)(*stacks)


_lower_plain = mlir.lower_fun(_plain, multiple_results=True)
mlir.register_lowering(polars_p, _lower_plain)
mlir.register_lowering(polars_p, _lower_for_cpu, platform="cpu")
batching.primitive_batchers[polars_p] = _batched


def _in_half(dtype: str | None) -> bool:
    """Whether compiled iterations run in bfloat16: where they are asked to, or it is faster."""
    if dtype != "auto":
        return dtype == "bfloat16"
    return native.prefers_half(_library)


@cache
def _reason(half: bool) -> str:
    """Return why nothing is compiled for this CPU, "" where it is."""
    return native.reason(_library, half)


def _library() -> ctypes.CDLL:
    _target()
    return _made().code


@cache
def _target() -> str:
    """Return the name that XLA calls the compiled code by, which programs kept in a cache of its ask for too.

    Raises:
        BuildError: there is none.

    """
    code, digest = _made()
    name = f"downslope_polar_{digest.hex()[:16]}"
    ffi: Any = jax.ffi  # in part untyped
    try:
        ffi.register_ffi_target(name, ffi.pycapsule(code.polar), platform="cpu")
    except Exception as error:  # of another version of XLA's interface
        raise BuildError(f"XLA does not take it: {error}") from None
    return name


def _made() -> Made:
    include = jax.ffi.include_dir()
    headers = (str(Path(include, "xla", "ffi", "api", name)) for name in ("ffi.h", "api.h", "c_api.h"))
    files = ("polar_xla.cpp", *native.HEADERS, *headers)
    return build.made(Source("polar-xla", "#include <polar_xla.cpp>\n", files, ("-I", include)))
