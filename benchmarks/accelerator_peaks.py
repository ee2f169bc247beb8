"""Published peak rates of accelerators, for the share of peak."""

# Dense matrix rates in TFLOP/s from the makers' data sheets, of products with float32 sums: bfloat16, and
# float32 inputs as the frameworks compute them (TF32 on these GPUs). The first name found counts.
_PEAKS = (
    ("H200 NVL", 835.0, 417.5),
    ("H200", 989.5, 494.7),
    ("H100 NVL", 835.0, 417.5),
    ("H100 PCIe", 756.0, 378.0),
    ("H100", 989.5, 494.7),
    ("A100", 312.0, 156.0),
    ("L40S", 362.0, 183.0),
    ("L40", 181.0, 90.5),
    ("L4", 121.0, 60.0),
)


def peak_flops(device: str, precision: str) -> float | None:
    """Returns a device's dense peak in FLOP/s; None for one that is not in the table.

    Args:
        device: Its name as the driver tells it, `NVIDIA H200`.
        precision: "bfloat16" or "float32".
    """
    for name, bfloat16, float32 in _PEAKS:
        if name in device:
            return 1e12 * (bfloat16 if precision == "bfloat16" else float32)
    return None
