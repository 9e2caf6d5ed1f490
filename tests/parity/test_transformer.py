"""The reference run is a reference: its gradient is right, and it learns."""

from __future__ import annotations

import numpy as np
import pytest

from tests.parity.transformer import batches, loss_and_gradients, reference, rule_of, weights


@pytest.mark.parametrize("name", list(weights()))
def test_gradient_by_hand_is_the_difference(name: str) -> None:
    w, (tokens, targets) = weights(), batches()[0]
    _, g = loss_and_gradients(w, tokens, targets)
    direction = np.sign(np.random.default_rng(0).standard_normal(w[name].shape))

    def along(h: float) -> float:
        return loss_and_gradients({**w, name: w[name] + h * direction}, tokens, targets)[0]

    h = 1e-5
    numeric = (along(h) - along(-h)) / (2 * h)
    analytic = float((g[name] * direction).sum())
    assert abs(analytic) > 1e-4  # else the comparison would say nothing
    # Central differences: h² of truncation, and 1e-16 / h of rounding.
    assert abs(numeric - analytic) < 1e-7 * max(1.0, abs(analytic))


def test_reference_learns_and_uses_both_rules() -> None:
    losses, after = reference()
    assert len(losses) == 50
    assert losses[-1] < 0.5 * losses[0]
    assert {rule_of(name) for name in after} == {"muon", "adamw"}
    for name, before in weights().items():
        assert np.max(np.abs(after[name] - before)) > 1e-2, name
