"""How a thing is timed, and what every line that a benchmark prints holds."""

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable

import jax

from xclip_jax import chips


def timed(function: Callable, *args) -> tuple[object, float]:
    """Returns what the call returns, finished on the device, and the seconds it took."""
    start = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    return result, time.perf_counter() - start


def spread(values: list[float], digits: int = 6) -> dict[str, float | int]:
    """Returns median, minimum and maximum of the repeats, and how many they were."""
    middle = statistics.median(values)
    rounded = {"median": middle, "min": min(values), "max": max(values)}
    return {name: round(x, digits) for name, x in rounded.items()} | {"repeats": len(values)}


def report(benchmark: str, **values) -> None:
    """Prints one JSON line: what was measured, on what, and the values."""
    device = {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": len(usable_cores()),
        "jax": jax.__version__,
    }
    print(json.dumps({"benchmark": benchmark} | device | values), flush=True)


def arithmetic(dtype: str, precision: str) -> str:
    """Returns what matrices are multiplied in on this device: float32, bfloat16, tensorfloat32."""
    return chips.arithmetic(jax.devices()[0], dtype, precision)


def speed(flops: float, seconds: float, numbers: str) -> dict[str, float | str]:
    """Returns the achieved FLOP/s and, where the devices' peak is known, the share of it (MFU)."""
    chip = chips.find(jax.devices()[0].device_kind)
    peaks = chip.flops if chip else {}
    achieved = {"tflops_per_second": round(flops / seconds / 1e12, 4), "arithmetic": numbers}
    if numbers in peaks:
        share = flops / seconds / (peaks[numbers] * jax.device_count())
        achieved["mfu"] = round(share, 4)
    return achieved


def peak_memory() -> dict[str, float]:
    """Returns the GiB that the process has held at most, and the first device if it counts."""
    unit = 1 if sys.platform == "darwin" else 1024
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    peak = {"process_peak_gib": round(held / 2**30, 3)}
    if stats := jax.devices()[0].memory_stats():
        peak["device_peak_gib"] = round(stats["peak_bytes_in_use"] / 2**30, 3)
    return peak


def usable_cores() -> set[int]:
    """Returns the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
