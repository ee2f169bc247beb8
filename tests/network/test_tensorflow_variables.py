"""TensorFlow's variables are read and written as they are, on one device and on several."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("only TensorFlow has such variables", allow_module_level=True)
import tensorflow as tf

from tfprune.network import tensorflow_variables


@pytest.fixture(params=["one device", "two devices"])
def scope(request):
    if request.param == "one device":
        return tf.device("CPU:0")
    devices = [device.name.removeprefix("/physical_device:") for device in tf.config.list_physical_devices()]
    return tf.distribute.MirroredStrategy(devices[:1]).scope()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bool", "int8"])
def test_what_is_written_is_read(scope, dtype):
    with scope:
        variable = keras.Variable(np.zeros((3, 4)), dtype=dtype, trainable=False)
        new = (np.arange(12).reshape(3, 4) % 5).astype(dtype)
        before = np.array(tensorflow_variables.read(variable.value))
        tensorflow_variables.write(variable.value, new)
        after = np.asarray(tensorflow_variables.read(variable.value))
    assert not before.any()
    assert after.dtype == new.dtype
    np.testing.assert_array_equal(after, new)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), new)


def test_what_was_read_stays_when_the_variable_is_written():
    variable = keras.Variable(np.zeros(1000, "float32"))
    read = np.asarray(tensorflow_variables.read(variable.value))
    tensorflow_variables.write(variable.value, np.ones(1000, "float32"))
    assert not read.any()
