"""How fast, how large and how hungry for memory the exported files are, side by side.

- `contenders`: what is compared; `loaders`: how each runs; `onnx_peer`, `torch_peer`, `mnn_peer`: the same
  network for other runtimes.
- `timing`, `ratios`: interleaved rounds, and the ratios within them.
- `memory`: peak memory, a fresh process for each; `file_sizes`: raw, gzip and zstd bytes.
- `measure`: all of it, as one record; `report`, `csv_table`, `plot`: the record for people; `layers`: where
  the time of `model.tfprune` goes.

Imports nothing here: the processes whose memory is measured import this package.
"""
