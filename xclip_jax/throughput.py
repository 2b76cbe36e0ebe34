"""How much of the machine a run uses: videos a second, FLOP/s against the peak, memory."""

import math

import jax

from xclip_jax import chips, flops


class Rates:
    """Turns steps a second into what can be compared between machines."""

    def __init__(self, config, sizes: dict):
        self.videos = config.batch_size / jax.device_count()
        self.flops = flops.train_step(sizes, config.batch_size) / jax.device_count()
        self.peak = _peak(config.model.dtype)
        # What is counted are the products of X-CLIP with a seqTransf, seqLSTM or meanP head.
        self.counted = config.model.name == "xclip"

    def of(self, steps_per_second: float) -> dict[str, float]:
        """Returns videos a second and chip and, where the chip's peak is known, the MFU."""
        rates = {"train/videos_per_second_per_chip": steps_per_second * self.videos}
        if self.peak and self.counted:
            rates["train/mfu"] = steps_per_second * self.flops / self.peak
        return rates | memory()


def _peak(dtype: str) -> float:
    """Returns the FLOP/s of one device in the arithmetic that jax uses by default, 0 if unknown."""
    device = jax.devices()[0]
    if not (chip := chips.find(device.device_kind)):
        return 0.0
    default = {"gpu": "tensorfloat32", "tpu": "bfloat16"}.get(device.platform, dtype)
    return chip.flops.get(default if dtype == "float32" else dtype, 0.0)


def memory() -> dict[str, float]:
    """Returns the share of its memory that the fullest device of this host has held at most."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    shares = [
        held["peak_bytes_in_use"] / held["bytes_limit"]
        for held in stats
        if held.get("bytes_limit") and "peak_bytes_in_use" in held
    ]
    return {"train/hbm_peak": max(shares)} if shares else {}


def words(values: dict[str, float]) -> str:
    """Returns the rates for the progress line."""
    text = f"{values['train/videos_per_second_per_chip']:.3g} videos/s/chip"
    if "train/mfu" in values:
        text += f"  MFU {values['train/mfu']:.1%}"
    if "train/hbm_peak" in values:
        text += f"  HBM {math.ceil(100 * values['train/hbm_peak'])}%"
    return text
