"""Writes a page that runs a network in the browser, on images of the run's test split.

  python -m tfprune.bin.browser --experiment=demo_one_shot

The network becomes WebAssembly; the page is one HTML file, which can be opened from the disk, mailed, or put
on any server. It classifies test images, measures the time of one, and takes an image of the reader's. Needs
wasm-ld, LLVM's linker for WebAssembly (Debian's package lld).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from tfprune.bin.finished_run import FinishedRun
from tfprune.bin.flags import define_settings
from tfprune.bin.main import run_main
from tfprune.bin.tensorflow_start import start_tensorflow
from tfprune.errors import UserError
from tfprune.runs.config import PATH
from tfprune.runs.folder import find_round
from tfprune.settings import AT_LEAST_1, setting


@dataclass(frozen=True)
class Flags(FinishedRun):
    """The flags; each field is the flag of the same name."""

    page: str = setting(
        "", "The HTML file. Empty: browser.html in the run's folder.", group="output", role="place", rule=PATH
    )
    images: int = setting(24, "Test images on the page; the first ones.", group="output", rule=AT_LEAST_1)


def main() -> None:
    """Writes the page."""
    values = flags.FLAGS
    run, found = find_round(values.output_dir, values.experiment, "experiment")
    start_tensorflow()
    from tfprune import sparsity
    from tfprune.data.pipeline import test_batches
    from tfprune.experiments.evaluate import load_run_data
    from tfprune.experiments.networks import load_model
    from tfprune.export.browser import write_page

    _, dataset = load_run_data(run, values.data_dir)
    if dataset.class_names is None or not dataset.is_images:
        raise UserError(f"--experiment={values.experiment}: must have classified images")
    count = min(values.images, len(dataset.test))
    batches = test_batches(dataset.test, image_size=dataset.image_size, batch_size=count)
    images, labels = _first(batches)
    model = sparsity.strip_pruning(load_model(found))
    path = Path(values.page) if values.page else run.path / "browser.html"
    size = write_page(
        model,
        path,
        images,
        labels,
        dataset.class_names,
        title=f"{model.name}, pruned, on {dataset.name}",
        subtitle=f"Round {found.number} of {values.experiment}, on {count} test images.",
    )
    print(f"{values.experiment}: {size:,} bytes of WebAssembly, in {path}")


def _first(batches: Any) -> tuple[Any, Any]:
    """Returns the images and labels of the first batch."""
    images, labels = next(batches.as_numpy_iterator())[:2]
    return images, labels.reshape(len(images), -1)[:, 0]


def run() -> None:
    """The command `tfprune-browser`."""
    run_main(main, __doc__, lambda: define_settings(Flags))


if __name__ == "__main__":
    run()
