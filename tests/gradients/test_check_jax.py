"""Checks of JAX functions: pytrees, custom derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
import jax.numpy as jnp  # noqa: E402

import downslope as ds  # noqa: E402
from downslope.errors import UsageError  # noqa: E402
from downslope.gradients.check import Reason, Verdict  # noqa: E402


def test_a_pytree_passes_in_float64() -> None:
    before = jax.config.jax_enable_x64
    params = {"w": jnp.full((4, 3), 0.3, jnp.float32), "b": jnp.arange(3, dtype=jnp.float32)}
    report = ds.check_gradient(lambda p: jnp.sum(jnp.tanh(p["w"]) @ p["b"]), params)
    assert report.passed
    assert any("float64" in note for note in report.notes)
    assert jax.config.jax_enable_x64 == before


def test_custom_vjp_with_one_wrong_entry() -> None:
    @jax.custom_vjp
    def f(x: Any) -> Any:
        return jnp.sum(jnp.exp(x))

    f.defvjp(lambda x: (f(x), x), lambda x, g: ((g * jnp.exp(x)).at[1, 2].multiply(-1.0),))
    report = ds.check_gradient(f, jnp.linspace(0, 1, 12).reshape(3, 4))
    assert [one.name for one in report.findings] == ["x[1, 2]"]
    assert report.findings[0].hint == "opposite sign"


def test_a_missing_mean_is_named_and_many_outputs_are_weighted() -> None:
    @jax.custom_vjp
    def mean(x: Any) -> Any:
        return jnp.mean(x**2)

    mean.defvjp(lambda x: (mean(x), x), lambda x, g: (g * 2 * x,))
    report = ds.check_gradient(mean, jnp.linspace(1, 2, 37))
    assert "a missing 1/37" in report.findings[0].hint
    assert any("weighting" in note for note in ds.check_gradient(jnp.sin, jnp.ones((2, 3))).notes)


def test_bfloat16_never_fails_a_right_gradient() -> None:
    x = jnp.linspace(-1, 1, 50).astype(jnp.bfloat16)
    assert ds.check_gradient(lambda x: jnp.sum(jnp.sin(x)), x).passed
    assert ds.check_gradient(lambda x: jnp.sum(jnp.sin(x)), x, precision="own").verdict is not Verdict.FAIL


@jax.custom_vjp
def rounded(x: Any) -> Any:
    """Squares in bfloat16, forward and backward; the gradient of entry 2 is a tenth too large."""
    return (x.astype(jnp.bfloat16) ** 2).astype(x.dtype)


rounded.defvjp(
    lambda x: (rounded(x), x),
    lambda x, g: ((2 * x.astype(jnp.bfloat16)).astype(x.dtype) * g.at[2].mul(1.1),),
)


def test_casts_inside_are_taken_out_of_a_function_and_of_its_derivative_rule() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=4), jnp.float32)

    def narrow(x: Any) -> Any:
        return (30 + rounded(x).sum()).astype(jnp.bfloat16)

    report = ds.check_gradient(narrow, x)
    assert [f.index for f in report.findings] == [(2,)]
    assert "f casts to bfloat16: checked with all of it in float64" in report.notes
    unseen = ds.check_gradient(narrow, x, precision="own")
    assert unseen.verdict is Verdict.INCONCLUSIVE


HELD = np.random.default_rng(1).normal(size=(4, 4))
NARROW = {
    "held": lambda x: jnp.tanh(jax.lax.dot(x.astype(jnp.bfloat16), jnp.asarray(HELD, jnp.bfloat16))).sum(),
    "scan": lambda x: jax.lax.scan(
        lambda c, a: (jnp.sin(c * a).astype(jnp.bfloat16), c), jnp.bfloat16(1), x.astype(jnp.bfloat16)
    )[0],
    "loop": lambda x: jax.lax.fori_loop(0, 3, lambda i, c: jnp.sin(c), x.astype(jnp.bfloat16)).sum(),
    "cond": lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.square, x.astype(jnp.bfloat16)).sum(),
    "gather": lambda x: jnp.sin(x.astype(jnp.bfloat16)[jnp.array([0, 1, 1, 3])]).sum(),
    "scatter": lambda x: jnp.sin(x.astype(jnp.bfloat16).at[1].set(3.0)).sum(),
    "checkpoint": lambda x: jax.checkpoint(lambda y: jnp.sin(jnp.sin(y.astype(jnp.bfloat16))))(x).sum(),
    "solve": lambda x: jnp.linalg.solve(
        3 * jnp.eye(4) + x[:, None] * x, x.astype(jnp.bfloat16).astype(jnp.float32)
    ).sum(),
    "sort": lambda x: (jnp.sort(x.astype(jnp.bfloat16)) * jnp.arange(4)).sum(),
}


@pytest.mark.parametrize("name", NARROW)
def test_every_part_of_a_traced_function_is_taken_in_float64(name: str) -> None:
    f, x = NARROW[name], jnp.asarray(np.random.default_rng(0).normal(size=4), jnp.float32)
    report = ds.check_gradient(f, x)
    assert report.passed
    assert any("checked with all of it in float64" in note for note in report.notes)
    right = jax.grad(lambda x: f(x).astype(jnp.float32))
    wrong = ds.check_gradient(f, x, gradient=lambda x: right(x).at[2].add(0.1))
    assert [w.index for w in wrong.findings] == [(2,)]


SMOOTH = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "selu": jax.nn.selu,
    "erf": jax.lax.erf,
    "erf_inv": jax.lax.erf_inv,
    "cbrt": jnp.cbrt,
    "exp2": jnp.exp2,
    "sinc": jnp.sinc,
    "logaddexp2": lambda x: jnp.logaddexp2(x, 0.3 * x),
    "call": jax.jit(lambda x: jax.lax.erf(x.astype(jnp.bfloat16))),
    "scan": lambda x: jax.lax.scan(lambda c, a: (jax.lax.erf(c + a), c), jnp.zeros_like(x[0]), x)[1],
}
"""Functions whose derivatives hold numbers that 16 bits round, as 2/√π."""


@pytest.mark.parametrize("name", SMOOTH)
def test_numbers_in_derivatives_of_narrow_functions_are_those_of_float64(name: str) -> None:
    """A right gradient passes in as few evaluations as in float64, and a tenth in an entry is named."""
    generator = np.random.default_rng(sum(map(ord, name)))
    x = jnp.asarray(generator.uniform(0.1, 0.9, 6), jnp.float32)
    dtype = (jnp.bfloat16, jnp.float16)[int(generator.integers(2))]

    def f(x: Any) -> Any:
        return jnp.arange(1.0, 7.0) @ SMOOTH[name](x.astype(dtype)).astype(jnp.float32)

    report = ds.check_gradient(f, x)
    assert report.passed
    assert report.evaluations < 80  # about 57, as of a function that casts nothing
    assert report.coverage is not None
    assert report.coverage.level == 0.01
    largest = int(jnp.argmax(jnp.abs(jax.grad(f)(x))))
    wrong = ds.check_gradient(f, x, gradient=lambda x: jax.grad(f)(x).at[largest].mul(1.1))
    assert [one.index for one in wrong.findings] == [(largest,)]


@jax.custom_vjp
def kept(x: Any) -> Any:
    """Erf, with a number in its derivative rule that is bfloat16 for good."""
    return jax.lax.erf(x)


kept.defvjp(
    lambda x: (kept(x), x), lambda x, g: (g * np.asarray(2 / np.pi**0.5, jnp.bfloat16) * jnp.exp(-x * x),)
)


def of_kept(x: Any) -> Any:
    return kept(x.astype(jnp.bfloat16)).astype(jnp.float32).sum()


ONES = jnp.ones(6, jnp.bfloat16)


def with_held(x: Any) -> Any:
    """Cannot be traced without its cast: `lax.mul` takes no two dtypes."""
    return jax.lax.mul(jax.lax.erf(x.astype(jnp.bfloat16)), ONES).astype(jnp.float32).sum()


@pytest.mark.parametrize("f", [of_kept, with_held])
def test_what_the_rounding_of_a_number_makes_of_a_gradient_is_let_pass(f: Any) -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=6), jnp.float32)
    report = ds.check_gradient(f, x)
    assert report.passed
    assert "f holds numbers of 16 bits" in report.notes[-1]
    assert report.coverage is not None
    assert report.coverage.level == 0.1
    wrong = ds.check_gradient(f, x, gradient=lambda x: jax.grad(f)(x).at[2].mul(1.1))
    assert [one.index for one in wrong.findings] == [(2,)]


def test_a_function_that_goes_by_its_dtype_is_taken_with_its_casts() -> None:
    """With them left out, the number that it adds would be another, and the value far off."""

    def f(x: Any) -> Any:
        y = x.astype(jnp.bfloat16)
        return (1 + jax.lax.erf(y) * jnp.finfo(y.dtype).eps ** -0.25).astype(jnp.float32).sum()

    report = ds.check_gradient(f, jnp.linspace(0.2, 0.8, 5))
    assert report.passed
    assert "f casts to bfloat16: checked with all of it in float64" in report.notes


def test_a_compiled_function_is_left_as_it_was() -> None:
    @jax.jit
    def f(x: Any) -> Any:
        return jax.lax.erf(x.astype(jnp.bfloat16)).astype(x.dtype).sum()

    assert ds.check_gradient(f, jnp.full(3, 0.7)).passed
    with jax.enable_x64(True):
        x = jnp.full(3, 0.7, jnp.float64)
        assert float(f(x)) == 3 * float(jax.lax.erf(jnp.bfloat16(0.7)))


def of_bits(x: Any) -> Any:
    return x + 0 * jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32).sum()


def of_few_digits(x: Any) -> Any:
    return jax.lax.reduce_precision(x, 8, 7)


@pytest.mark.parametrize("kept", [of_bits, of_few_digits])
def test_what_cannot_be_taken_to_float64_is_checked_as_it_is(kept: Any) -> None:
    report = ds.check_gradient(lambda x: (kept(x).astype(jnp.bfloat16) ** 2).sum(), jnp.ones(3))
    assert report.verdict is not Verdict.FAIL
    assert not any("all of it in float64" in note for note in report.notes)


def test_a_callback_computes_in_its_own_dtype() -> None:
    def f(x: Any) -> Any:
        whole = jax.ShapeDtypeStruct((), jnp.float32)
        value = jax.pure_callback(lambda a: np.float32((np.asarray(a) ** 2).sum()), whole, x)
        return value.astype(jnp.bfloat16)

    report = ds.check_gradient(f, jnp.ones(3), gradient=lambda x: 2 * x)
    assert report.verdict is not Verdict.FAIL
    assert not any("all of it in float64" in note for note in report.notes)


def test_functions_that_cannot_be_traced_are_called_as_they_are() -> None:
    def f(x: Any) -> Any:
        return jnp.sum(x**2) if float(jax.lax.stop_gradient(x)[0]) > 0 else jnp.sum(x)

    assert ds.check_gradient(f, jnp.ones(3)).verdict is not Verdict.FAIL


def test_complex_numbers_are_refused() -> None:
    nest = {"a": jnp.ones(2, jnp.complex64), "b": jnp.ones(3)}
    with pytest.raises(UsageError, match=r"dtype complex64 \(a\): expected real"):
        ds.check_gradient(lambda p: jnp.sum(p["b"] ** 2) + jnp.sum(jnp.abs(p["a"])), nest)
    with pytest.raises(UsageError, match="returned complex numbers"):
        ds.check_gradient(lambda x: (x * 1j, x), jnp.ones(3))


def test_kinks_and_products() -> None:
    assert ds.check_gradient(lambda x: jnp.sum(jax.nn.relu(x)), jnp.zeros(3)).reason is Reason.KINK
    assert ds.check_hvp(lambda x: jnp.sum(x**3) + jnp.prod(x), jnp.linspace(1, 2, 6)).passed
    wrong = ds.check_hvp(lambda x: jnp.sum(x**3), jnp.linspace(1, 2, 6), hvp=lambda x, v: 5 * x * v)
    assert wrong.verdict is Verdict.FAIL


def _through_callback(x: Any) -> Any:
    return jax.pure_callback(lambda v: np.sum(np.asarray(v) ** 2, dtype=v.dtype), x[0], x)


@pytest.mark.parametrize(
    ("fun", "raised"),
    [
        (lambda x: jnp.sum(x) * float(x[0]), "ConcretizationTypeError"),
        (lambda x: jnp.asarray(np.sum(np.asarray(x) ** 2)), "TracerArrayConversionError"),
        (lambda x: jax.lax.while_loop(lambda v: v < 9, lambda v: v * 2, jnp.sum(x)), "ValueError"),
        (_through_callback, "ValueError"),
    ],
)
def test_a_function_that_cannot_be_differentiated_is_told_in_a_line(fun: Any, raised: str) -> None:
    said = f"differentiating the function raised {raised}.*: write it in operations"
    with pytest.raises(UsageError, match=said) as told:
        ds.check_gradient(fun, jnp.ones(3))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("number", [3, 2.5, True, np.int64(3), np.float32(0.5)], ids=type)
def test_a_plain_number_is_a_constant(number: Any) -> None:
    report = ds.check_gradient(lambda x: number, jnp.linspace(-1, 1, 4))
    assert (report.verdict, report.coverage.zeros) == (Verdict.PASS, 4)
    assert any("counts as zero" in note for note in report.notes)
    assert ds.check_hvp(lambda x: number, jnp.linspace(-1, 1, 4)).verdict is Verdict.PASS
    hinge = ds.check_gradient(lambda x: max(0, x.sum() - 9), jnp.linspace(-1, 1, 4))  # 0 is Python's here
    assert hinge.verdict is Verdict.PASS


@pytest.mark.parametrize(
    "returned", [None, "3", (3, 4), jnp.array(3)], ids=["none", "text", "numbers", "whole"]
)
def test_what_is_no_number_is_refused(returned: Any) -> None:
    with pytest.raises(UsageError, match=r"the function returned an? .*: expected"):
        ds.check_gradient(lambda x: returned, jnp.linspace(-1, 1, 4))


def test_a_surrogate_gradient_of_steps_is_called_one() -> None:
    @jax.custom_vjp
    def spike(x: Any) -> Any:
        return (x > 0).astype(x.dtype)

    spike.defvjp(lambda x: (spike(x), x), lambda x, g: (g / (1 + jnp.abs(x)) ** 2,))
    x = jax.random.normal(jax.random.key(0), (6, 5))
    report = ds.check_gradient(lambda x: jnp.sum((spike(x) - 0.3) ** 2 * 0.7), x)
    assert (report.verdict, report.reason) == (Verdict.INCONCLUSIVE, Reason.JUMP)
    assert "The gradient is a surrogate" in report.reasons[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_jacobian_of_bfloat16_is_judged_in_float64(seed: int) -> None:
    one, two = jax.random.split(jax.random.key(seed))
    a, x = jax.random.normal(one, (4, 6)) / 2, jax.random.normal(two, (6,), jnp.bfloat16)
    jacobian = jax.jacobian(lambda x: jnp.tanh(a.astype(x.dtype) @ x))

    def f(x: Any) -> Any:
        return jnp.tanh(a.astype(x.dtype) @ x) * jnp.asarray(1.1, x.dtype)

    def right(x: Any) -> Any:
        return jacobian(x) * jnp.asarray(1.1, x.dtype)

    def wrong(x: Any) -> Any:
        made = right(x)
        return made.at[jnp.unravel_index(jnp.argmax(jnp.abs(made)), made.shape)].multiply(1.1)

    def coarse(x: Any) -> Any:  # right but for the rounding of what it casts down
        return jacobian(x.astype(jnp.bfloat16)).astype(x.dtype) * jnp.asarray(1.1, x.dtype)

    assert ds.check_jacobian(f, x, right).verdict is Verdict.PASS
    assert ds.check_jacobian(f, x, wrong).verdict is Verdict.FAIL
    assert ds.check_jacobian(f, x, coarse).verdict is Verdict.INCONCLUSIVE
