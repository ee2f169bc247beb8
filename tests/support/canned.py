"""A measurement with round numbers, made by the benchmark's own functions from given seconds."""

from tfprune.benchmark.contenders import CONTENDERS
from tfprune.benchmark.measure import setting_record
from tfprune.timing import Timings

KINDS = {contender.timing.name: contender.timing.kind for contender in CONTENDERS}
TITLES = {contender.timing.name: contender.timing.title for contender in CONTENDERS}
# ONNX Runtime is the fastest dense one; by the ratios in the rounds tfprune is 4 times as fast, and 5 times
# as fast as TFLite.
SECONDS = {
    "tfprune": [0.010, 0.020, 0.010],
    "tflite_float32": [0.050, 0.100, 0.050],
    "tflite_int8": [0.025, 0.025, 0.050],
    "onnxruntime": [0.040, 0.080, 0.040],
}
FAILURES = {"pytorch": "failed: RuntimeError: no such kernel"}
ABSENT = {"mnn": "not installed (pip install onnx MNN)"}


def canned_record():
    names = [*SECONDS, *FAILURES, *ABSENT]
    kinds = {name: KINDS[name] for name in names}
    settings = [
        setting_record(threads, batch_size, Timings(SECONDS, {}), kinds, FAILURES)
        for threads in (1, 2)
        for batch_size in (1, 8)
    ]
    artifacts = [
        {"name": "model_float32.tflite", "raw": 40_000, "gzip": 8_000, "zstd": 5_000},
        {"name": "model.tfprune", "raw": 1_000, "gzip": 900, "zstd": 800},
    ]
    return {
        "machine": {"processor": "A processor", "architecture": "x86_64", "system": "Linux", "cores": 2},
        "versions": {"python": "3.11"},
        "plan": {},
        "inputs": [{"name": "", "dtype": "uint8", "shape": [32, 32, 3]}],
        "contenders": [
            {
                "name": name,
                "title": TITLES[name],
                "kind": KINDS[name],
                "reason": {**FAILURES, **ABSENT}.get(name, ""),
                "largest_logit_difference_relative": 1.5e-3 if name in SECONDS else None,
            }
            for name in names
        ],
        "latency": settings,
        "sizes": {"dense_weights_bytes": 40_000, "zstd_installed": True, "artifacts": artifacts},
        "memory": {
            "baseline_bytes": 30_000_000,
            "rows": [
                {
                    "name": "tfprune",
                    "peak_bytes": 50_000_000,
                    "above_baseline_bytes": 20_000_000,
                    "first_result_seconds": 0.5,
                    "failure": "",
                },
                {"name": "onnxruntime", "failure": "RuntimeError: its process failed: killed"},
            ],
        },
        "layers": [
            {
                "name": "conv1",
                "kernel": [3, 3, 16, 32],
                "output": [8, 8, 32],
                "sparsity": 0.95,
                "path": "sparse",
                "costs": {"sparse": 12.0, "dense": 99.0},
                "microseconds": 30.0,
                "share": 0.75,
                "dense_gflops": 19.7,
            },
            {
                "name": "Add x2",
                "kernel": [],
                "output": [],
                "sparsity": None,
                "path": "",
                "costs": {},
                "microseconds": 10.0,
                "share": 0.25,
                "dense_gflops": 0.0,
            },
        ],
    }
