r"""How fast the `scratch` study trains on an accelerator, beside PyTorch; and the study itself.

    python benchmarks/accelerator_study.py --dataset=cifar10 --data_dir=DIR
    python benchmarks/accelerator_study.py --dataset=random --width=16 --batch_size=64 --steps=10 --rounds=3
    python benchmarks/accelerator_study.py --data_dir=DIR --study --study_minutes=500 --seeds=0,1,2

One process trains with tfprune, `fit` as a run calls it (JAX unless --backend says otherwise), one with plain
PyTorch (channels last, `torch.compile`, autocast, fused Adam with L2, masks on every convolution). Both
train ResNet-34 with the CIFAR stem on batches of the same input pipeline (`pipeline`), and on a few
batches that lie on the device already (`device`). They are asked in turn, round after round, so that what
else the machine does falls on both alike; a ratio is one of two figures of the same round. A round's first
batch is not timed. Without TensorFlow, which runs the input pipeline: --sources=device.

- images/s: median over the rounds, with the quartiles.
- share of peak: 3 x 2 x the network's multiply-accumulates (forward, and twice that backward; masks save
  nothing on dense hardware) x images/s, over the device's published dense peak for the precision.
- waited: the share of the time in which the host waited for the pipeline. The device may still have had work.

`--study` then runs the study: `python -m tfprune.bin.reproduce --profile=scratch` on the same backend and
precision, ended after --study_minutes; the same command goes on where it stopped.

On a machine that keeps nothing and takes files in small parts, make two folders and carry them over:

- packages: `python -m pip download --no-deps --only-binary=:all: --python-version 3.12 -d wheels` of keras,
  namex, optree, opencv-python-headless, tensorflow-cpu, tensorflow-datasets and what these need there;
  `split --bytes=60M` cuts a wheel into parts that `cat` joins again.
- data: DIR/cifar10 and DIR/cifar100, about 134 MB each, cut likewise. For the comparison alone
  --dataset=random needs none, and --sources=device no TensorFlow.

Commands that are limited in time: --rounds and --steps for the comparison (a minute or two at the defaults,
most of it compilation), --study_minutes for the study. Copy --output_dir back after each.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

FOLDER = Path(__file__).resolve().parent
REPOSITORY = FOLDER.parent
sys.path[:0] = [str(REPOSITORY), str(FOLDER)]

from accelerator_peaks import peak_flops  # noqa: E402
from accelerator_workers import Setting, serve  # noqa: E402

DATASET = flags.DEFINE_enum("dataset", "cifar10", ["cifar10", "cifar100", "random"], "Which images.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of the prepared datasets.")
BACKEND = flags.DEFINE_enum("backend", "jax", ["jax", "torch"], "tfprune's backend.")
WIDTH = flags.DEFINE_integer("width", 64, "Filters of the first stage.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images a step.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 150, "Timed steps a round.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds; one more, first, is not counted.", lower_bound=1)
PRECISION = flags.DEFINE_enum("precision", "bfloat16", ["bfloat16", "float32"], "Of the convolutions.")
SPARSITY = flags.DEFINE_float("sparsity", 0.95, "Of the masks.", lower_bound=0.0, upper_bound=0.999)
SOURCES = flags.DEFINE_list("sources", ["pipeline", "device"], "Where the batches come from.")
WORKERS = flags.DEFINE_list("workers", ["ours", "peer"], "What to time.")
COMPILED = flags.DEFINE_boolean("torch_compile", True, "Compile PyTorch's step.")
PEAK = flags.DEFINE_float("peak_tflops", 0.0, "The device's dense peak, where the table lacks it.")
STUDY = flags.DEFINE_boolean("study", False, "Run the study after the comparison.")
STUDY_MINUTES = flags.DEFINE_float("study_minutes", 0.0, "End the study after that; 0: when it is done.")
SEEDS = flags.DEFINE_string("seeds", "0", "Of the study.")
PROFILE = flags.DEFINE_string("profile", "scratch", "Of the study.")
OUTPUT_DIR = flags.DEFINE_string("output_dir", "saved_models/scratch", "Of the study.")
WORKER = flags.DEFINE_string("worker", "", "Internal: what this process is.")

SECONDS_TO_STOP = 60


class Worker:
    """A process that trains on request."""

    def __init__(self, name: str) -> None:
        environment = {
            "TF_CPP_MIN_LOG_LEVEL": "3",
            # Two processes share the device.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            # On a busy CPU, PyTorch's threads would wait for each other in busy loops.
            "OMP_WAIT_POLICY": "passive",
            "GOMP_SPINCOUNT": "0",
            **os.environ,
            "KERAS_BACKEND": BACKEND.value,
        }
        self._name = name
        self._process = subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], f"--worker={name}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.facts = self._answer()

    def _answer(self) -> Any:
        for line in self._process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise RuntimeError(f"The process {self._name!r} ended without an answer")

    def ask(self, source: str, number: int) -> dict[str, float | None]:
        """A round's figures."""
        print(source, number, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper one."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, middle, upper


def compare() -> None:
    """Runs the rounds and prints the table."""
    workers = {}
    for name in WORKERS.value:
        print(f"{name}: builds ...", flush=True)
        workers[name] = Worker(name)
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number in range(ROUNDS.value + 1):
        for source in SOURCES.value:
            for name, worker in workers.items():
                figures = worker.ask(source, number)
                if number:  # The first round compiles.
                    results.setdefault((source, name), []).append(figures)
        print(f"round {number} of {ROUNDS.value}", flush=True)
    for worker in workers.values():
        worker.close()
    facts = {name: worker.facts for name, worker in workers.items()}
    print(
        f"\nResNet-34, CIFAR stem, width {WIDTH.value}, batch {BATCH_SIZE.value}, {PRECISION.value}, "
        f"sparsity {SPARSITY.value}, data {DATASET.value}; {ROUNDS.value} rounds of {STEPS.value} steps"
    )
    report(results, facts)


def report(results: dict[tuple[str, str], list[dict[str, Any]]], facts: dict[str, Any]) -> None:
    """Prints each training's figures, then the ratios."""
    macs = facts["ours"]["macs"] if "ours" in facts else None
    for name, fact in facts.items():
        peak = PEAK.value * 1e12 or peak_flops(fact["device"], PRECISION.value)
        known = f"peak {peak / 1e12:,.1f} TFLOP/s" if peak else "no peak known, see --peak_tflops"
        print(f"{name}: {fact['name']} on {fact['device']}, {known}")
        fact["peak"] = peak
    for (source, name), rounds in results.items():
        lower, middle, upper = quartiles([figures["rate"] for figures in rounds])
        text = f"{source:9} {name:5} {middle:10,.1f} images/s ({lower:,.1f} to {upper:,.1f})"
        if macs and facts[name]["peak"]:
            text += f", {100 * 6 * macs * middle / facts[name]['peak']:.1f} % of peak"
        if source == "pipeline":
            text += f", waited {statistics.median(figures['wait'] for figures in rounds):.1f} % for data"
        print(text)
    for source in SOURCES.value:
        if (source, "ours") in results and (source, "peer") in results:
            both = zip(results[source, "ours"], results[source, "peer"], strict=True)
            lower, middle, upper = quartiles([ours["rate"] / peer["rate"] for ours, peer in both])
            print(f"{source:9} ours / PyTorch's images a second: {middle:.2f} ({lower:.2f} to {upper:.2f})")


def run_study() -> int:
    """Runs the study until it is done or its time is up; returns its exit status."""
    output = Path(OUTPUT_DIR.value).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tfprune.bin.reproduce", f"--profile={PROFILE.value}"]
    command += [f"--seeds={SEEDS.value}", f"--output_dir={output.absolute()}", f"--data_dir={DATA_DIR.value}"]
    if PRECISION.value == "bfloat16":
        extra = output / "precision.flags"
        extra.write_text("--mixed_precision=bfloat16\n", encoding="utf-8")
        command.append(f"--extra_flagfile={extra.absolute()}")
    print(" ".join(command), flush=True)
    process = subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, "KERAS_BACKEND": BACKEND.value})
    try:
        return process.wait(STUDY_MINUTES.value * 60 or None)
    except subprocess.TimeoutExpired:
        print(f"after {STUDY_MINUTES.value:g} minutes: stops; the same command goes on", flush=True)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()  # The run folder stands it.
            process.wait()
        return 0
    finally:
        for path in sorted(output.glob("*/round_*/result.json")):
            result = json.loads(path.read_text(encoding="utf-8"))
            print(
                f"{path.parent.parent.name} {path.parent.name}: accuracy {result['metric_at_end']:.2f} %, "
                f"{result['images_per_second']} images/s, waited {result.get('data_wait_percent')} % for data"
            )


def main(_: list[str]) -> None:
    """Runs what the flags ask for."""
    if WORKER.value:
        setting = Setting(
            dataset=DATASET.value,
            data_dir=DATA_DIR.value,
            width=WIDTH.value,
            batch_size=BATCH_SIZE.value,
            steps=STEPS.value,
            precision=PRECISION.value,
            sparsity=SPARSITY.value,
            compiled=COMPILED.value,
        )
        serve(WORKER.value, setting, lambda data: print("@" + json.dumps(data), flush=True), sys.stdin)
        return
    if WORKERS.value:
        compare()
    if STUDY.value:
        sys.exit(run_study())


if __name__ == "__main__":
    app.run(main)
