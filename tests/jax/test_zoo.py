"""Every parameter of every architecture gets the role, and the matrices, that were written down for it."""

import pytest

from downslope.jax import partition
from tests.jax.zoo import ZOO
from tests.labelled import differences


@pytest.mark.parametrize("architecture", ZOO, ids=lambda z: z.name)
def test_roles_and_matrices(architecture):
    fun, params, *args = architecture.build()
    assert not differences(architecture, partition(fun, params, *args))


def test_the_zoo_is_large_and_its_labels_are_of_every_kind():
    assert len({z.name for z in ZOO}) == len(ZOO) >= 20
    kinds = {role for z in ZOO for role in z.labels.values()}
    assert kinds >= {"hidden", "input", "output", "embedding", "vector", "router"}
