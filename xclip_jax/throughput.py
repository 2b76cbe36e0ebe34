"""How much of the machine a run uses: videos a second, FLOP/s against the peak, memory."""

import math

import jax

from xclip_jax import chips, flops, models, train_step


class Rates:
    """Turns steps a second into what can be compared between machines."""

    def __init__(self, config, sizes: dict):
        batch, devices = train_step.abstract_batch(config, sizes), jax.device_count()
        self.videos = batch["video"].shape[0] / devices
        self.peak = _peak(config.model.dtype)
        if self.peak:
            model = models.create(config.model.name, **sizes)
            self.flops = flops.train_step(*model, batch) / devices

    def of(self, steps_per_second: float) -> dict[str, float]:
        """Returns videos a second and chip and, where the chip's peak is known, the MFU."""
        rates = {"train/videos_per_second_per_chip": steps_per_second * self.videos}
        if self.peak:
            rates["train/mfu"] = steps_per_second * self.flops / self.peak
        return rates | memory()


def _peak(dtype: str) -> float:
    """Returns the FLOP/s of one device in the arithmetic of a run, 0 if unknown."""
    device = jax.devices()[0]
    if not (chip := chips.find(device.device_kind)):
        return 0.0
    precision = jax.config.jax_default_matmul_precision
    return chip.flops.get(chips.arithmetic(device, dtype, precision), 0.0)


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
