"""The devices of an experiment: one, or several of one host or of several, each with a share of a batch."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from tfprune.data.splits import Dataset, Stream
from tfprune.errors import UserError
from tfprune.experiments.methods.registry import method_of
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.devices import DeviceSettings

# How long a process that ends waits for the others to end too. One that fails alone thereby ends them all.
_SHUTDOWN_SECONDS = 60
_HEARTBEAT_SECONDS = 60


@dataclass(frozen=True)
class Devices(DeviceSettings):
    """The devices that share each batch.

    Every device has the whole network and an equal share of each batch. Loss, gradients and BatchNorm's
    statistics are those of the whole batch, so that the result is one device's, to rounding. Where an
    experiment runs is no part of what it is: a rerun elsewhere continues it.

    With several processes every one makes the images of its own rows; all read the same run folders, and
    process 0 alone writes them, prints and holds the folder.
    """

    def check(self) -> None:
        """Checks the settings, and that the backend can do what they ask for.

        Raises:
            UserError: With the flag, the value and the rule.
        """
        backend = keras.backend.backend()
        if self.distributed and backend != "jax":
            self.refuse(
                "distributed", f"must be False with KERAS_BACKEND={backend}: several processes need jax"
            )
        if self.data_parallel and backend not in ("tensorflow", "jax"):
            self.refuse(
                "data_parallel", f"must be False with KERAS_BACKEND={backend}: it needs tensorflow or jax"
            )
        super().check()

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Connects the processes and makes the devices those of all models and fits inside.

        Open it before Keras makes its first tensor.

        Raises:
            UserError: If the flags cannot be met.
        """
        self.check()
        if self.distributed:
            self._connect()
        if not self.shared:
            yield
        elif keras.backend.backend() == "jax":
            with keras.distribution.DataParallel(auto_shard_dataset=False).scope():
                yield
        else:
            with _mirrored_strategy().scope():
                yield

    @property
    def shared(self) -> bool:
        """Whether each batch is to be shared among devices, be there one alone."""
        return self.data_parallel or self.distributed

    @property
    def count(self) -> int:
        """The number of devices that share each batch."""
        if not self.shared:
            return 1
        if keras.backend.backend() == "jax":
            return keras.distribution.get_device_count()
        return len(_tensorflow_devices())

    @property
    def shard(self) -> tuple[int, int]:
        """The number of this process and the number of processes, which share each batch."""
        if not self.distributed:
            return 0, 1
        import jax

        return jax.process_index(), jax.process_count()

    @property
    def writes(self) -> bool:
        """True in the process that writes files and prints."""
        return self.shard[0] == 0

    def wait_for_all(self, place: str) -> None:
        """Returns when every process has come to this place.

        Args:
            place: Its name; the same in every process, or it is an error.
        """
        if self.shard[1] > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(place)

    def check_experiment(self, config: ExperimentConfig, dataset: Dataset) -> None:
        """Checks that the devices can share every batch evenly, the last of each pass too.

        Raises:
            UserError: With the numbers and what to pass instead.
        """
        if self.shared and not method_of(config).shares_devices:
            config.refuse("pruning_engine", "must be tfprune on several devices")
        count = self.count
        if config.batch_size % count:
            fitting = max(config.batch_size // count, 1) * count
            config.refuse(
                "batch_size",
                f"must be a multiple of the {count} devices that share each batch: pass "
                f"--batch_size={fitting}",
            )
        if self.shard[1] > 1 and any(isinstance(s, Stream) for s in (dataset.train, dataset.test)):
            config.refuse(
                "dataset",
                "must return arrays with --distributed: each process would have a tf.data.Dataset in "
                "an order of its own",
            )
        for name, split, flag in (
            ("training", dataset.train, "train_examples"),
            ("test", dataset.test, "test_examples"),
        ):
            if len(split) % count:
                last = len(split) % config.batch_size
                fitting = len(split) // count * count
                advice = f"pass --{flag}={fitting}" if fitting else "use fewer devices"
                config.refuse(
                    flag,
                    f"must leave a last batch that {count} devices share evenly, but of {len(split):,} "
                    f"{name} {dataset.noun} in batches of {config.batch_size} the last has {last}: {advice}",
                )

    def __str__(self) -> str:
        """Returns words for the line that says what runs; empty on one device that shares nothing."""
        if not self.shared:
            return ""
        processes = f" of {self.shard[1]} processes" if self.distributed else ""
        devices = "1 device takes" if self.count == 1 else f"{self.count} devices{processes} share"
        return f", {devices} each batch"

    def _connect(self) -> None:
        """Joins the other processes, once in the life of this process."""
        import jax

        if jax.distributed.is_initialized():
            return
        found_out: dict[str, Any] = {}
        if self.coordinator_address:
            found_out = {
                "coordinator_address": self.coordinator_address,
                "num_processes": self.process_count,
                "process_id": self.process_index,
            }
        # With it a SIGTERM would only be noted, and the process go on.
        jax.config.update("jax_enable_preemption_service", False)
        try:
            # Not `keras.distribution.initialize`, which is this call without the limits of waiting.
            jax.distributed.initialize(
                **found_out,
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
            )
        except (ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            where = f"--coordinator_address={self.coordinator_address}: " if found_out else ""
            raise UserError(f"--distributed: {where}the processes cannot be connected: {reason}") from error


ONE_DEVICE = Devices()


@functools.cache
def _mirrored_strategy() -> Any:
    """Returns the strategy of the whole process: collective operations of two would be mixed up."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(_tensorflow_devices())


def _tensorflow_devices() -> list[str]:
    """Returns the names of this process's GPUs, or of the CPUs where there are none."""
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name for device in devices]
