"""Whether an experiment fits into memory, before anything large is asked for."""

from tfprune.data.splits import Dataset, arrays_of
from tfprune.experiments.devices import Devices
from tfprune.experiments.environment import hardware
from tfprune.memory import available_bytes, size_text
from tfprune.models.resnet import BLOCKS_PER_STAGE, resnet_size
from tfprune.runs.config import ExperimentConfig

# A weight and Adam's two moments of it, in float32.
_WEIGHT_BYTES = 3 * 4


def check_memory(config: ExperimentConfig, dataset: Dataset, devices: Devices) -> None:
    """Checks that the memory can hold what training holds at the least.

    That are the weights, Adam's moments, and what every convolution gives for the images of a batch, which
    its gradient needs. Training takes more, so that a pass promises nothing; but what is refused could not
    have run. Nothing is checked where an accelerator with its own memory trains.

    Args:
        config: The experiment.
        dataset: Its data.
        devices: Those that share each batch.

    Raises:
        UserError: If it cannot; the message names the flag and both sizes.
    """
    if config.model not in BLOCKS_PER_STAGE or set(hardware()["devices"]) != {"cpu"}:
        return
    weights, outputs = resnet_size(
        config.model,
        classes=len(dataset.class_names),
        image_size=config.image_size,
        width=config.width,
        stem=config.stem,
    )
    _, processes = devices.shard
    images = max(1, min(config.batch_size, len(dataset.train)) // processes)
    input_bytes = sum(spec.bytes for spec in arrays_of(dataset.spec.inputs))
    image_bytes = outputs * (4 if config.mixed_precision == "none" else 2) + input_bytes
    left = available_bytes()
    for name, what, needed in (
        ("width", "the weights and their moments", weights * _WEIGHT_BYTES),
        ("image_size", "training with one image", weights * _WEIGHT_BYTES + image_bytes),
        (
            "batch_size",
            f"training with {images:,} images at a time",
            weights * _WEIGHT_BYTES + image_bytes * images,
        ),
    ):
        if needed > left:
            config.refuse(
                name,
                f"must be smaller: at least {size_text(needed)} of memory are needed for {what}, and "
                f"{size_text(left)} are left",
            )
