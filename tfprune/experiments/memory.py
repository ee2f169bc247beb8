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

    That is a batch of the data; and of a ResNet the weights, Adam's moments, and what every convolution gives
    for the images of a batch, which its gradient needs. Training takes more, so that a pass promises nothing;
    but what is refused could not have run. Nothing is checked where an accelerator trains, which
    has its own memory.

    Args:
        config: The experiment.
        dataset: Its data.
        devices: Those that share each batch.

    Raises:
        UserError: If it cannot; the message names the flag and both sizes.
    """
    if set(hardware()["devices"]) != {"cpu"}:
        return
    weights = outputs = 0
    inputs = dataset.spec.inputs
    if config.model in BLOCKS_PER_STAGE and dataset.class_names and dataset.is_images:
        weights, outputs = resnet_size(
            config.model,
            classes=len(dataset.class_names),
            image_size=min(inputs.shape[:2]),
            width=config.width,
            stem=config.stem,
        )
    _, processes = devices.shard
    examples = max(1, min(config.batch_size, len(dataset.train)) // processes)
    example_bytes = outputs * (4 if config.mixed_precision == "none" else 2)
    example_bytes += sum(spec.bytes for spec in arrays_of(inputs))
    weights_bytes, left = weights * _WEIGHT_BYTES, available_bytes()
    checks = [
        ("width", "the weights and their moments", weights_bytes),
        ("image_size", "training with one image", weights_bytes + example_bytes),
        (
            "batch_size",
            f"training with {examples:,} {dataset.noun} at a time",
            weights_bytes + example_bytes * examples,
        ),
    ]
    for name, what, needed in checks if weights else checks[-1:]:
        if needed > left:
            config.refuse(
                name,
                f"must be smaller: at least {size_text(needed)} of memory are needed for {what}, and "
                f"{size_text(left)} are left",
            )
