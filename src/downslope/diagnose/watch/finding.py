"""What a watched model is found to suffer from: framework-free."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Ailment(StrEnum):
    """The kinds of findings."""

    INPUT = "non-finite input"
    CONSTANT = "non-finite constant"
    PARAMETER = "non-finite parameter"
    FORWARD = "non-finite forward"
    NUMBER = "non-finite number"
    LOSS = "non-finite loss"
    BACKWARD = "non-finite backward"
    OVERFLOW = "near overflow"
    EXPLODING = "exploding"
    VANISHING = "vanishing"
    DEAD = "dead"
    DETACHED = "detached"
    UNUSED = "unused"


NONFINITE = frozenset({
    Ailment.INPUT, Ailment.CONSTANT, Ailment.PARAMETER, Ailment.FORWARD, Ailment.NUMBER, Ailment.LOSS,
    Ailment.BACKWARD,
})  # fmt: skip
"""The findings after which a step must not be taken."""


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        ailment: which kind.
        where: the module's or parameter's name.
        operation: the operation's name, or "".
        text: what happened and what to do, on one line.
        step: the forward pass, from 1.

    """

    ailment: Ailment
    where: str
    operation: str
    text: str
    step: int

    def __str__(self) -> str:
        """One line."""
        return f"{self.ailment} (pass {self.step}): {self.text}"


class HealthWarning(RuntimeWarning):
    """A finding of a watched model, as a warning."""


class NonFiniteError(FloatingPointError):
    """NaN or infinity in a watched model; `finding` says where it was made."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


_CAUSES = (
    ("log_softmax", "a whole row was -inf, or a logit was not finite"),
    ("softmax", "a whole row was -inf: mask with a large negative number, or leave one entry unmasked"),
    ("attention", "a whole row was masked, or the scores overflowed"),
    ("log", "the logarithm of zero or of a negative number: clamp it, or use log1p or log_softmax"),
    ("rsqrt", "one over the root of zero: add an epsilon inside"),
    ("sqrt", "the root of a negative number, or its slope at zero: add an epsilon inside"),
    ("reciprocal", "a division by zero: add an epsilon to the denominator"),
    ("div", "a division by zero, or 0/0: add an epsilon to the denominator"),
    ("norm", "the slope of a norm at zero: add an epsilon, or clamp the norm"),
    ("pow", "a negative number to a broken power, or the slope of one at zero"),
    ("exp", "the exponential overflowed: subtract the maximum first"),
    ("acos", "its slope at ±1 is infinite: clamp the argument inside (-1, 1)"),
    ("asin", "its slope at ±1 is infinite: clamp the argument inside (-1, 1)"),
    ("atan2", "its slope at (0, 0) is not defined"),
    ("var", "a variance over one element"),
    ("std", "a deviation over one element, or its slope at zero"),
    ("mean", "the mean of nothing, or a sum that overflowed"),
    ("where", "0 · infinity on the branch not taken: choose safe inputs before the operation, too"),
    ("masked", "0 · infinity where the mask hides it: choose safe inputs before the operation, too"),
    ("mul", "0 · infinity, or an overflow"),
    ("sub", "infinity less infinity, or an overflow"),
    ("mm", "the sums overflowed: a smaller learning rate, smaller weights, or more exponent (bfloat16)"),
    ("dot", "the sums overflowed: a smaller learning rate, smaller weights, or more exponent (bfloat16)"),
    ("conv", "the sums overflowed: a smaller learning rate, smaller weights, or more exponent (bfloat16)"),
)


def likely_cause(operation: str) -> str:
    """Return `: why` for an operation that made NaN or infinity of finite numbers, or "".

    >>> likely_cause("SqrtBackward0")
    ': the root of a negative number, or its slope at zero: add an epsilon inside'
    >>> likely_cause("relu")
    ''

    """
    name = operation.lower()
    return next((f": {cause}" for word, cause in _CAUSES if word in name), "")
