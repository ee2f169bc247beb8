"""The flags that say on which devices a binary trains: one for each field of `Devices`."""

import dataclasses

from absl import flags

from tfprune.bin import tensorflow_start  # noqa: F401  (before anything that loads TensorFlow)
from tfprune.experiments.devices import Devices


def define_device_flags(registry: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags, in the process's registry or in one of its own."""
    default = Devices()
    flags.DEFINE_boolean(
        "data_parallel",
        default.data_parallel,
        "All devices that this process sees share each batch (TensorFlow, JAX). The result is one device's, "
        "to rounding.",
        flag_values=registry,
    )
    flags.DEFINE_boolean(
        "distributed",
        default.distributed,
        "All devices of several processes share each batch (JAX). Start the same command once a process, "
        "with one --output_dir that all of them see; process 0 writes and prints.",
        flag_values=registry,
    )
    flags.DEFINE_string(
        "coordinator_address",
        default.coordinator_address,
        "HOST:PORT of process 0, for --distributed. Empty, without the next two: found out from Slurm, "
        "Open MPI or Cloud TPU.",
        flag_values=registry,
    )
    flags.DEFINE_integer(
        "process_count", default.process_count, "Number of processes of --distributed.", flag_values=registry
    )
    flags.DEFINE_integer(
        "process_index",
        default.process_index,
        "Which process of --distributed this is, from 0.",
        flag_values=registry,
    )


def devices_from_flags(registry: flags.FlagValues = flags.FLAGS) -> Devices:
    """Returns the devices that the parsed flags name.

    Raises:
        UserError: If the flags do not go together, or the backend cannot do what they ask for.
    """
    devices = Devices(**{field.name: registry[field.name].value for field in dataclasses.fields(Devices)})
    devices.check()
    return devices
