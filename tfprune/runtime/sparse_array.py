"""Sparse kernels: a pruned network never exists densely in memory."""

import numpy as np


class SparseArray:
    """A float32 array that holds only what is not zero.

    It stands where `Conv.kernel` may be an array; `np.asarray` makes it dense.

    Attributes:
        shape: The shape of the dense array.
        positions: int64 `[count]`, strictly increasing: the indices in the flattened (row-major) dense array.
        values: float32 `[count]`.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, shape: tuple[int, ...], positions: np.ndarray, values: np.ndarray) -> None:
        """Takes the parts as they are.

        Args:
            shape: The shape of the dense array.
            positions: See the class.
            values: See the class.
        """
        self.shape = tuple(shape)
        self.positions = positions
        self.values = values

    @property
    def ndim(self) -> int:
        """Returns the number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Returns the number of values of the dense array."""
        return int(np.prod(self.shape))

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """Returns the dense array."""
        if copy is False:
            raise ValueError("a sparse array cannot be seen as a dense one without a copy")
        dense = np.zeros(self.size, np.float32)
        dense[self.positions] = self.values
        return dense.reshape(self.shape).astype(dtype or np.float32, copy=False)


def nonzeros(array: np.ndarray | SparseArray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the positions (flattened, row-major, increasing) and values that are not zero.

    Args:
        array: Dense or sparse.

    Returns:
        Positions int64, values float32.
    """
    if isinstance(array, SparseArray):
        return array.positions, array.values
    flat = np.asarray(array).reshape(-1)
    positions = np.flatnonzero(flat)
    return positions, flat[positions]
