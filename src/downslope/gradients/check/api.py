"""`check_gradient`: from the user's function to a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from downslope.errors import UsageError, a_type
from downslope.gradients.check.adapter import problem_of
from downslope.gradients.check.examine import Settings, examine
from downslope.gradients.check.result import GradientReport
from downslope.rules.loop import named


def check_gradient(
    fun: Any,
    x: Any,
    *,
    gradient: Callable[..., Any] | bool | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    directions: int = 2,
    evaluations: int = 3000,
    findings: int = 50,
    rtol: float = 1e-4,
    precision: str = "auto",
    seed: int = 0,
) -> GradientReport:
    r"""Check a gradient against differences of the function, and name each entry that is wrong.

    Along a direction v the derivative is measured by central differences extrapolated to step zero with an
    estimate of their error (Ridders, Advances in Engineering Software 4, 1982), and compared with ĝᵀv. A
    discrepancy is followed to the entries behind it.

    Args:
        fun: a function of `x` that returns one number, or an array of one. In PyTorch, JAX and TensorFlow
            an array of several is weighted at random; NumPy's belongs to `check_jacobian`. Or a
            `torch.nn.Module` or Keras model, whose parameters are checked on the batch `x`.
        x: an array of NumPy, PyTorch, JAX or TensorFlow, or a nested dict, list or tuple of them. A
            tuple is handed over as separate arguments where `fun` takes as many. Integer arrays stay
            fixed.
        gradient: the gradient to be checked, a function of the same arguments, or True where `fun`
            returns (value, gradient). By default that of the framework's automatic differentiation;
            NumPy has none.
        loss: `loss(model, batch)` returns a number; with a module or model.
        directions: random directions that all entries are tested along.
        evaluations: calls of function and gradient at most.
        findings: wrong entries, or groups of them, listed at most.
        rtol: relative differences up to this are let pass; 0.02 at least below float64.
        precision: "auto" checks float32 and bfloat16 functions in float64 where they let it, of PyTorch and
            JAX what they cast down inside too; "own" never, "float64" raises where they do not let it.
        seed: of the directions.

    Raises:
        UsageError: `fun` raises at `x`, returns no number or writes to its argument; options out of
            range; a gradient of another shape or nesting.

    >>> import numpy as np
    >>> report = check_gradient(lambda x: np.sum(x**3), np.array([1.0, 2.0]), gradient=lambda x: 3 * x**2)
    >>> report.verdict.name
    'PASS'
    >>> wrong = check_gradient(lambda x: np.sum(x**3), np.array([1.0, 2.0]), gradient=lambda x: 2 * x**2)
    >>> wrong.findings[0].hint
    'the same ratio 0.666667 everywhere'

    """
    settings = _settings(directions, evaluations, findings, rtol, seed)
    if precision not in ("auto", "own", "float64"):
        raise UsageError(f'precision = {precision!r}: expected "auto", "own" or "float64"')
    problem = problem_of(adapter_of(fun, x, gradient, loss), precision)
    return replace(examine(problem, settings), function=name_of(fun))


def _settings(directions: int, evaluations: int, findings: int, rtol: float, seed: int) -> Settings:
    for name, value, least in (
        ("directions", directions, 1),
        ("evaluations", evaluations, 50),
        ("findings", findings, 1),
        ("seed", seed, 0),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(f"{name} = {value!r}: expected a whole number, at least {least}")
    if not isinstance(rtol, (int, float)) or not 0 <= rtol < 1:
        raise UsageError(f"rtol = {rtol!r}: expected a number in [0, 1)")
    return Settings(directions, evaluations, findings, rtol=rtol, seed=seed)


def adapter_of(fun: Any, x: Any, gradient: Any, loss: Any) -> Any:
    """Return the adapter of the framework that the function or its arrays come from."""
    if not callable(fun):
        raise UsageError(f"fun is {a_type(fun)}: expected a function, a module or a model")
    framework = framework_of(fun, x)
    if framework == "torch":
        from downslope.gradients.check.torch import adapter_for

        return adapter_for(fun, x, gradient, loss)
    if framework == "tensorflow":
        from downslope.gradients.check.tensorflow import adapter_for as tensorflow_adapter

        return tensorflow_adapter(fun, x, gradient, loss)
    if loss is not None:
        raise UsageError("loss is given, and no module or model: check_gradient(module, batch, loss=…)")
    if framework == "jax":
        from downslope.gradients.check.jax import JaxAdapter

        return JaxAdapter(fun, x, gradient)
    from downslope.gradients.check.numpy import NumpyAdapter

    return NumpyAdapter(fun, x, gradient)


def framework_of(fun: Any, x: Any) -> str:
    """Return the framework of a model, or else of the first array in x that belongs to one."""
    roots = {kind.__module__.partition(".")[0] for kind in type(fun).__mro__}
    if "torch" in roots and hasattr(fun, "parameters"):
        return "torch"
    if "keras" in roots and hasattr(fun, "trainable_variables"):
        return _keras_backend()
    for _, leaf in named(x):
        for kind in type(leaf).__mro__:
            root = kind.__module__.partition(".")[0]
            if root in ("torch", "tensorflow"):
                return root
            if root in ("jax", "jaxlib"):
                return "jax"
    return "jax" if _of_jax(fun, x) else "numpy"


def _of_jax(fun: Any, x: Any) -> bool:
    """Whether the function itself is JAX's (custom_vjp, jit), or x a registered pytree of its arrays."""
    if type(fun).__module__.partition(".")[0] in ("jax", "jaxlib"):
        return True
    import sys

    jax = sys.modules.get("jax")
    if jax is None or isinstance(x, (dict, list, tuple)) or not hasattr(x, "__dict__"):
        return False
    leaves = jax.tree_util.tree_leaves(x)
    return bool(leaves) and any(isinstance(a, jax.Array) for a in leaves)


def _keras_backend() -> str:
    import keras

    backend = str(keras.backend.backend())
    if backend == "jax":
        raise UsageError(
            "a Keras model on the JAX backend: check a function of its variables, with model.stateless_call"
        )
    return backend


def name_of(fun: Any) -> str:
    """Return what a function is called in the report."""
    name = str(getattr(fun, "__name__", "") or type(fun).__name__)
    if name == "apply":
        return str(getattr(getattr(fun, "__self__", None), "__name__", name))
    return "" if name == "<lambda>" else name
