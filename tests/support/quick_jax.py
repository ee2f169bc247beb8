"""Starting values made by NumPy for tests on JAX, which compiles a program for each shape of them."""

import types

import keras
import numpy as np
from keras import ops


def make_starting_values_with_numpy():
    """Lets Keras's initializers draw from the same distributions with NumPy, from then on."""
    from keras.src.initializers import random_initializers

    real = random_initializers.random
    random_initializers.random = types.SimpleNamespace(
        normal=_normal,
        truncated_normal=_truncated_normal,
        uniform=_uniform,
        SeedGenerator=real.SeedGenerator,
        make_default_seed=real.make_default_seed,
    )
    for cls, make in ((keras.initializers.Zeros, np.zeros), (keras.initializers.Ones, np.ones)):
        cls.__call__ = lambda self, shape, dtype=None, make=make: _tensor(make(shape), dtype)
    keras.initializers.Orthogonal.__call__ = _orthogonal


def _uniform(shape, minval=0.0, maxval=1.0, dtype=None, seed=None):
    return _tensor(_generator(seed).uniform(minval, maxval, shape), dtype)


def _normal(shape, mean=0.0, stddev=1.0, dtype=None, seed=None):
    return _tensor(_generator(seed).normal(mean, stddev, shape), dtype)


def _truncated_normal(shape, mean=0.0, stddev=1.0, dtype=None, seed=None):
    """Draws again, twice the standard deviation being the limit, what is beyond."""
    rng = _generator(seed)
    values = rng.normal(size=shape)
    while (beyond := np.abs(values) > 2).any():
        values[beyond] = rng.normal(size=beyond.sum())
    return _tensor(values * stddev + mean, dtype)


def _orthogonal(initializer, shape, dtype=None):
    rows, columns = int(np.prod(shape[:-1])), shape[-1]
    drawn = _generator(initializer.seed).normal(size=(max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(drawn)
    q *= np.sign(np.diag(r))
    return _tensor(initializer.gain * np.reshape(q if rows >= columns else q.T, shape), dtype)


def _generator(seed):
    if isinstance(seed, keras.random.SeedGenerator):
        seed = np.asarray(seed.next())
    return np.random.default_rng(seed)


def _tensor(values, dtype):
    dtype = dtype or keras.config.floatx()
    return ops.convert_to_tensor(np.asarray(values, dtype), dtype=dtype)
