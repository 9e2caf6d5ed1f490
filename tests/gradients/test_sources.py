"""Where gradients come from, on NumPy and PyTorch; `test_sources_jax.py` and its sibling have the others."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch

import downslope as ds
from downslope.errors import UsageError
from downslope.gradients import objective, residuals, structure_of
from downslope.gradients.noise import estimate_noise

RNG = np.random.default_rng(0)
POINT = {"a": np.array([1.0, 2.0]), "b": np.array(0.5), "w": np.array([[1.0, 2.0, 3.0], [0.4, 0.5, 0.6]])}
FLAT = np.concatenate([v.ravel() for v in POINT.values()])


def tensors(dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    return {k: torch.tensor(v, dtype=dtype) for k, v in POINT.items()}


def function(p: dict[str, Any]) -> Any:
    exp = torch.exp if isinstance(p["a"], torch.Tensor) else np.exp
    return (exp(p["a"]) * p["a"] ** 2).sum() * p["b"] + (p["w"] ** 3).sum()


def by_hand(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and Hessian of `function`, from its formula."""
    a, b, w = flat[:2], flat[2], flat[3:]
    e = np.exp(a)
    g = np.concatenate([e * (a**2 + 2 * a) * b, [(e * a**2).sum()], 3 * w**2])
    H = np.zeros((9, 9))
    H[[0, 1], [0, 1]] = e * (a**2 + 4 * a + 2) * b
    H[:2, 2] = H[2, :2] = e * (a**2 + 2 * a)
    H[range(3, 9), range(3, 9)] = 6 * w
    return g, H


def test_pytorch_differentiates_exactly() -> None:
    f = objective(function, tensors())
    value, g = f.value_and_gradient(f.x0)
    gradient, hessian = by_hand(FLAT)
    v = RNG.standard_normal(9)
    assert value == pytest.approx(float(function(POINT)), rel=1e-15)
    # a few roundings of numbers up to 100
    np.testing.assert_allclose(g, gradient, rtol=1e-14)
    np.testing.assert_allclose(f.hessian(f.x0), hessian, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(f.hessian_vector(f.x0, torch.tensor(v)), hessian @ v, rtol=1e-13)


@pytest.mark.parametrize(("kind", "error"), [("central", 1e-8), ("forward", 1e-7), ("complex", 1e-13)])
def test_numpy_differences_are_as_good_as_they_say(kind: str, error: float) -> None:
    f = objective(function, POINT, gradient=kind)
    gradient, _ = by_hand(FLAT)
    f.value_and_gradient(f.x0)  # the first one is central and learns the curvature
    off = np.max(np.abs(f.value_and_gradient(f.x0)[1] - gradient))
    assert off < error * np.max(gradient)
    told = f.provenance
    assert told.calls == (18 if kind == "central" else 9)
    if kind != "complex":
        assert told.error is not None
        assert off < 3 * told.error  # what the result says of the error holds
        assert told.noise is not None


@pytest.mark.parametrize("level", [1e-10, 1e-6, 1e-3])
def test_steps_grow_with_the_noise(level: float) -> None:
    noise = np.random.default_rng(3)

    def f(x: np.ndarray) -> float:
        return float(np.sum(np.cosh(x))) + level * noise.standard_normal()

    x = np.array([0.5, -1.0, 2.0])
    aware = objective(f, x, gradient="central")
    off = np.max(np.abs(aware.value_and_gradient(x)[1] - np.sinh(x)))
    h = 6e-6  # the step of a function without noise
    naive = [(f(x + h * e) - f(x - h * e)) / (2 * h) for e in np.eye(3)]
    assert off < 20 * level ** (2 / 3)  # the best order that central differences reach
    assert off < 0.2 * np.max(np.abs(naive - np.sinh(x))) or level < 1e-9
    assert estimate_noise(lambda p: np.asarray(f(p)), x, np.abs(x)) == pytest.approx(level, rel=0.9)


@pytest.mark.parametrize("kind", [objective, residuals])
def test_steps_of_an_entry_that_goes_to_zero_are_not_lost_with_it(kind: Any) -> None:
    """A share of 1e-17 is no step: the curvature that was met tells which is."""
    f = kind(lambda x: np.atleast_1d(np.cosh(x).sum()), [0.5, 0.4])
    derivative = f.value_and_gradient if kind is objective else f.value_and_jacobian
    for x in ([0.5, 0.4], [1e-3, 1e-4], [1e-9, 1e-12], [1e-17, 1e-60]):
        made = np.ravel(derivative(np.array(x))[1])
        assert f.provenance.error < 1e-4  # the noise over the step, which is not far below the best one
        np.testing.assert_allclose(made, np.sinh(x), atol=3 * f.provenance.error)


def test_auto_changes_to_central_where_forward_is_felt() -> None:
    f = objective(lambda x: float(np.sum(x**2) + 1.0), np.array([1.0, 2.0]))
    for shrink in (1.0, 1.0, 1e-3, 1e-6):
        f.value_and_gradient(shrink * f.x0)
        kind = f.provenance.how
        assert kind == ("forward differences" if shrink == 1.0 and f.counts.gradients > 1 else kind)
    assert f.provenance.how == "central differences"


def test_the_complex_step_is_tested_and_not_assumed() -> None:
    x = np.array([1.0])
    for f, message in (
        (lambda z: np.sum(z * np.conj(z)) if np.iscomplexobj(z) else np.sum(z * z), "not analytic"),
        (lambda z: np.abs(z - 3).sum(), "cast to real"),
        (lambda z: float(z[0]) ** 2, "use 'central'"),
    ):
        with np.errstate(all="raise"), pytest.raises(UsageError, match=message):
            objective(f, x, gradient="cs").value_and_gradient(x)


def test_the_complex_step_keeps_small_parameters() -> None:
    # SciPy's step of 1.5e-8 is larger than this parameter.
    x = np.array([1e-9, 2.0])
    f = objective(lambda z: np.sum(np.exp(1e9 * z[:1])) + z[1] ** 2, x, gradient="complex")
    np.testing.assert_allclose(f.value_and_gradient(x)[1], [1e9 * np.e, 4.0], rtol=1e-13)


def test_bounds_are_not_crossed() -> None:
    seen: list[np.ndarray] = []

    def f(x: np.ndarray) -> float:
        seen.append(x.copy())
        return float(np.sum(np.sqrt(x)))

    low, high = np.zeros(3), np.array([1.0, 2.0, 3.0])
    x = np.array([0.5, 2.0, 3.0])
    g = objective(f, x, gradient="central", bounds=(low, high)).value_and_gradient(x)[1]
    np.testing.assert_allclose(g, 0.5 / np.sqrt(x), rtol=1e-6)
    assert all((p >= low).all() and (p <= high).all() for p in seen)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_batch_is_its_problems(kind: str) -> None:
    X, A = RNG.standard_normal((5, 3)), RNG.standard_normal((5, 3))

    def each(x: Any, a: Any) -> Any:
        return ((x - a) ** 4).sum(-1) + x[..., 0] * x[..., 1] * x[..., 2]

    wrap = np.asarray if kind == "numpy" else torch.tensor
    f = objective(each, wrap(X), args=(wrap(A),), batch=True)
    value, g = f.value_and_gradient(f.x0)
    H, v = f.hessian(f.x0), f.hessian_vector(f.x0, f.x0)
    for i in range(5):
        one = objective(each, wrap(X[i]), args=(wrap(A[i]),))
        near = 1e-12 if kind == "torch" else 1e-4  # of NumPy, second differences of central ones
        np.testing.assert_allclose(value[i], one.value(one.x0), rtol=1e-13)
        np.testing.assert_allclose(g[i], one.value_and_gradient(one.x0)[1], atol=1e-7)
        np.testing.assert_allclose(H[i], one.hessian(one.x0), atol=10 * near)
        np.testing.assert_allclose(v[i], np.asarray(H[i]) @ X[i], atol=10 * near)
    part = f.select(torch.tensor([3, 1]) if kind == "torch" else np.array([3, 1]))
    np.testing.assert_allclose(part.value(part.x0), value[[3, 1]], rtol=1e-14)


@pytest.mark.parametrize("wide", [False, True])
def test_jacobians_and_their_products(wide: bool) -> None:
    keep = 3 if wide else 8

    def r(p: dict[str, Any]) -> Any:
        parts = [p["a"] * p["b"], (p["w"] ** 2).reshape(-1)]
        return parts if not wide else parts[1][:3]

    f, n = residuals(r, tensors()), residuals(r, POINT)
    value, made = f.value_and_jacobian(f.x0)
    J = made.numpy()
    assert J.shape == (keep, 9)
    np.testing.assert_allclose(J, n.value_and_jacobian(n.x0)[1], atol=1e-8)
    v, u = RNG.standard_normal(9), RNG.standard_normal(keep)
    np.testing.assert_allclose(f.jacobian_vector(f.x0, torch.tensor(v)), J @ v, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(f.transposed_vector(f.x0, torch.tensor(u)), J.T @ u, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(value, n.value(n.x0), rtol=1e-14)


def test_a_structure_goes_there_and_back() -> None:
    structure, vector = structure_of({"a": np.ones(2), "deep": [np.zeros((2, 2)), (np.array(3.0),)]})
    tree = structure.restore(vector)
    assert list(tree) == ["a", "deep"]
    assert isinstance(tree["deep"][1], tuple)
    np.testing.assert_array_equal(structure.flatten(tree), vector)
    assert structure.where(3) == "['deep'][0][0, 1]"


@pytest.mark.parametrize("array", [np.asarray, torch.tensor])
def test_a_structure_keeps_kinds_of_dicts_and_none(array: Any) -> None:
    x0 = OrderedDict(z=array([1.0, 2.0]), a=[array(3.0), None], c=None)
    f = objective(
        lambda p: (p["z"] ** 2).sum() + p["a"][0] if type(p) is OrderedDict else None, x0,
        gradient=lambda p: OrderedDict(z=2 * p["z"], a=[p["a"][0] * 0 + 1, None], c=None),
    )  # fmt: skip
    assert f.value_and_gradient(f.x0)[1].tolist() == [2.0, 4.0, 1.0]
    restored = f.structure.restore(f.x0)
    assert list(restored) == ["z", "a", "c"]
    assert restored["a"][1] is restored["c"] is None


def test_nothing_of_the_users_is_kept() -> None:
    x0 = np.array([1.0, 2.0])
    f = objective(lambda x: float(x @ x), x0, gradient=lambda x: np.multiply(x, 2, out=BUFFER))
    first = f.value_and_gradient(f.x0)[1]
    f.value_and_gradient(3 * f.x0)
    np.testing.assert_array_equal(first, [2.0, 4.0])  # though the user fills one buffer again and again
    x0[0] = 99.0
    assert f.x0[0] == 1.0


BUFFER = np.empty(2)


def spoil(x: Any) -> Any:
    x[0] = 7.0
    return (x**2).sum()


@pytest.mark.parametrize(
    ("x0", "message"),
    [
        (torch.tensor([1, 2]), r"x0 has dtype int64: expected float32 or float64"),
        (np.array([1 + 1j]), "x0 has dtype complex128"),
        (np.ma.masked_array([1.0, 2.0], [0, 1]), "x0 is a masked array"),
        (torch.ones(2, dtype=torch.bfloat16), "x0 has dtype bfloat16"),
        (torch.eye(2).to_sparse(), "x0 is a sparse or ragged Tensor: expected a dense one"),
        (np.zeros(0), "x0 is empty"),
        ({}, "x0 is empty"),
        (np.array([[0.0, np.nan]]), r"x0\[0, 1\] is nan: expected finite"),
        ({"w": torch.tensor([1.0, float("inf")])}, r"x0\['w'\]\[1\] is inf"),
        ({"a": np.ones(2), "b": torch.ones(2)}, "mixes frameworks"),
        ({"a": np.ones(2), "b": np.ones(2, np.float32)}, "mixes dtypes"),
        ({"a": "text"}, r"x0\['a'\] is a str: expected an array"),
        ({"a": torch.ones(2), "b": torch.ones(2, device="meta")}, "two devices"),
    ],
)
def test_a_bad_start(x0: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        objective(lambda x: 0.0, x0)


def test_lists_of_numbers_are_vectors() -> None:
    f = objective(lambda x: float(x.sum()), [1, 2])
    assert f.x0.dtype == np.float64
    assert f.value(f.x0) == 3.0


NUMPY, TORCH = np.array([1.0, 2.0]), torch.tensor([1.0, 2.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("fun", "x0", "message"),
    [
        (lambda x: x, NUMPY, r"shape \(2,\).*sum or average"),
        (lambda x: True, NUMPY, "returned a bool: expected one float"),
        (lambda x: x.sum() * 1j, NUMPY, "complex.*real part"),
        (lambda x: None, NUMPY, "None: is a return missing"),
        (lambda x: (1.0, x), NUMPY, "gradient=True"),
        (lambda x: "1.0", NUMPY, "returned a str"),
        (lambda x: torch.tensor(1.0), NUMPY, "array of PyTorch, whose"),
        (spoil, NUMPY, r"changed its argument x.*x\.copy\(\)"),
        (lambda x: x, TORCH, "sum or average"),
        (lambda x: (x**2).sum().detach(), TORCH, "detached tensor"),
        (lambda x: (x**2).sum().item(), TORCH, r"without \.item"),
        (lambda x: 3, TORCH, "returned an int, which"),
        (lambda x: x.to(torch.int64).sum(), TORCH, "dtype int64"),
        (lambda x: None, TORCH, "None: is a return missing"),
        (spoil, TORCH, r"changed its argument x.*x\.clone\(\)"),
    ],
)
def test_a_bad_value(fun: Any, x0: Any, message: str) -> None:
    f = objective(fun, x0)
    with pytest.raises(UsageError, match=message):
        f.value_and_gradient(f.x0)


@pytest.mark.parametrize("x0", [NUMPY, TORCH], ids=["numpy", "torch"])
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("fun", [lambda x: x[..., :0], lambda x: []])
def test_no_residuals(x0: Any, fun: Any, batch: bool) -> None:
    with pytest.raises(UsageError, match="returned no residuals"):
        ds.least_squares(fun, x0[None] if batch else x0, batch=batch)


@pytest.mark.parametrize("zero", [0, np.int64(0)])
def test_whole_numbers_are_values(zero: Any) -> None:
    """Python's `max` returns its int 0 beyond the hinge."""
    f = objective(lambda x: max(zero, 1 - x[0]) ** 2, [0.0])
    assert [f.value(np.array([at])) for at in (0.0, 2.0)] == [1.0, 0.0]
    found = ds.minimize(lambda x: max(zero, 1 - x[0]) ** 2, [0.0])
    assert found.success
    assert found.x[0] >= 1 - 1e-6
    fitted = ds.least_squares(lambda x: [max(zero, 1 - x[0])], [0.0])
    assert fitted.success
    assert fitted.x[0] >= 1 - 1e-6


@pytest.mark.parametrize("x0", [NUMPY, TORCH], ids=["numpy", "torch"])
@pytest.mark.parametrize("made", [lambda x: x[:1], lambda x: None, lambda x: [x]])
def test_a_bad_gradient(x0: Any, made: Any) -> None:
    f = objective(lambda x: (x**2).sum(), x0, gradient=made)
    with pytest.raises(UsageError, match="gradient"):
        f.value_and_gradient(f.x0)


def test_other_bad_arguments() -> None:
    with pytest.raises(UsageError, match="did you mean 'central'"):
        objective(lambda x: 0.0, NUMPY, gradient="centrl")
    with pytest.raises(UsageError, match="is for NumPy functions"):
        objective(lambda x: x.sum(), TORCH, gradient="central")
    with pytest.raises(UsageError, match="fun is an int"):
        objective(3, NUMPY)  # type: ignore[arg-type]


@pytest.mark.parametrize("x0", [np.zeros(400_000), torch.zeros(400_000)], ids=["numpy", "torch"])
def test_a_matrix_larger_than_the_memory(x0: Any) -> None:
    r = residuals(lambda x: x * 2.0, x0)
    with pytest.raises(UsageError, match=r"a Jacobian of 400000 x 400000 in float.* needs .* free: use"):
        r.value_and_jacobian(r.x0)
    f = objective(lambda x: (x**2).sum(), x0)
    with pytest.raises(UsageError, match="a Hessian of 400000 x 400000"):
        f.hessian(f.x0)


def test_pytorch_differentiates_where_the_caller_has_switched_it_off() -> None:
    with torch.no_grad():
        for method in ("l-bfgs", "newton", "newton-cg"):
            result = ds.minimize(lambda x: ((x - 1) ** 4).sum(), torch.zeros(3, dtype=torch.float64), method)
            assert result.success
        assert ds.minimize(lambda x: ((x - 1) ** 2).sum(), torch.zeros(3, 2), batch=True).success.all()
        assert ds.least_squares(lambda x: x - 1, torch.zeros(3)).success


def test_a_module_is_no_start_and_it_is_said_what_is() -> None:
    module = torch.nn.Linear(2, 1)
    with pytest.raises(UsageError, match=r"x0 is a Linear.*dict\(module.named_parameters\(\)\)"):
        ds.minimize(lambda m: m(torch.ones(2)).sum(), module)
    with pytest.raises(UsageError, match="x0 is a type"):
        ds.minimize(lambda m: 1.0, np.float64)


def test_the_noise_is_learned_again_where_x_has_grown() -> None:
    # Two large weights that cancel: f stays as it is, and its rounding grows with them.
    t = np.linspace(-1, 1, 20)

    def value(x: Any) -> float:
        first, second = np.tanh(1.8 * t + 0.1) * x[0], np.tanh((1.8 + 1e-5) * t + 0.1) * x[1]
        return float(((first - second - np.sin(3 * t)) ** 2).mean())

    f = objective(value, np.array([0.5, 0.5]))
    f.value_and_gradient(f.x0)
    before = f.provenance.noise
    f.value_and_gradient(np.array([1e4, 1e4]))
    after = f.provenance.noise
    assert before is not None
    assert after is not None
    assert after > 100 * before


def test_a_function_of_all_problems_is_told_that_it_is_given_one() -> None:
    with pytest.raises(IndexError) as raised:
        ds.minimize(lambda x: (x**2).sum(1), torch.ones(3, 2), batch=True)
    assert "vectorized=True" in raised.value.__notes__[0]
