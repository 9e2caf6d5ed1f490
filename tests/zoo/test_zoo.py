"""Every parameter of every architecture gets the role, and the matrices, that were written down for it."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers", reason="the zoo is built from transformers and timm")
pytest.importorskip("timm", reason="the zoo is built from transformers and timm")

from downslope.grouping.torch import partition
from tests.labelled import differences
from tests.zoo import ZOO

# Other people's models warn about their own defaults.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("architecture", ZOO, ids=lambda z: z.name)
def test_roles_and_matrices(architecture):
    model, args, kwargs = architecture.build()
    assert not differences(architecture, partition(model, *args, **kwargs))


def test_the_zoo_is_large_and_its_labels_are_of_every_kind():
    assert len({z.name for z in ZOO}) == len(ZOO) >= 40
    kinds = {role for z in ZOO for role in z.labels.values()}
    assert kinds >= {"hidden", "input", "output", "embedding", "vector", "router", "frozen", "unused"}
