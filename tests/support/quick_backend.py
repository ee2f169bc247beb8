"""What makes a process of tests quick, whatever backend Keras has in it."""


def prepare() -> None:
    """Spares the backend what takes it longer than the tests' small networks: see the modules used here."""
    import keras

    if keras.backend.backend() == "jax":
        from tests.support.quick_jax import make_starting_values_with_numpy

        make_starting_values_with_numpy()
    if keras.backend.backend() == "tensorflow":
        from tests.support.quick_tensorflow import leave_graphs_as_they_are

        leave_graphs_as_they_are()
