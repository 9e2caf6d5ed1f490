"""`watch`: a JAX function under observation."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Literal

import jax

from downslope.diagnose.watch.finding import (
    Ailment,
    Finding,
    HealthWarning,
    NonFiniteError,
    likely_cause,
)
from downslope.diagnose.watch.jax.arguments import Arguments
from downslope.diagnose.watch.jax.interpret import Region, interpret
from downslope.errors import UsageError, a_type
from downslope.words import many

__all__ = ["Watched", "watch"]

OnFinding = Literal["warn", "raise", "collect"]


class Watched:
    """A function under observation; see `watch`.

    Attributes:
        findings: what was found, in order; each operation once.
        passes: calls so far.

    """

    def __init__(self, fun: Callable[..., Any], on_finding: OnFinding) -> None:
        update_wrapper(self, fun)
        self.findings: list[Finding] = []
        self.passes = 0
        self._fun, self._on_finding = fun, on_finding
        self._compiled: dict[Any, tuple[Callable[..., Any], list[Region], Any]] = {}
        self._wanted: dict[Any, frozenset[int]] = {}  # scalars whose values the function wants

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the function returns, having looked at everything on the way."""
        given = Arguments(args, kwargs)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in given.leaves):
            raise UsageError(
                "a watched function is called under jit, grad or vmap, where no number can be looked at: "
                "watch outermost, as in watch(jax.jit(jax.grad(loss)))"
            )
        key = given.key(self._kept(given))
        if key not in self._compiled:
            made = self._compile(given)
            key = given.key(self._kept(given))
            self._compiled[key] = made
        run, regions, shape = self._compiled[key]
        out, codes = run(*given.traced(self._kept(given)))
        self.passes += 1
        found = regions[-1].first(jax.device_get(codes))
        if found is not None:
            self._say(*found)
        return jax.tree.unflatten(shape, out)

    def __str__(self) -> str:
        """One line a finding."""
        seen = many(self.passes, "call")
        return "\n".join(map(str, self.findings)) if self.findings else f"nothing found in {seen} watched"

    def _kept(self, given: Arguments) -> frozenset[int]:
        """Return the places of the arguments that stay as they are."""
        return given.strange.union(self._wanted.get(given.tree, frozenset()).intersection(given.scalars))

    def _compile(self, given: Arguments) -> tuple[Callable[..., Any], list[Region], Any]:
        try:
            closed, shape = given.jaxpr(self._fun, self._kept(given))
        except Exception:
            if not given.scalars:
                raise
            self._wanted[given.tree] = self._kept(given).union(given.wanted(self._fun))
            closed, shape = given.jaxpr(self._fun, self._kept(given))
        regions: list[Region] = []

        def run(*traced: Any) -> Any:
            region, out, codes = interpret(closed.jaxpr, closed.consts, traced)
            regions.append(region)  # once a trace
            return out, codes

        return jax.jit(run), regions, jax.tree.structure(shape)

    def _say(self, name: str, stack: str, line: str, nan: bool) -> None:
        what = "NaN" if nan else "an infinity"
        module = re.sub(r"(jvp|transpose|vmap|checkpoint)\(|\)|rematted_computation", "", stack)
        module = "/".join(filter(None, module.split("/")))
        place = " in ".join(part for part in (name, module) if part) + (f" at {line}" if line else "")
        if name:
            ailment = _pass(stack)
            beside = ", in the function or in its derivative" if ailment is Ailment.NUMBER else ""
            text = f"{place} makes {what} of finite numbers{beside}{likely_cause(name)}"
        else:
            ailment, text = Ailment.INPUT, f"an argument or a constant of the function holds {what}"
        if any(f.ailment is ailment and f.text == text for f in self.findings):
            return
        finding = Finding(ailment, module, name, text, self.passes)
        self.findings.append(finding)
        if self._on_finding == "raise":
            raise NonFiniteError(finding)
        if self._on_finding == "warn":
            warnings.warn(str(finding), HealthWarning, stacklevel=3)


def _pass(stack: str) -> Ailment:
    """Return the pass that a name stack speaks of; what is derived stands beside what it is derived of."""
    if "transpose(" in stack:
        return Ailment.BACKWARD
    return Ailment.NUMBER if "jvp(" in stack else Ailment.FORWARD


def watch(fun: Callable[..., Any], *, on_finding: OnFinding = "warn") -> Watched:
    """Return `fun` with every operation looked at: the first that makes NaN or infinity is named.

    The function's jaxpr is run, jitted, with one more reduction an operation; loops, branches and
    calls are entered. Named are the primitive, the module (the name stack, which Flax fills), the line
    of the program, and whether it stands in the forward or in the backward pass: of a function that is
    differentiated the jaxpr tells only what is on the way back. An infinity that vanishes again, as that of
    an attention mask, is no finding.

    Args:
        fun: a pure function of arrays, best the whole of `jax.value_and_grad(loss)` or a training step.
            Strings, functions and numbers that are static to it stay as they are: as by `jax.jit`, it is
            compiled for each value of them.
        on_finding: "warn" with a `HealthWarning`, "raise" a `NonFiniteError`, or "collect" silently.

    Raises:
        UsageError: no function, another option; when called, a call under jit, grad or vmap, or an
            argument that is neither an array nor hashable.

    >>> import jax, jax.numpy as jnp
    >>> checked = watch(jax.grad(lambda x: jnp.log(x).sum()), on_finding="collect")
    >>> _ = checked(jnp.zeros(2))
    >>> checked.findings[0].ailment.value, checked.findings[0].operation
    ('non-finite backward', 'div')

    """
    if not callable(fun):
        raise UsageError(f"fun is {a_type(fun)}: expected a function of arrays")
    if on_finding not in ("warn", "raise", "collect"):
        raise UsageError(f"on_finding = {on_finding!r}: expected 'warn', 'raise' or 'collect'")
    return Watched(fun, on_finding)
