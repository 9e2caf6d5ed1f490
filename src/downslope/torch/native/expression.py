"""An element-wise rule as lines of C++: its step is run with names for arrays, which write down what is done.

Numbers become entries of a table, so that the lines are the same at every learning rate and every step. Where
a rule leaves its count to the operations that it is made of, it is run once for all steps (`Later`).
"""

# ruff: noqa: D102  (the protocol says it)

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn, cast

from downslope.ops.protocol import bias_correction, ramp
from downslope.rules.rule import Rule
from downslope.torch.engine import Write
from downslope.torch.kernel import state_fields, stepped


class Lines(NamedTuple):
    """What is done with each entry, whatever the numbers are.

    Operands are known by a count: first come the parameter, the gradient and the parts of the state, then the
    results of the operations. Below zero, `-1 - i` stands for number i.

    Attributes:
        operations: each one's form, with a place for each operand, and its operands.
        parameter: the new parameter.
        states: the new parts of the state; None for one that stays as it was.

    """

    operations: tuple[tuple[str, tuple[int, ...]], ...]
    parameter: int
    states: tuple[int | None, ...]

    def name(self, operand: int) -> str:
        """Return what an operand is called in C++."""
        if operand < 0:
            return f"k[{-1 - operand}]"
        known = ("p", "g", *(f"s{i}" for i in range(len(self.states))))
        return known[operand] if operand < len(known) else f"v{operand - len(known)}"

    def text(self) -> list[str]:
        """Return the operations in C++, a line each."""
        return [
            f"const auto v{i} = {form.format(*map(self.name, operands))};"
            for i, (form, operands) in enumerate(self.operations)
        ]


class Written(NamedTuple):
    """A step as it was written down: its lines, and the numbers in them."""

    lines: Lines
    numbers: tuple[float, ...]


class Later:
    """A number that each step finds for itself, from its count and its rate.

    A rule that does more with it than pass it on or negate it raises, and is run at every step.
    """

    __slots__ = ("at",)

    def __init__(self, at: Callable[[int, float], float]) -> None:
        self.at = at

    def __neg__(self) -> Later:
        return Later(lambda t, lr: -self.at(t, lr))

    def _unknown(self, *_: object) -> NoReturn:
        raise TypeError("what a number is, is not known before the step is taken")

    __bool__ = __eq__ = __ne__ = __hash__ = _unknown


def _of(t: int | Later, function: Callable[[Any], float]) -> float | Later:
    """Return a function of a count, later where the count is."""
    return Later(lambda step, lr: function(t.at(step, lr))) if isinstance(t, Later) else function(t)


class Recipe(NamedTuple):
    """A step as it is written down for every count and rate."""

    lines: Lines
    numbers: tuple[float | Later, ...]

    def at(self, t: int, lr: float) -> Written:
        """Return it at one of them."""
        found = [n.at(t, lr) if type(n) is Later else n for n in self.numbers]
        return Written(self.lines, cast(tuple[float, ...], tuple(found)))


class Entry:
    """An entry of an array that the tape knows by a number."""

    __slots__ = ("number", "tape")

    def __init__(self, tape: Tape, number: int) -> None:
        self.tape, self.number = tape, number

    __array_ufunc__ = None  # so that numbers of NumPy leave their arithmetic to this class

    def __add__(self, other: Any) -> Entry:
        return self.tape.made("{} + {}", self, other)

    def __radd__(self, other: Any) -> Entry:
        return self.tape.made("{} + {}", other, self)

    def __sub__(self, other: Any) -> Entry:
        return self.tape.made("{} - {}", self, other)

    def __rsub__(self, other: Any) -> Entry:
        return self.tape.made("{} - {}", other, self)

    def __mul__(self, other: Any) -> Entry:
        return self.tape.made("{} * {}", self, other)

    def __rmul__(self, other: Any) -> Entry:
        return self.tape.made("{} * {}", other, self)

    def __truediv__(self, other: Any) -> Entry:
        return self.tape.made("{} / {}", self, other)

    def __rtruediv__(self, other: Any) -> Entry:
        return self.tape.made("{} / {}", other, self)

    def __neg__(self) -> Entry:
        return self.tape.made("-{}", self)

    def __abs__(self) -> Entry:
        return self.tape.made("absolute({})", self)

    def __lt__(self, other: Any) -> Truth:
        return self.tape.compared("<", self, other)

    def __le__(self, other: Any) -> Truth:
        return self.tape.compared("<=", self, other)

    def __gt__(self, other: Any) -> Truth:
        return self.tape.compared(">", self, other)

    def __ge__(self, other: Any) -> Truth:
        return self.tape.compared(">=", self, other)

    def __eq__(self, other: object) -> Truth:  # type: ignore[override]
        return self.tape.compared("==", self, other)

    def __ne__(self, other: object) -> Truth:  # type: ignore[override]
        return self.tape.compared("!=", self, other)

    def __bool__(self) -> bool:
        raise TypeError("what an entry is, is not known before the step is taken")

    def __array__(self, *_: Any) -> Any:
        raise TypeError("an entry is no array of NumPy's")


class Truth(Entry):
    """What a comparison comes to, for `where` to choose by; truths in arrays have arithmetic of their own."""

    __slots__ = ()


class Tape:
    """The operations of element-wise rules, written down; a rule that needs others raises.

    `inputs` are the entries of the parameter, the gradient and the parts of the state.
    """

    def __init__(self, states: int) -> None:
        self.inputs = [Entry(self, i) for i in range(2 + states)]
        self.operations: list[tuple[str, tuple[int, ...]]] = []
        self.numbers: list[float | Later] = []

    def made(self, form: str, *operands: Any) -> Entry:
        """Write down an operation on entries and numbers."""
        return Entry(self, self._added(form, tuple(map(self._known, operands))))

    def compared(self, sign: str, *operands: Any) -> Truth:
        """Write down a comparison of entries and numbers."""
        return Truth(self, self._added(f"{{}} {sign} {{}}", tuple(map(self._known, operands))))

    def _added(self, form: str, operands: tuple[int, ...]) -> int:
        self.operations.append((form, operands))
        return len(self.inputs) + len(self.operations) - 1

    def _known(self, operand: Any) -> int:
        if type(operand) is Entry:
            return operand.number
        if isinstance(operand, Truth):
            raise TypeError("a truth is no number")
        self.numbers.append(operand if type(operand) is Later else float(operand))
        return -len(self.numbers)

    def zeros_like(self, a: Entry) -> Entry:
        return self.full_like(a, 0.0)

    def full_like(self, a: Entry, value: float) -> Entry:
        return self.made("{}", value)

    def sqrt(self, a: Entry) -> Entry:
        return self.made("root({})", a)

    def square(self, a: Entry) -> Entry:
        return a * a

    def maximum(self, a: Entry, b: Entry | float) -> Entry:
        return self.made("larger({}, {})", a, b)

    def where(self, condition: Truth, a: Entry | float, b: Entry | float) -> Entry:
        if not isinstance(condition, Truth):
            raise TypeError("a number is no truth")
        chosen = (condition.number, self._known(a), self._known(b))
        return Entry(self, self._added("{} ? {} : {}", chosen))

    def ema(self, slot: Entry, value: Entry, beta: float) -> Entry:
        return self.lerp(slot, value, 1 - beta)

    def accumulate(self, slot: Entry, value: Entry, decay: float) -> Entry:
        return (slot if decay == 1 else slot * decay) + value

    def lerp(self, a: Entry, b: Entry, weight: float) -> Entry:
        if weight < 0.5:
            return a + weight * (b - a)
        return b - (1 - weight) * (b - a)  # so that a weight of 1 gives b

    def debias(self, a: Entry, beta: float, t: int | Later) -> Entry:
        return a * _of(t, lambda t: 1 / bias_correction(beta, t))

    def ramp(self, like: Entry, t: int | Later, steps: int) -> float | Later:
        return _of(t, lambda t: ramp(t, steps))

    def combine(self, *terms: tuple[float, Entry]) -> Entry:
        first, *rest = (a if number == 1 else a * number for number, a in terms)
        for term in rest:
            first = first + term
        return first


def written(rule: Rule, t: int, how: Write) -> Written:
    """Write down a step.

    Args:
        rule: an element-wise one; the parts of its state are called `s0`, `s1`, … as `state_fields` has them.
        t: the number of the step, from 1.
        how: the rate and the decay.

    Raises:
        Exception: the rule needs more than what can be written down, or fails with arrays too.

    """
    made = _recipe(rule, how.weight_decay, how.cautious) or _run(
        rule, t, float(how.lr), how.weight_decay, how.cautious
    )
    return made.at(t, float(how.lr))


@lru_cache(maxsize=256)
def _recipe(rule: Rule, weight_decay: float, cautious: bool) -> Recipe | None:
    """Return what is written down for all steps at once, None for a rule that must see its count."""
    try:
        return _run(rule, Later(lambda t, _: t), Later(lambda _, lr: lr), weight_decay, cautious)
    except Exception:  # which the rule raises again where it is run for a step
        return None


def _run(rule: Rule, t: Any, lr: Any, weight_decay: float, cautious: bool) -> Recipe:
    tape = Tape(len(state_fields(rule)))
    p, g, *slots = tape.inputs
    ops = cast(Any, tape)
    change, parts = stepped(ops, rule, p, g, slots, t, lr=lr, weight_decay=weight_decay, cautious=cautious)
    parameter = p + change
    states = tuple(None if part is old else part.number for part, old in zip(parts, slots, strict=True))
    return Recipe(Lines(tuple(tape.operations), parameter.number, states), tuple(tape.numbers))
