"""A view cuts a parameter into matrices and puts them back: nothing is lost, nothing is mixed."""

import numpy as np
import pytest

from downslope.grouping.view import MatrixView
from downslope.ops import ops_for

VIEWS = [
    ((12, 8), MatrixView((0,), (1,))),
    ((12, 8), MatrixView((1,), (0,))),
    ((12, 8), MatrixView((0,), (1,), blocks=(4, 4, 4))),
    ((12, 8), MatrixView((0,), (1,), blocks=(6, 3, 3))),
    ((12, 8), MatrixView((0,), (1,), blocks=(2, 2, 2), repeats=2)),
    ((12, 8), MatrixView((0,), (1,), blocks=(3, 2, 1), repeats=2)),
    ((12, 8), MatrixView((0,), (1,), blocks=(4, 2, 2), blocks_along="inputs")),
    ((12, 8), MatrixView((0,), (1,), blocks=(2, 2), blocks_along="inputs", repeats=2)),
    ((5, 12, 8), MatrixView((2,), (1,), batch=(0,), blocks=(2, 2), repeats=2)),
    ((8, 4, 3, 3), MatrixView.of_kernel(4)),
    ((8, 4, 3, 3), MatrixView((1,), (0, 2, 3), blocks=(36, 36), blocks_along="inputs")),
]


@pytest.mark.parametrize(("shape", "view"), VIEWS)
def test_join_undoes_split(shape, view):
    a = np.arange(np.prod(shape), dtype=float).reshape(shape)
    x = ops_for(a)
    stacks = view.split(x, a)
    assert [s.shape for s in stacks] == view.matrices(shape)
    np.testing.assert_array_equal(view.join(x, stacks, shape), a)
    assert MatrixView.from_dict(view.to_dict()) == view


def test_repeated_blocks_gather_the_rows_of_each_projection():
    heads, size = 3, 2  # rows ordered (head, q/k/v, position in the head)
    a = np.arange(heads * 3 * size * 4, dtype=float).reshape(heads, 3, size, 4)
    view = MatrixView((0,), (1,), blocks=(size,) * 3, repeats=heads)
    (stack,) = view.split(ops_for(a), a.reshape(-1, 4))
    for k in range(3):
        np.testing.assert_array_equal(stack[k], a[:, k].reshape(-1, 4))


def test_a_view_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="blocks must add up to 12 outputs 2 times"):
        MatrixView((0,), (1,), blocks=(4, 4), repeats=2).check((12, 8))
