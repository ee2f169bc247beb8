"""The settings of where and by what an experiment computes; no part of what it is."""

import re
from dataclasses import dataclass
from typing import NoReturn

from tfprune.errors import UserError
from tfprune.settings import With, check_effects, setting

TRAINING_ENGINES = ("keras", "sparse", "auto")
_DISTRIBUTED = (With("distributed"),)


@dataclass(frozen=True)
class DeviceSettings:
    """The devices that share each batch, and what trains on them; each field is the flag of the same name."""

    training_engine: str = setting(
        "keras",
        "What trains. keras; sparse: kernels that skip removed weights, on the processor, in float32, for "
        "the layers that they know; auto: the faster one in a short measurement before each round. The "
        "result is that of keras, to rounding.",
        group="device",
        choices=TRAINING_ENGINES,
    )
    data_parallel: bool = setting(
        False,
        "All devices that this process sees share each batch (TensorFlow, JAX). The result is one device's, "
        "to rounding.",
        group="device",
    )
    distributed: bool = setting(
        False,
        "All devices of several processes share each batch (JAX). Start the same command once a process, "
        "with one --output_dir that all of them see; process 0 writes and prints.",
        group="device",
    )
    coordinator_address: str = setting(
        "",
        "HOST:PORT of process 0. Empty, without the next two: found out from Slurm, Open MPI or Cloud TPU.",
        group="device",
        only_with=_DISTRIBUTED,
    )
    process_count: int = setting(0, "Number of processes.", group="device", only_with=_DISTRIBUTED)
    process_index: int = setting(-1, "Which process this is, from 0.", group="device", only_with=_DISTRIBUTED)

    def check(self) -> None:
        """Checks the settings beside each other.

        Raises:
            UserError: With the flag, the value and the rule.
        """
        given = {
            "coordinator_address": self.coordinator_address != "",
            "process_count": self.process_count != 0,
            "process_index": self.process_index != -1,
        }
        names = [name for name, is_given in given.items() if is_given]
        check_effects(self)
        if not names:
            return
        for name in given:
            if name not in names:
                others = " and ".join(f"--{other}" for other in names)
                self.refuse(
                    name, f"must be given too with {others}: all three, or none on a cluster that says"
                )
        if not re.fullmatch(r".+:\d+", self.coordinator_address):
            self.refuse("coordinator_address", "must be HOST:PORT, where process 0 can be reached")
        if self.process_count < 1:
            self.refuse("process_count", "must be at least 1")
        if not 0 <= self.process_index < self.process_count:
            self.refuse("process_index", f"must be at least 0 and below --process_count={self.process_count}")

    def refuse(self, name: str, rule: str) -> NoReturn:
        """Raises the `UserError` of a flag whose value breaks a rule."""
        raise UserError(f"--{name}={getattr(self, name)}: {rule}")
