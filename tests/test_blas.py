"""Many small problems of linear algebra, with and without OpenBLAS."""

import numpy as np
import pytest

from tfprune import blas

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize("known", [True, False])
def test_all_parts_are_worked_on_and_threads_are_as_before(known, monkeypatch):
    found = blas._threads()
    if not known:
        monkeypatch.setattr(blas, "_threads", lambda: None)
    before = found and found[0]()
    matrices = np.random.default_rng(0).normal(size=(4, 5, 5)) + 9 * np.eye(5)
    inverses = np.zeros_like(matrices)

    def invert(number, sign):
        inverses[number] = sign * np.linalg.inv(matrices[number])

    blas.for_each(invert, [(number, -1) for number in range(4)])
    assert np.allclose(inverses @ matrices, -np.eye(5))
    matrices[2] = 0
    with pytest.raises(np.linalg.LinAlgError):
        blas.for_each(invert, [(number, 1) for number in range(4)])
    assert before == (found and found[0]())
