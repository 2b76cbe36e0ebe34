"""Meshes over the chips of every TPU generation, as libtpu describes them; no chip is needed.

Skipped without libtpu. Nothing is compiled here; test_plan_tpu.py compiles.
"""

import importlib.util
import os
import random

import numpy as np
import pytest

from xclip_jax import sharding
from xclip_jax.plan import topology

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install '.[plan]'"
)
ONE_SLICE = [
    *("v4:2x2x2", "v4:4x4x4", "v5e:2x2", "v5e:2x4", "v5e:4x4", "v5e:4x8", "v5e:8x8"),
    *("v5p:2x2x2", "v5p:2x2x4", "v5p:4x4x4", "v6e:2x4", "v6e:4x4", "v6e:8x8"),
    *("tpu7x:2x2x1", "tpu7x:2x2x2", "tpu7x:2x2x4", "tpu7x:2x4x4", "tpu7x:4x4x4"),
]
SLICES = ["v5e:4x4:2", "v6e:4x4:2", "v5p:2x2x2:3", "tpu7x:2x2x2:2"]


@pytest.fixture(scope="module")
def chips():
    """Returns a function from a topology's name to it."""
    before = dict(os.environ)
    topology.prepare([*ONE_SLICE, *SLICES])
    yield topology.get
    os.environ.clear()
    os.environ.update(before)


def divisors(count: int) -> list[int]:
    return [size for size in range(1, count + 1) if count % size == 0]


def are_neighbours(one, other) -> bool:
    """Two cores of a chip, or chips one link apart."""
    if getattr(one, "slice_index", 0) != getattr(other, "slice_index", 0):
        return False
    steps = sum(abs(a - b) for a, b in zip(one.coords, other.coords, strict=True))
    return steps == 1 or (steps == 0 and one.core_on_chip != other.core_on_chip)


def is_one_piece(group: list) -> bool:
    """Whether every device of the group reaches all others without leaving it."""
    reached, waiting = {group[0].id}, [group[0]]
    while waiting:
        at = waiting.pop()
        near = [d for d in group if d.id not in reached and are_neighbours(at, d)]
        reached |= {device.id for device in near}
        waiting += near
    return len(reached) == len(group)


@pytest.mark.parametrize("name", [*ONE_SLICE, *SLICES])
def test_every_divisor_of_a_slice_is_a_mesh_of_neighbours_in_any_order_of_the_devices(name, chips):
    devices = chips(name).devices
    slices = int(name.split(":")[2]) if name.count(":") == 2 else 1
    shuffled = random.Random(3).sample(devices, len(devices))

    for fsdp in divisors(len(devices) // slices):
        mesh = sharding.make_mesh(fsdp, devices)

        assert dict(mesh.shape) == {"data": len(devices) // fsdp, "fsdp": fsdp}
        assert sorted(d.id for d in mesh.devices.flat) == sorted(d.id for d in devices)
        assert all(is_one_piece(list(group)) for group in mesh.devices), fsdp
        np.testing.assert_array_equal(sharding.make_mesh(fsdp, shuffled).devices, mesh.devices)


def test_what_does_not_divide_is_refused_with_the_values_that_work(chips):
    with pytest.raises(ValueError) as refused:
        sharding.make_mesh(3, chips("v6e:4x4").devices)
    assert str(refused.value) == (
        "fsdp=3 does not divide the 16 devices: set config.fsdp to 1, 2, 4, 8 or 16."
    )
    with pytest.raises(ValueError, match=r"16 devices of a slice \(2 of them\): .* 1, 2, 4, 8 or"):
        sharding.make_mesh(32, chips("v5e:4x4:2").devices)


def test_the_two_devices_of_a_tpu7x_chip_share_a_parameter_first(chips):
    for one, other in sharding.make_mesh(2, chips("tpu7x:4x4x4").devices).devices:
        assert one.coords == other.coords and one.core_on_chip != other.core_on_chip


@pytest.mark.parametrize(
    ("name", "count", "devices", "memory"),
    [("tpu7x:2x2x2", 8, 16, 96), ("tpu7x:2x2x2:2", 16, 32, 96), ("v5p:2x2x2", 8, 8, 95)],
)
def test_chips_are_counted_as_clouds_sell_them(name, count, devices, memory, chips):
    machine = chips(name)

    assert (machine.chips, len(machine.devices), machine.room_gib) == (count, devices, memory)
