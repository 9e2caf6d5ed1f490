"""Every parameter of every architecture gets the role, and the matrices, that were written down for it."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers", reason="the zoo is built from transformers and timm")
pytest.importorskip("timm", reason="the zoo is built from transformers and timm")

from downslope.grouping.partition import Role
from downslope.grouping.torch import partition
from tests.zoo import ZOO

# Other people's models warn about their own defaults.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("architecture", ZOO, ids=lambda z: z.name)
def test_roles_and_matrices(architecture):
    model, args, kwargs = architecture.build()
    found = partition(model, *args, **kwargs)
    assert {a.name: a.role.value for a in found} == {
        a.name: architecture.label(a.name, a.shape) for a in found
    }
    assert {n: found[n].to_dict()["matrices"] for n in architecture.matrices} == dict(architecture.matrices)
    assert all(a.rule == Role(a.role).rule for a in found)
    assert all(a.view is not None for a in found if a.rule == "muon")


def test_the_zoo_is_large_and_its_labels_are_of_every_kind():
    assert len({z.name for z in ZOO}) == len(ZOO) >= 40
    kinds = {role for z in ZOO for role in z.labels.values()}
    assert kinds >= {"hidden", "input", "output", "embedding", "vector", "router", "frozen", "unused"}
