"""The engines that take an element-wise rule's step."""

from __future__ import annotations

import pytest

from downslope.torch.native import elementwise


@pytest.fixture(params=["compiled", "fused", "blocks"])
def fused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool | None:
    """The option `fused` with which an engine takes the step."""
    if request.param == "fused":
        monkeypatch.setattr(elementwise, "step_of", lambda *_: "nothing compiled in this test")
    return False if request.param == "blocks" else None
