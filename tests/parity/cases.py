"""Every rule with every option, and the run that each framework is held against.

A `Case` is a rule, a learning rate, a decay and the shapes of a few parameters. Its start and its
25 gradients are drawn from a seed, so that every framework can be given the very same numbers, and
`oracle` runs it on NumPy in float64:

    for k, g in enumerate(gradients(case), start=1):
        d, state = rule.direction(x, g, state, p, k)
        p = p + step(x, p, d, lr=..., weight_decay=..., cautious=...)

An adapter's test runs its own optimizer on `start(case)` and `gradients(case)`, and compares its
parameters after every step with `oracle(case)` by `assert_run`. Nothing here imports a framework.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

import downslope as ds
from downslope.ops.numpy import NumpyOps
from downslope.rules import Rule, step

STEPS = 25
ULPS = 8
Arrays = dict[str, np.ndarray]

VECTORS = {"scalar": (), "one": (1,), "bias": (7,), "table": (3, 5)}
MATRICES = {"wide": (4, 12), "tall": (12, 4), "square": (6, 6), "stack": (3, 4, 8)}
"""Matrices are (..., fan_out, fan_in), as a rule sees them after the view."""


@dataclass(frozen=True)
class Case:
    """A rule and how it is driven; `shapes` names its parameters."""

    name: str
    rule: Rule
    lr: float = 0.1
    weight_decay: float = 0.0
    cautious: bool = False
    shapes: dict[str, tuple[int, ...]] = field(default_factory=lambda: VECTORS, hash=False)

    @property
    def options(self) -> dict[str, Any]:
        """The rule's hyper-parameters that differ from their default, by name."""
        plain = type(self.rule)()
        pairs = {f.name: getattr(self.rule, f.name) for f in fields(self.rule)}
        return {k: v for k, v in pairs.items() if v != getattr(plain, k)}

    def __str__(self) -> str:
        return self.name


def _cases() -> list[Case]:
    rules: dict[str, Rule] = {
        "sgd": ds.SGD(),
        "sgd-l2": ds.SGD(l2=0.1),
        "sgd-momentum": ds.SGD(momentum=0.9),
        "sgd-nesterov": ds.SGD(momentum=0.9, nesterov=True),
        "sgd-nesterov-l2": ds.SGD(momentum=0.5, nesterov=True, l2=0.1),
        "adagrad": ds.AdaGrad(),
        "adagrad-accumulator": ds.AdaGrad(initial_accumulator_value=0.1),
        "adagrad-eps": ds.AdaGrad(eps=1e-3),
        "adagrad-l2": ds.AdaGrad(l2=0.1),
        "rmsprop": ds.RMSProp(),
        "rmsprop-alpha": ds.RMSProp(alpha=0.8),
        "rmsprop-momentum": ds.RMSProp(momentum=0.9),
        "rmsprop-centered": ds.RMSProp(alpha=0.9, centered=True),
        "rmsprop-eps-inside": ds.RMSProp(eps=1e-3, eps_inside_root=True),
        "rmsprop-everything": ds.RMSProp(
            alpha=0.9, eps=1e-6, momentum=0.5, centered=True, eps_inside_root=True, l2=0.1
        ),
        "adam": ds.Adam(),
        "adam-betas": ds.Adam(betas=(0.7, 0.95)),
        "adam-no-momentum": ds.Adam(betas=(0.0, 0.999)),
        "adam-eps": ds.Adam(eps=1e-3),
        "adam-amsgrad": ds.Adam(betas=(0.9, 0.9), amsgrad=True),
        "adam-no-correction": ds.Adam(bias_correction=False),
        "adam-amsgrad-no-correction": ds.Adam(betas=(0.9, 0.9), amsgrad=True, bias_correction=False),
        "adam-l2": ds.Adam(l2=0.1),
        "muon": ds.Muon(),
        "muon-no-momentum": ds.Muon(momentum=0.0),
        "muon-no-nesterov": ds.Muon(nesterov=False),
        "muon-keller5": ds.Muon(coefficients="keller5"),
        "muon-2-steps": ds.Muon(ns_steps=2),
        "muon-polar-express": ds.Muon(coefficients="polar_express"),
        "muon-9-steps": ds.Muon(ns_steps=9),
        "muon-original": ds.Muon(scale="original"),
        "muon-spectral": ds.Muon(scale="spectral"),
        "muon-l2": ds.Muon(l2=0.1),
        "muon-normuon": ds.Muon(normuon=True),
        "muon-normuon-beta": ds.Muon(normuon=True, normuon_beta=0.5),
        "muon-warmup": ds.Muon(momentum_warmup=10),
        "muon-warmup-start": ds.Muon(momentum_warmup=7, momentum_start=0.2, nesterov=False),
    }
    shapes = {True: VECTORS, False: MATRICES}
    plain = [Case(name, rule, shapes=shapes[rule.elementwise]) for name, rule in rules.items()]
    bases = [case for case in plain if not case.options]
    decayed = [replace(case, name=f"{case.name}-decay", weight_decay=0.1) for case in bases]
    cautious = [
        replace(case, name=f"{case.name}-cautious", weight_decay=0.1, cautious=True) for case in bases
    ]
    return plain + decayed + cautious


CASES: tuple[Case, ...] = tuple(_cases())
BY_NAME: dict[str, Case] = {case.name: case for case in CASES}


def start(case: Case, dtype: DTypeLike | str = np.float64) -> Arrays:
    """Return the parameters before the first step, rounded to `dtype` and held in float64.

    `dtype` may also be "bfloat16", which NumPy lacks; the values are then exact in bfloat16.
    """
    rng = np.random.default_rng(_seed(case, 0))
    return {name: _round(rng.standard_normal(shape), dtype) for name, shape in case.shapes.items()}


def gradients(case: Case, dtype: DTypeLike | str = np.float64) -> list[Arrays]:
    """Return the gradients of the 25 steps, rounded to `dtype` and held in float64.

    Element-wise rules get magnitudes from 1e-3 to 10 within one parameter; their tables also
    have one entry whose gradient is always zero.
    """
    rng = np.random.default_rng(_seed(case, 1))
    spread = {name: 10 ** rng.uniform(-3, 1, shape) for name, shape in case.shapes.items()}
    run = []
    for _ in range(STEPS):
        g = {name: rng.standard_normal(shape) for name, shape in case.shapes.items()}
        if case.rule.elementwise:
            g = {name: g[name] * spread[name] for name in g}
            if "table" in g:
                g["table"][0, 0] = 0.0
        run.append({name: _round(value, dtype) for name, value in g.items()})
    return run


def oracle(case: Case, dtype: DTypeLike | str = np.float64) -> list[Arrays]:
    """Return the parameters after each step, computed in float64 from values exact in `dtype`."""
    return _oracle(case.name, case, str(dtype) if isinstance(dtype, str) else np.dtype(dtype).name)


@cache
def _oracle(_: str, case: Case, dtype: str) -> list[Arrays]:
    x, p = NumpyOps(), start(case, dtype)
    state = {name: case.rule.init(x, p[name]) for name in p}
    run = []
    for t, g in enumerate(gradients(case, dtype), start=1):
        p = dict(p)
        for name in p:
            d, state[name] = case.rule.direction(x, g[name], state[name], p[name], t)
            p[name] = p[name] + step(
                x, p[name], d, lr=case.lr, weight_decay=case.weight_decay, cautious=case.cautious
            )
        run.append(p)
    for arrays in run:
        for value in arrays.values():
            np.asarray(value).flags.writeable = False
    return run


def scale_of(run: list[Arrays], name: str) -> float:
    """Return the largest magnitude that parameter `name` had in a run.

    Rounding enters a parameter where it is added to, at the size it has there. An entry that ends
    near zero after a cancellation cannot be nearer than that, so errors are counted in units in
    the last place (ulp) of this magnitude rather than of each entry's own.
    """
    return max(float(np.max(np.abs(arrays[name]), initial=0.0)) for arrays in run)


def assert_ulp(
    actual: Any,
    expected: Any,
    ulps: float = ULPS,
    scale: float | None = None,
    eps: float = 2.0**-52,
    what: str = "",
) -> None:
    """Raise AssertionError unless each entry is within `ulps` · `eps` · `scale` of the expected one.

    `scale` is the magnitude that errors are relative to, by default the largest expected entry;
    `eps` is the spacing of the floating-point type at 1 (2**-52 float64, 2**-23 float32, 2**-7
    bfloat16).
    """
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    scale = float(np.max(np.abs(expected), initial=0.0)) if scale is None else scale
    errors = np.abs(actual - expected)
    worst = float(np.max(errors, initial=0.0))
    assert np.isfinite(actual).all(), f"{what}: not finite"
    assert worst <= ulps * eps * scale, f"{what}: off by {worst / (eps * scale):.1f} ulp, {ulps} allowed"


def assert_run(
    case: Case, actual: list[Arrays], ulps: float = ULPS, dtype: DTypeLike | str = np.float64
) -> None:
    """Raise AssertionError unless a run of parameters is the oracle's within `ulps`, at every step."""
    expected = oracle(case, dtype)
    assert len(actual) == len(expected), f"{len(actual)} steps, expected {len(expected)}"
    for name in case.shapes:
        scale = scale_of(expected, name)
        for t, (a, e) in enumerate(zip(actual, expected, strict=True), start=1):
            assert_ulp(a[name], e[name], ulps, scale, epsilon(dtype), f"{case.name}: {name} at step {t}")


def epsilon(dtype: DTypeLike | str) -> float:
    """Return the spacing of a floating-point type at 1."""
    return 2.0**-7 if dtype == "bfloat16" else float(np.finfo(dtype).eps)


def _round(a: Any, dtype: DTypeLike | str) -> np.ndarray:
    if dtype != "bfloat16":
        return np.asarray(a, dtype=dtype).astype(np.float64)
    bits = np.asarray(a, dtype=np.float32).view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)  # ties go to the even neighbour
    kept = (bits + np.uint32(0x7FFF) + even) & np.uint32(0xFFFF0000)
    return kept.view(np.float32).astype(np.float64)


def _seed(case: Case, stream: int) -> list[int]:
    base = type(case.rule).__name__.lower()  # one seed a rule: an option's effect can be measured
    return [zlib.crc32(base.encode()), stream]
