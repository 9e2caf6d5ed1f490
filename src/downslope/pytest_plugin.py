"""pytest's fixture `check_gradient`, there wherever Downslope is installed.

def test_the_gradient_of_my_loss(check_gradient):
check_gradient(loss, x, gradient=loss_gradient)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from downslope.gradients.check import GradientReport


@pytest.fixture
def check_gradient() -> Callable[..., GradientReport]:
    """Return `downslope.check_gradient` that fails the test where the gradient is wrong or cannot be judged.

    `allow_inconclusive=True` lets pass what cannot be judged.
    """
    from downslope.gradients.check import GradientError
    from downslope.gradients.check import check_gradient as check

    def checked(fun: Any, x: Any, *, allow_inconclusive: bool = False, **options: Any) -> GradientReport:
        __tracebackhide__ = True
        report = check(fun, x, **options)
        try:
            report.raise_if_failed(inconclusive=not allow_inconclusive)
        except GradientError as error:
            pytest.fail(str(error), pytrace=False)
        return report

    return checked
