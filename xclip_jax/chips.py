"""What one device can do at most, with the source of every figure.

One table for the benchmarks, which divide by it, and for `xclip-jax plan`, which estimates from it.
"""

from typing import NamedTuple


class Chip(NamedTuple):
    """Peaks of one device of JAX, a chip or a part of one; None where nobody needs or publishes it.

    Attributes:
      flops: FLOP/s on dense matrices by arithmetic.
      hbm_gib: memory that a program can see, GiB.
      hbm_bytes: bytes/s to and from it.
      ici_bytes: bytes/s that the links to other chips of a slice carry, both directions together.
      ici_axes: dimensions of the torus that the links make.
      dcn_bytes: bytes/s of this device's share of its host's network, each direction.
      wraps: chips along an axis of a slice from which its ends are linked, as multiples.
      devices: how many devices JAX sees on a chip; clouds sell chips.
    """

    flops: dict[str, float]
    hbm_gib: float | None = None
    hbm_bytes: float | None = None
    ici_bytes: float | None = None
    ici_axes: int | None = None
    dcn_bytes: float | None = None
    wraps: int | None = None
    devices: int = 1


# float32 means true float32 (--precision highest); at the default precision a GPU multiplies
# float32 in tensorfloat32 and a TPU in one pass of bfloat16. NVIDIA: the data sheets of the SXM
# parts, halved where they count sparsity (H100 and H200 are one chip with two kinds of memory);
# B200 as on an HGX board, "Individual Blackwell GPU Specifications" of the Blackwell data sheet.
# Memory as CUDA reports it, less than on the sheet. NVLink: both directions, through a switch that
# joins all GPUs of a board, which counts as a ring.
_HOPPER = {"bfloat16": 989.4e12, "tensorfloat32": 494.7e12, "float32": 66.9e12}
_AMPERE = {"bfloat16": 312e12, "tensorfloat32": 156e12, "float32": 19.5e12}
_BLACKWELL = {"bfloat16": 2250e12, "tensorfloat32": 1100e12, "float32": 75e12}
# TPU: the tables of docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e and tpu7x. Compute: "Peak
# compute per chip (bf16)". ICI: "Bidirectional inter-chip interconnect (ICI) bandwidth (per chip)";
# for v4, whose page has none, six links of 50 GB/s a direction (Jouppi et al., arXiv 2304.01433).
# DCN: v5p "50 Gbps" and tpu7x "100 Gbps" a chip; v5e and v6e "Per-host NIC configuration" over the
# 8 chips of a host. Wraps: a slice of v5e or v6e is a torus along an axis of 16, of v4, v5p or
# tpu7x along those of 4, 8, 12 ... A chip of tpu7x is two devices, each with half of everything;
# the link between the two, faster than those between chips, is not counted.
_V4 = Chip({"bfloat16": 275e12}, 32, 1200e9, 600e9, 3, None, 4)
_V5E = Chip({"bfloat16": 197e12}, 16, 819e9, 400e9, 2, 3.125e9, 16)
_V5P = Chip({"bfloat16": 459e12}, 95, 2765e9, 1200e9, 3, 6.25e9, 4)
_V6E = Chip({"bfloat16": 918e12}, 32, 1638e9, 800e9, 2, 12.5e9, 16)
_TPU7X = Chip({"bfloat16": 2307e12 / 2}, 192 / 2, 7380e9 / 2, 1200e9 / 2, 3, 12.5e9 / 2, 4, 2)

# By the start of JAX's `device_kind`; the first that fits.
CHIPS = {
    "NVIDIA H200": Chip(_HOPPER, 139.8, 4.8e12, 900e9, 1, None, 1),
    "NVIDIA H100 80GB HBM3": Chip(_HOPPER, 79.1, 3.35e12, 900e9, 1, None, 1),
    "NVIDIA A100-SXM4-80GB": Chip(_AMPERE, 79.2, 2.039e12, 600e9, 1, None, 1),
    "NVIDIA A100": Chip(_AMPERE),
    "NVIDIA B200": Chip(_BLACKWELL, 178.3, 7.7e12, 1800e9, 1, None, 1),
    "TPU v4": _V4,
    "TPU v5 lite": _V5E,
    "TPU v5e": _V5E,
    "TPU v5": _V5P,  # what is "lite" was found above
    "TPU v6 lite": _V6E,
    "TPU v6e": _V6E,
    "TPU7x": _TPU7X,
}


def find(device_kind: str) -> Chip | None:
    """Returns the peaks of a device, or None where the table does not know it."""
    return next((CHIPS[name] for name in CHIPS if device_kind.startswith(name)), None)


def arithmetic(device, dtype: str, precision: str | None) -> str:
    """Returns what a device multiplies matrices of `dtype` in.

    `precision` is jax's matmul precision, which only float32 asks for: by default (None) a GPU
    takes tensorfloat32, from compute capability 8.0 on, and a TPU bfloat16.
    """
    if dtype != "float32" or device.platform not in ("gpu", "tpu"):
        return dtype
    if precision in ("highest", "float32"):
        return "float32"
    if precision not in (None, "default", "fastest", "bfloat16", "high", "tensorfloat32"):
        return precision
    if device.platform == "tpu":
        return "bfloat16_3x" if precision in ("high", "tensorfloat32") else "bfloat16"
    generation = getattr(device, "compute_capability", "8.0").partition(".")[0]
    return "tensorfloat32" if generation.isdigit() and int(generation) >= 8 else "float32"
