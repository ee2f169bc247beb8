"""Latency, size and memory of the exported files, side by side with the same network in other runtimes.

- `contenders`: the files and the runtimes; `onnx_peer`, `torch_peer`, `mnn_peer`: the network for the latter.
- `timing`: interleaved rounds, and the ratios within them.
- `memory`: peak memory, a fresh process for each; `process`: contenders in processes of their own.
- `measure`: the whole measurement, as one record; `layers`: the time of each layer of `model.tfprune`.
- `report`, `files`, `plot`: the record for people.

Imports nothing here: the processes whose memory is measured import this package.
"""
