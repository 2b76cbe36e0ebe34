"""How fast a compiled step can be at best: each of a chip's resources at its published peak.

An estimate. Nothing has run; kernels rarely reach the peaks, and transfers may hide behind compute
or not. So there are two ends: everything at once, and one after another.
"""

from collections.abc import Iterable
from typing import NamedTuple

from xclip_jax.chips import Chip
from xclip_jax.plan.collectives import Collective


class Seconds(NamedTuple):
    """What a program keeps each resource of a chip busy for."""

    compute: float
    hbm: float
    ici: float
    dcn: float

    @property
    def overlapped(self) -> float:
        """All of them busy at once: no program is faster."""
        return max(self)

    @property
    def in_turn(self) -> float:
        """Compute while memory is read, and every transfer waited for."""
        return max(self.compute, self.hbm) + self.ici + self.dcn

    @property
    def bound(self) -> str:
        """The resource that is busy longest."""
        return max(self._fields, key=lambda name: getattr(self, name))


def seconds(
    chip: Chip,
    shape: tuple[int, ...],
    *,
    arithmetic: str,
    flops: float,
    hbm_bytes: float,
    collectives: Iterable[Collective],
) -> Seconds:
    """Returns the time at the peaks; all amounts are those of one chip.

    Args:
      shape: chips along each axis of a slice.
      arithmetic: what matrices are multiplied in, a key of `chip.flops`.
    """
    collectives = list(collectives)
    outside = sum(one.sent for one in collectives if one.axes == "dcn")
    sent = sum(one.sent for one in collectives) - outside
    return Seconds(
        compute=flops / chip.flops[arithmetic],
        hbm=hbm_bytes / chip.hbm_bytes,
        ici=sent / ici_speed(chip, shape) if sent else 0.0,
        dcn=outside / chip.dcn_bytes if outside else 0.0,
    )


def ici_speed(chip: Chip, shape: tuple[int, ...]) -> float:
    """Returns the bytes/s that a chip can send when all of a slice take part.

    The published figure has both directions of all links. Along an axis whose ends are not linked
    a ring has to turn back, which halves it; an axis of one chip has no links.
    """
    each = chip.ici_bytes / 2 / chip.ici_axes
    whole = [1.0 if n % chip.wraps == 0 else 0.5 for n in shape if n > 1]
    return each * sum(whole) if whole else float("inf")


def mfu(chip: Chip, *, arithmetic: str, flops: float, seconds: float) -> float:
    """Returns the model's share of a chip's peak, of the operations that the model asks for."""
    return flops / seconds / chip.flops[arithmetic]
