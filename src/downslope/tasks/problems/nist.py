"""The nonlinear regression problems of NIST's Statistical Reference Datasets, with certified answers.

27 data sets, two starts each. `nist("misra1a")`, `nist("misra1a", start=2)`; the data and the values
that the National Institute of Standards and Technology certifies to eleven digits are in
`data/nist.json` (public domain). https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from downslope.errors import UsageError, closest
from downslope.tasks.problems.problem import Minimum, Problem, Vector, like, namespace, unknowns

SOURCE = "NIST Statistical Reference Datasets, nonlinear least squares regression"


class Certified(NamedTuple):
    """What NIST certifies: the parameters, their standard deviations, the residual sum of squares."""

    parameters: Vector
    deviations: Vector
    rss: float


def _power(xp: Any, x: Any, b: Any) -> Any:
    return b[0] * x ** b[1]


def _saturation(xp: Any, x: Any, b: Any) -> Any:
    return b[0] * (1 - xp.exp(-b[1] * x))


def _misra1b(xp: Any, x: Any, b: Any) -> Any:
    return b[0] * (1 - (1 + b[1] * x / 2) ** -2)


def _misra1c(xp: Any, x: Any, b: Any) -> Any:
    return b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5)


def _misra1d(xp: Any, x: Any, b: Any) -> Any:
    return b[0] * b[1] * x / (1 + b[1] * x)


def _chwirut(xp: Any, x: Any, b: Any) -> Any:
    return xp.exp(-b[0] * x) / (b[1] + b[2] * x)


def _lanczos(xp: Any, x: Any, b: Any) -> Any:
    return b[0] * xp.exp(-b[1] * x) + b[2] * xp.exp(-b[3] * x) + b[4] * xp.exp(-b[5] * x)


def _gauss(xp: Any, x: Any, b: Any) -> Any:
    first = b[2] * xp.exp(-((x - b[3]) ** 2) / b[4] ** 2)
    return b[0] * xp.exp(-b[1] * x) + first + b[5] * xp.exp(-((x - b[6]) ** 2) / b[7] ** 2)


def _mgh09(xp: Any, x: Any, b: Any) -> Any:
    return b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3])


def _mgh10(xp: Any, x: Any, b: Any) -> Any:
    return b[0] * xp.exp(b[1] / (x + b[2]))


def _mgh17(xp: Any, x: Any, b: Any) -> Any:
    return b[0] + b[1] * xp.exp(-x * b[3]) + b[2] * xp.exp(-x * b[4])


def _cubics(xp: Any, x: Any, b: Any) -> Any:
    below = 1 + b[4] * x + b[5] * x**2 + b[6] * x**3
    return (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / below


def _quadratics(xp: Any, x: Any, b: Any) -> Any:
    return (b[0] + b[1] * x + b[2] * x**2) / (1 + b[3] * x + b[4] * x**2)


def _roszman1(xp: Any, x: Any, b: Any) -> Any:
    return b[0] - b[1] * x - xp.arctan(b[2] / (x - b[3])) / math.pi


def _enso(xp: Any, x: Any, b: Any) -> Any:
    tau = 2 * math.pi
    model = b[0] + b[1] * xp.cos(tau * x / 12) + b[2] * xp.sin(tau * x / 12)
    for period, cosine, sine in ((3, 4, 5), (6, 7, 8)):
        angle = tau * x / b[period]
        model = model + b[cosine] * xp.cos(angle) + b[sine] * xp.sin(angle)
    return model


def _rat42(xp: Any, x: Any, b: Any) -> Any:
    return b[0] / (1 + xp.exp(b[1] - b[2] * x))


def _rat43(xp: Any, x: Any, b: Any) -> Any:
    return b[0] / (1 + xp.exp(b[1] - b[2] * x)) ** (1 / b[3])


def _eckerle4(xp: Any, x: Any, b: Any) -> Any:
    return b[0] / b[1] * xp.exp(-0.5 * ((x - b[2]) / b[1]) ** 2)


def _bennett5(xp: Any, x: Any, b: Any) -> Any:
    return b[0] * (b[1] + x) ** (-1 / b[2])


def _nelson(xp: Any, x: Any, b: Any) -> Any:
    time, temperature = x
    return b[0] - b[1] * time * xp.exp(-b[2] * temperature)


MODELS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "misra1a": _saturation, "chwirut2": _chwirut, "chwirut1": _chwirut, "lanczos3": _lanczos,
    "gauss1": _gauss, "gauss2": _gauss, "danwood": _power, "misra1b": _misra1b,
    "kirby2": _quadratics, "hahn1": _cubics, "nelson": _nelson, "mgh17": _mgh17,
    "lanczos1": _lanczos, "lanczos2": _lanczos, "gauss3": _gauss, "misra1c": _misra1c,
    "misra1d": _misra1d, "roszman1": _roszman1, "enso": _enso,
    "mgh09": _mgh09, "thurber": _cubics, "boxbod": _saturation, "rat42": _rat42, "mgh10": _mgh10,
    "eckerle4": _eckerle4, "rat43": _rat43, "bennett5": _bennett5,
}  # fmt: skip
"""The models in the order of their difficulty, as NIST lists them."""


@cache
def data() -> dict[str, dict[str, Any]]:
    """Return the data file: for each set level, starts, certified, deviations, rss, y and x."""
    text = resources.files("downslope.tasks.problems").joinpath("data", "nist.json").read_text("utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def certified(name: str) -> Certified:
    """Return what NIST certifies for a set.

    >>> round(certified("misra1a").rss, 7)
    0.1245514

    """
    row = data()[_known(name)]
    return Certified(np.array(row["certified"]), np.array(row["deviations"]), row["rss"])


def nist(name: str, start: int = 1) -> Problem:
    """Return a regression problem as the sum of squared differences of data and model.

    Args:
        name: of the set, as in "misra1a".
        start: 1, far from the answer, or 2, nearer.

    Raises:
        UsageError: no such set or start.

    """
    row, model = data()[_known(name)], MODELS[name]
    if start not in (1, 2):
        raise UsageError(f"start = {start!r} of problem 'nist:{name}': expected 1 or 2")
    predictors = np.array(row["x"][0] if len(row["x"]) == 1 else row["x"], np.float64)
    observed = np.array(row["y"], np.float64)
    if name == "nelson":
        observed = np.log(observed)

    def residuals(b: Any) -> Any:
        return like(b, observed) - model(namespace(b), like(b, predictors), unknowns(b))

    best = Minimum(row["rss"], tuple(row["certified"]), "certified")
    begin = np.array(row["starts"][start - 1], np.float64)
    return Problem(f"nist:{name}", begin, residuals=residuals, minima=(best,), source=SOURCE)


def _known(name: str) -> str:
    if name not in MODELS:
        raise UsageError(
            f"no problem 'nist:{name}': expected one of {', '.join(MODELS)}{closest(name, MODELS)}"
        )
    return name
