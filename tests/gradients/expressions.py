"""Right gradients nobody chose: expressions put together at random, differentiated by autograd.

An expression is a tree over the entries of some arrays: elementwise functions, products, norms, matrix
products, reductions, softmax; its numbers are kept within a range in which no dtype overflows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "exp": lambda t: torch.exp(torch.tanh(t) * 2),
    "square": lambda t: t * t / (1 + t.abs().mean()),
    "cube": lambda t: t**3 / 6,
    "softplus": torch.nn.functional.softplus,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
    "sigmoid": torch.sigmoid,
    "root": lambda t: torch.sqrt(t * t + 0.5),
    "log": lambda t: torch.log1p(t * t),
    "reciprocal": lambda t: 1 / (1.5 + torch.sin(t)),
    "atan": torch.atan,
    "relu": torch.relu,
    "abs": torch.abs,
    "softmax": lambda t: torch.softmax(t, -1),
    "logsumexp": lambda t: torch.logsumexp(t, -1, keepdim=True).expand_as(t),
    "normalised": lambda t: t / (t.square().mean(-1, keepdim=True) + 0.1).sqrt(),
    "cumulated": lambda t: torch.cumsum(t, -1) / t.shape[-1],
    "flipped": lambda t: t.flip(-1),
    "scaled": lambda t: 3 * t - 0.5,
}

BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plus": lambda a, b: a + b,
    "minus": lambda a, b: a - b,
    "times": lambda a, b: a * b,
    "over": lambda a, b: a / (1 + b * b),
    "mixed": lambda a, b: a @ b.mT @ torch.tanh(a) / a.numel(),
    "larger": torch.maximum,
}

ENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda t: t.sum(),
    "mean": lambda t: t.mean(),
    "norm": lambda t: (t.square().sum() + 0.1).sqrt(),
    "squares": lambda t: 0.5 * t.square().mean(),
    "entropy": lambda t: -(torch.softmax(t.flatten(), 0) * torch.log_softmax(t.flatten(), 0)).sum(),
    "picked": lambda t: torch.nn.functional.cross_entropy(t, torch.zeros(len(t), dtype=torch.long)),
}


class Expression:
    """A random function of one or two matrices of one shape, the same for the same seed.

    Args:
        seed: of its structure and its point.
        compute: the dtype that it computes in, whatever it is handed; None for that of its argument.
        smooth: leave out what has kinks.

    """

    def __init__(self, seed: int, compute: torch.dtype | None = None, *, smooth: bool = False) -> None:
        r = np.random.default_rng([seed, 7])
        self.compute = compute
        self.shape = tuple(int(n) for n in r.integers(1, 9, 2))
        self.count = int(r.integers(1, 3))
        bent = ("relu", "abs", "larger") if smooth else ()
        one, two = [n for n in UNARY if n not in bent], [n for n in BINARY if n not in bent]
        self.steps: list[tuple[str, int, int]] = []
        for i in range(int(r.integers(2, 8))):
            name = str(r.choice(two if r.random() < 0.35 else one))
            a, b = (int(k) for k in r.integers(0, self.count + i, 2))
            self.steps.append((name, self.count + i - 1 if r.random() < 0.7 else a, b))
        self.end = str(r.choice(list(ENDS)))
        self.x = [r.normal(size=self.shape) * np.exp(r.uniform(-1, 1)) for _ in range(self.count)]
        self.__name__ = f"expression-{seed}"

    def __call__(self, *given: Any) -> Tensor:
        known = [t if self.compute is None else t.to(self.compute) for t in given]
        for name, a, b in self.steps:
            known.append(UNARY[name](known[a]) if name in UNARY else BINARY[name](known[a], known[b]))
        value = ENDS[self.end](known[-1])
        return value if self.compute is None else value.to(given[0].dtype)

    def point(self, dtype: torch.dtype) -> Any:
        """Return the point, a tuple where it has several arrays."""
        made = tuple(torch.tensor(a).to(dtype) for a in self.x)
        return made if self.count > 1 else made[0]


def gradient(f: Expression, given: Sequence[Tensor]) -> list[Tensor]:
    """Return autograd's gradient in each array, each a tensor of its own."""
    points = [t.detach().requires_grad_(True) for t in given]
    with torch.enable_grad():
        return [g.clone() for g in torch.autograd.grad(f(*points), points, materialize_grads=True)]


def spoiled(f: Expression, k: int, j: int, factor: float) -> Callable[..., Any]:
    """Return f's gradient with entry j of array k times a factor."""

    def wrong(*given: Any) -> Any:
        made = gradient(f, given)
        made[k].view(-1)[j] *= factor
        return tuple(made) if len(made) > 1 else made[0]

    return wrong
