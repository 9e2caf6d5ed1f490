"""Every variable of every architecture gets the role, and the matrices, that were written down for it."""

import keras
import pytest

from downslope.grouping.partition import Assignment, Partition
from downslope.keras import partition
from tests.keras.zoo import ZOO
from tests.labelled import differences


def without_the_model(found):
    """Return a partition whose names do not begin with the model's own, which Keras numbers."""
    models = {a.name.split("/")[0] for a in found}
    cut = len(next(iter(models))) + 1 if len(models) == 1 else 0
    return Partition(Assignment.from_dict({**a.to_dict(), "name": a.name[cut:]}) for a in found)


@pytest.fixture(autouse=True)
def _no_random_weights(monkeypatch):
    """Weights are zeros: what they are does not matter, and JAX would compile a draw for each shape."""
    for kind in ("VarianceScaling", "RandomUniform", "RandomNormal", "Orthogonal"):
        zeros = lambda self, shape, dtype=None, **_: keras.ops.zeros(shape, dtype or "float32")  # noqa: E731
        monkeypatch.setattr(getattr(keras.initializers, kind), "__call__", zeros)


@pytest.mark.parametrize("architecture", ZOO, ids=lambda z: z.name)
def test_roles_and_matrices(architecture):
    model, *args = architecture.build()
    assert not differences(architecture, without_the_model(partition(model, *args)))


def test_the_zoo_is_large_and_its_labels_are_of_every_kind():
    assert len({z.name for z in ZOO}) == len(ZOO) >= 20
    kinds = {role for z in ZOO for role in z.labels.values()}
    assert kinds >= {"hidden", "input", "output", "embedding", "vector", "router", "frozen"}
