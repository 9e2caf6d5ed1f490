"""Every rule with every option takes the oracle's steps, eagerly and compiled."""

import keras
import pytest

from tests.keras.drive import BACKEND, modes_of, run
from tests.parity.cases import CASES, assert_run
from tests.parity.deviations import allowed

RUNS = [(case, mode) for case in CASES for mode in modes_of(case)]


@pytest.mark.parametrize(("case", "mode"), RUNS, ids=[f"{case}-{mode}" for case, mode in RUNS])
def test_takes_the_steps_of_the_oracle(case, mode):
    keras.config.set_floatx("float64")  # Keras keeps the learning rate in this dtype
    assert_run(case, run(case, mode), allowed("keras", f"{BACKEND}-{mode}:{case.name}"))
