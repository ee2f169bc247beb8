r"""Measures whether a network whose channels were cut is as fast as the network that is built so narrow.

    python benchmarks/structured_latency.py
    python benchmarks/structured_latency.py --networks=mobilenet_v2 --threads=1 --rounds=101

Half of all channels of a ResNet-34 (at 32x32 pixels) and of a MobileNetV2 (at 96x96) are cut, group by group,
to the widths of the same architecture built with half of them: `width`, and `alpha`, which rounds to
multiples of 8. Both have random weights. In TFLite float32 and in tfprune's own runtime the whole network,
the cut one and the built one are timed by turns. A ratio is the median over the rounds of the ratio within a
round, with its quartiles.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from absl import app, flags  # noqa: E402

from tfprune.bin.benchmark import parse_threads  # noqa: E402

NETWORKS = flags.DEFINE_list("networks", ["resnet34", "mobilenet_v2"], "What to cut.")
WIDTH = flags.DEFINE_integer("width", 64, "Filters of the first stage of the ResNet-34.", lower_bound=2)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 1, "Images a call.", lower_bound=1)
THREADS = flags.DEFINE_list("threads", ["1", "all"], "Numbers of threads; all: the cores of this process.")
CLOCK = flags.DEFINE_enum(
    "clock", "wall", ["wall", "cpu"], "cpu: what one thread computes, where other programs run beside it."
)
ROUNDS = flags.DEFINE_integer("rounds", 41, "How often each is timed in each setting.", lower_bound=1)

HEADER = ("network", "runtime", "threads", "whole ms", "cut ms", "built ms", "cut / built", "whole / cut")


def build(network: str, share: float) -> Any:
    """Returns a network with a share of the channels."""
    import keras

    from tfprune.models.resnet import build_resnet

    keras.utils.set_random_seed(0)
    if network == "resnet34":
        return build_resnet(network, classes=10, image_size=32, width=int(WIDTH.value * share), stem="cifar")
    if network == "mobilenet_v2":
        return keras.applications.MobileNetV2((96, 96, 3), share, weights=None)
    sys.exit(f"error: --networks={network}: must be some of resnet34, mobilenet_v2")


def cut_like(model: Any, narrow: Any) -> Any:
    """Returns a network with as many channels in each layer as that of the same name has in a narrow one."""
    import numpy as np

    from tfprune.channels.cut import build_smaller
    from tfprune.channels.groups import Traced

    traced = Traced(model)
    stays = np.ones(traced.count, bool)
    for group in traced.groups:
        if not group.fixed:
            wanted = narrow.get_layer(group.layers[0]).output.shape[-1]
            stays[group.sets[wanted:]] = False
    cut = build_smaller(model, traced.trace.cuts, lambda labels: stays[traced.sets[labels]])
    if [weight.shape for weight in cut.weights] != [weight.shape for weight in narrow.weights]:
        raise ValueError(f"{model.name}: its cut has other shapes than the narrow one")
    return cut


def rows_of(network: str) -> list[tuple[str, ...]]:
    """Measures one network; returns its rows of the table."""
    import numpy as np
    from paired_files import RUNTIMES, time_files, write_files

    from tfprune.quiet import native_stderr_captured
    from tfprune.timing import paired_speedup, summarize

    whole, built = build(network, 1.0), build(network, 0.5)
    models = {"whole": whole, "cut": cut_like(whole, built), "built": built}
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH_SIZE.value, *whole.input_shape[1:])).astype(whole.input.dtype)
    rows = []
    with tempfile.TemporaryDirectory() as folder, native_stderr_captured():
        paths = {name: write_files(model, Path(folder, name), RUNTIMES) for name, model in models.items()}
        for threads in parse_threads(THREADS.value):
            for runtime, timings in time_files(paths, images, threads, ROUNDS.value, CLOCK.value).items():
                if timings.failures:
                    sys.exit(f"error: {runtime}: {timings.failures}")
                seconds = timings.seconds
                rows.append(
                    (
                        network,
                        runtime,
                        str(threads),
                        *(f"{1000 * summarize(seconds[name]).median:.2f}" for name in models),
                        shown(paired_speedup(seconds["cut"], seconds["built"])),
                        shown(paired_speedup(seconds["whole"], seconds["cut"])),
                    )
                )
    return rows


def shown(ratio: Any) -> str:
    """Returns a ratio with its quartiles."""
    return f"{ratio.median:.3f} ({ratio.lower:.3f} to {ratio.upper:.3f})"


def main(_: list[str]) -> None:
    """Measures each network and prints the table."""
    from tfprune.text import text_table

    rows = [row for network in NETWORKS.value for row in rows_of(network)]
    print("\n".join(text_table(HEADER, rows)))


if __name__ == "__main__":
    app.run(main)
