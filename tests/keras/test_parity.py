"""Every rule with every option takes the oracle's steps, eagerly and compiled."""

import keras
import pytest

from tests.keras.drive import BACKEND, MODES, run
from tests.parity.cases import CASES, assert_run
from tests.parity.deviations import allowed


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_takes_the_steps_of_the_oracle(case, mode):
    keras.config.set_floatx("float64")  # Keras keeps the learning rate in this dtype
    assert_run(case, run(case, mode), allowed("keras", f"{BACKEND}-{mode}:{case.name}"))
