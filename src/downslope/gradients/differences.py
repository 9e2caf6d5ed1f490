"""Derivatives of NumPy functions from their values, with steps that know the function's noise.

    forward   (f(x + h) - f(x)) / h             n evaluations   error  h |f''| / 2 + 2 ε / h
    central   (f(x + h) - f(x - h)) / 2h       2n evaluations   error  h² |f'''| / 6 + ε / h

ε is the noise of f, estimated where the function is first differentiated and again where its size has
changed a hundredfold or x has grown fourfold. The first derivative is central. It measures f'' along
each axis on the way, from which forward steps h = 2 √(ε / |f''|) follow; the step of central
differences is set where a second step, twice as long, says that truncation and noise weigh alike.
"auto" takes forward differences as long as their error stays below a hundredth of the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downslope.gradients.noise import estimate_noise

Vector = NDArray[np.floating]
Function = Callable[[Vector], Any]

LONGEST = 0.05
"""Largest step, of the scale of an entry."""

SHORT = 0.1
"""Steps of less than this share of what noise asks for are too short, where noise is felt in the slope."""

FELT = 0.01
"""Error of forward differences, of the largest entry of the gradient, from which central ones are taken."""


class Differences:
    """Differences of one function: of numbers (...) or vectors (..., m) at points (..., n).

    Args:
        function: takes points (..., n), returns float64 arrays (...) or (..., m).
        kind: "auto", "forward" or "central".
        noise: standard deviation of the function's noise, where known.
        bounds: (lower, upper) vectors that no step may cross, or None.

    """

    def __init__(
        self,
        function: Function,
        kind: str = "auto",
        noise: float | None = None,
        bounds: tuple[Vector, Vector] | None = None,
    ) -> None:
        self.function, self.kind, self.known_noise, self.bounds = function, kind, noise, bounds
        self.noise: Vector | None = None
        self.error: float | None = None
        self.now = "central"
        self._size = self._far = 0.0
        self._curvature: Vector | None = None
        self._relative: float | None = None
        self._switched_at = 0.0

    def derivative(self, x: Vector, fx: Any) -> Vector:
        """Return the gradient (..., n) or Jacobian (..., m, n) at x, where the function is `fx`."""
        value = np.asarray(fx, dtype=np.float64)
        scale = np.maximum(np.abs(x), _typical(x)).astype(x.dtype)
        self._learn_noise(x, value, scale)
        self.now = self._choose(x)
        if self.now == "forward" and self._curvature is not None:
            made = self._forward(x, value, scale)
            if self.kind == "forward" or self.error is None or self.error <= FELT * _largest(made):
                return made
            self._switched_at, self.now = _largest(made), "central"
        return self._central(x, value, scale)

    def direction(self, x: Vector) -> Vector:
        """Return a direction along which every entry moves by its scale, (..., n), off near bounds."""
        scale = np.maximum(np.abs(x), _typical(x))
        signs: Any = np.random.default_rng(1).choice([-1.0, 1.0], size=x.shape[-1])
        if self.bounds is not None:
            low, high = self.bounds
            near = 2 * LONGEST * scale
            signs = np.where(high - x < near, -1.0, np.where(x - low < near, 1.0, signs)) * (high > low)
        made: Vector = (signs * scale).astype(x.dtype)
        return made

    def along(self, x: Vector, fx: Any, way: Vector | None = None) -> tuple[Vector, Vector]:
        """Return the slope along a way, or `direction(x)`, and its error, each (...) or (..., m).

        Steps are as long as they can be where no entry moves farther, of its scale, than for a derivative.
        """
        value = np.asarray(fx, dtype=np.float64)
        scale = np.maximum(np.abs(x), _typical(x)).astype(x.dtype)
        self._learn_noise(x, value, scale)
        assert self.noise is not None
        h = self._step_relative(x, value, scale)
        if way is None:
            way = self.direction(x)
            if self._room(x, way) < 2 * h:  # one-sided: all of the way leads inside
                near, far = (
                    (np.asarray(self.function(self._inside(x + k * h * way)), np.float64) - value) / (k * h)
                    for k in (1.0, 2.0)
                )
                return near, np.abs(near - far) + 2 * self.noise / h
        else:
            h = min(h / float(np.max(np.abs(way) / scale)), self._room(x, way) / 2)
        one, two = (self._along(x, k * h * way) / (k * h) for k in (1.0, 2.0))
        return one, np.abs(two - one) + self.noise / h

    def anew(self, x: Vector, fx: Any) -> tuple[Vector, float]:
        """Return the gradient at x, with noise and step learned there, and up to which size it says nothing.

        That is its error, truncation included; and the gradient g that promises a fall, g² / 2f'', which is
        within twice the noise. It is zero at a kink, where differences of either side cancel.
        """
        again = self.afresh()
        made = again.derivative(x, fx)
        self.noise, self.error, self.now = again.noise, again.error, "central"
        noise, curvature = float(np.max(again.noise)), float(np.max(again._curvature))  # type: ignore[arg-type]
        h, way = float(again._relative or 0.0), self.direction(x)
        ahead, behind = (
            np.array([float(self.function(self._inside(x + side * k * h * way))) for k in (1, 2)])
            for side in (1, -1)
        )
        slope, bend = (ahead - behind) / [2, 4], np.abs(ahead + behind - 2 * fx)
        truncated = float(abs(slope[1] - slope[0])) / (h * float(np.max(np.abs(way))))
        if bend[0] > 8 * noise and bend[1] < 3 * bend[0]:  # of a smooth function four times as large
            return made, 0.0
        self.error = max(again.error or 0.0, truncated)
        return made, max(self.error, 2 * math.sqrt(noise * curvature))

    def afresh(self) -> Differences:
        """Return central differences of the function that know nothing yet of its noise and their steps."""
        return Differences(self.function, "central", self.known_noise, self.bounds)

    @contextmanager
    def held(self, kind: str) -> Iterator[None]:
        """Take one kind of difference for a while."""
        before, self.kind = self.kind, kind
        try:
            yield
        finally:
            self.kind = before

    def select(self, lanes: Any, function: Function) -> Differences:
        """Return the differences of some lanes of a batch, with what is known of them."""
        bounds = self.bounds
        if bounds is not None and np.ndim(bounds[0]) > 1:
            bounds = bounds[0][lanes], bounds[1][lanes]
        made = Differences(function, self.kind, self.known_noise, bounds)
        made.error, made.now, made._size, made._relative = self.error, self.now, self._size, self._relative
        made._far = self._far
        made.noise = None if self.noise is None else self.noise[lanes]
        made._curvature = None if self._curvature is None else self._curvature[lanes]
        return made

    def _choose(self, x: Vector) -> str:
        """Return the kind for the next derivative; the first one is central to learn the curvature."""
        if self.kind == "central" or self._curvature is None or self._curvature.shape[-1] != x.shape[-1]:
            return "central"
        return "central" if self.kind == "auto" and self._switched_at else "forward"

    def _learn_noise(self, x: Vector, value: Vector, scale: Vector) -> None:
        size = float(np.max(np.abs(value), initial=0.0, where=np.isfinite(value)))
        far = float(np.max(scale, initial=0.0))
        if self.noise is not None and self.noise.shape == value.shape:
            tiny = float(np.finfo(float).tiny)
            alike = 0.01 <= (size + tiny) / (self._size + tiny) <= 100
            # Of large entries that cancel inside of f the noise grows, and its value does not.
            if alike and far <= 4 * self._far:
                return
            self._relative = None
        self._size, self._far = size, far
        if self.known_noise is not None:
            self.noise = np.full(value.shape, float(self.known_noise))
        else:
            self.noise = np.asarray(
                estimate_noise(lambda p: self.function(self._inside(p)), x, scale), np.float64
            )
        self.noise = np.maximum(self.noise, np.finfo(np.float64).tiny)

    def _room(self, x: Vector, way: Vector) -> float:
        """Return how far a way may be gone to either side within the bounds."""
        if self.bounds is None:
            return math.inf
        low, high = self.bounds
        entries = way != 0
        nearest = np.minimum(x - low, high - x)[entries] / np.abs(way[entries])
        return max(float(np.min(nearest, initial=math.inf)), np.finfo(np.float64).tiny)

    def _inside(self, x: Vector) -> Vector:
        return x if self.bounds is None else np.clip(x, *self.bounds).astype(x.dtype)

    def _step_relative(self, x: Vector, value: Vector, scale: Vector) -> float:
        """Return the step of central differences, of the scale of an entry."""
        if self._relative is not None:
            return self._relative
        assert self.noise is not None
        eps = float(np.finfo(x.dtype).eps)
        of_value = float(np.median(self.noise / np.maximum(np.abs(value), self.noise)))
        relative = float(np.clip((3 * max(of_value, eps)) ** (1 / 3), 4 * eps, LONGEST))
        signs = np.random.default_rng(1).choice([-1.0, 1.0], size=x.shape[-1])
        for _ in range(2):
            direction = (relative * signs * scale).astype(x.dtype)
            one, two = (self._along(x, k * direction) / k for k in (1.0, 2.0))
            truncation = float(np.median(np.abs(two - one))) / 3
            rounding = float(np.median(self.noise))
            if not np.isfinite(truncation):
                relative /= 10
                continue
            wanted = (rounding / max(truncation, 0.05 * rounding, 1e-300)) ** (1 / 3) if rounding else 1.0
            relative = float(np.clip(relative * np.clip(wanted, 0.01, 3.0), 4 * eps, LONGEST))
            if 0.3 < wanted < 3:
                break
        self._relative = relative
        return relative

    def _along(self, x: Vector, step: Vector) -> Any:
        """Return half the difference of the values a step before and behind."""
        ahead, behind = self.function(self._inside(x + step)), self.function(self._inside(x - step))
        return (np.asarray(ahead, np.float64) - np.asarray(behind, np.float64)) / 2

    def _central(self, x: Vector, value: Vector, scale: Vector) -> Vector:
        assert self.noise is not None
        relative = self._step_relative(x, value, scale)
        n, rows = x.shape[-1], x.ndim == value.ndim  # rows: values are vectors
        least = self._least(value, n, rows)
        columns, curved = [], []
        error = 0.0

        def measured(i: int, step: Any) -> tuple[Vector, Vector, Vector]:
            up, h_up = self._moved(x, i, step)
            down, h_down = self._moved(x, i, -step)
            if rows:
                h_up, h_down = h_up[..., None], h_down[..., None]
            column, second = _three_points(value, h_up, up, h_down, down)
            width = np.maximum(np.abs(h_up), np.abs(h_down))
            held = width == 0  # by equal bounds
            return np.where(held, 0.0, column), np.where(held, 0.0, second), np.where(held, np.inf, width)

        for i in range(n):
            step = relative * scale[..., i]
            column, second, width = measured(i, step)
            if least is not None:
                lost = self._lost(column, step, least[..., i], rows)
                if lost.any():
                    column, second, width = measured(i, np.where(lost, least[..., i], step))
            columns.append(column)
            # A second difference smaller than its own noise says only how large f'' can be at most.
            curved.append(np.maximum(np.abs(second), 4 * self.noise / width**2))
            error = max(error, float(np.max(1.5 * self.noise / width)))
        self._curvature = np.stack(curved, axis=-1)
        self.error = error
        made: Vector = np.stack(columns, axis=-1).astype(x.dtype)
        return made

    def _lost(self, column: Vector, step: Any, least: Any, rows: bool) -> Any:
        """Return whether a step was far too short, and the slope that it saw may be noise to a hundredth."""
        assert self.noise is not None
        hidden = FELT * np.abs(column) <= 2 * self.noise / (step[..., None] if rows else step)
        return (hidden.all(-1) if rows else hidden) & (step < SHORT * least)

    def _least(self, value: Vector, n: int, rows: bool) -> Vector | None:
        """Return the steps (..., n) that noise asks for by the curvature last met; None at first.

        An entry on its way to zero has no scale of its own any more: a share of it may be no step at all.
        """
        if self._curvature is None or self._curvature.shape != (*value.shape, n):
            return None
        assert self.noise is not None
        steps = np.sqrt(self.noise[..., None] / np.maximum(self._curvature, 1e-300))
        return np.exp(np.mean(np.log(np.maximum(steps, 1e-300)), axis=-2)) if rows else steps

    def _forward(self, x: Vector, value: Vector, scale: Vector) -> Vector:
        assert self.noise is not None
        assert self._curvature is not None
        rows = x.ndim == value.ndim
        noise = self.noise[..., None]
        best = 2 * np.sqrt(noise / np.maximum(self._curvature, 1e-300))
        if rows:  # one step serves all components: the geometric mean of theirs
            best = np.exp(np.mean(np.log(np.maximum(best, 1e-300)), axis=-2))
        eps = float(np.finfo(x.dtype).eps)
        steps = np.clip(best, 8 * eps * scale, LONGEST * scale)
        columns = []

        def measured(i: int) -> Vector:
            up, h = self._moved(x, i, steps[..., i])
            if not np.isfinite(up).all():
                up, h = self._moved(x, i, -steps[..., i])
            h = np.where(h == 0, np.inf, h)  # held by equal bounds
            made: Vector = (up - value) / (h[..., None] if rows else h)
            return made

        for i in range(x.shape[-1]):
            column = measured(i)
            lost = self._lost(column, steps[..., i], best[..., i], rows)
            if lost.any():
                steps[..., i] = np.where(lost, best[..., i], steps[..., i])
                column = measured(i)
            columns.append(column)
        width = steps[..., None, :] if rows else steps
        self.error = float(np.max(width * self._curvature / 2 + 2 * noise / width))
        made: Vector = np.stack(columns, axis=-1).astype(x.dtype)
        return made

    def _moved(self, x: Vector, i: int, step: Any) -> tuple[Vector, Vector]:
        """Return the values a step along axis i, and the step as taken; at a bound, the other way."""
        point = x.copy()
        point[..., i] += step
        if self.bounds is not None:
            low, high = (np.asarray(b)[..., i] for b in self.bounds)
            out = (point[..., i] < low) | (point[..., i] > high)
            point[..., i] = np.where(out, np.clip(x[..., i] - 2 * step, low, high), point[..., i])
        taken = (point[..., i] - x[..., i]).astype(np.float64)
        return np.asarray(self.function(point), dtype=np.float64), taken


def _three_points(f0: Vector, h1: Vector, f1: Vector, h2: Vector, f2: Vector) -> tuple[Vector, Vector]:
    """Return f' and f'' at 0 of the parabola through (0, f0), (h1, f1), (h2, f2).

    Where f1 or f2 is not finite, f' is one-sided and f'' zero.
    """
    with np.errstate(all="ignore"):
        first, second = (f1 - f0) / h1, (f2 - f0) / h2
        curvature = 2 * (first - second) / (h1 - h2)
        slope = first - curvature * h1 / 2
        # h1 = -h2 is the usual case; its formula has no cancellation of the middle value.
        slope = np.where(h1 == -h2, (f1 - f2) / (h1 - h2), slope)
        slope = np.where(~np.isfinite(f1), second, np.where(~np.isfinite(f2), first, slope))
        curvature = np.where(np.isfinite(f1) & np.isfinite(f2), curvature, 0.0)
    return slope, curvature


def _typical(x: Vector) -> Any:
    """Return the step's scale of entries at zero: of the other entries, or 1 where all are."""
    size = np.abs(x)
    known = np.where(size > 0, size, np.nan)
    if np.isnan(known).all():
        return 1.0
    with np.errstate(all="ignore"):
        middle = np.exp(np.nanmean(np.log(known)))
    # Entries next to zero keep the size that the others have; a tenth, so that none is swamped.
    return np.where(size == 0, min(float(middle), 1.0), 0.0)


def _largest(g: Vector) -> float:
    return float(np.max(np.abs(g), initial=0.0, where=np.isfinite(g)))
