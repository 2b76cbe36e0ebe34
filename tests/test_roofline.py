"""The roofline's arithmetic, on chips made up for it."""

import pytest

from xclip_jax import chips
from xclip_jax.plan import gpus, roofline
from xclip_jax.plan.collectives import Collective, sent_bytes

CHIP = chips.Chip({"bfloat16": 100e12}, 16, 500e9, 400e9, 2, 2e9, 16)


def all_reduce(payload: int, *, group: int, times: int = 1, axes: str = "data") -> Collective:
    sent = times * sent_bytes("all-reduce", payload, group)
    return Collective("all-reduce", axes, group, payload, times, sent, "")


def test_each_resource_takes_its_amount_over_its_peak():
    spent = roofline.seconds(
        CHIP,
        (16, 16),
        arithmetic="bfloat16",
        flops=2e12,
        hbm_bytes=5e9,
        collectives=[all_reduce(10**9, group=4, times=2)],
    )

    assert spent.compute == pytest.approx(0.02)
    assert spent.hbm == pytest.approx(0.01)
    assert spent.ici == pytest.approx(2 * 2e9 * 3 / 4 / 200e9)  # 200 GB/s each way
    assert spent.dcn == 0
    assert spent.overlapped == 0.02 and spent.bound == "compute"
    assert spent.in_turn == pytest.approx(0.02 + spent.ici)


@pytest.mark.parametrize(
    ("shape", "speed"),
    [((16, 16), 200e9), ((8, 8), 100e9), ((8, 16), 150e9), ((16, 1), 100e9), ((2, 4), 100e9)],
    ids=str,
)
def test_only_axes_whose_ends_are_linked_are_whole_rings(shape, speed):
    assert roofline.ici_speed(CHIP, shape) == speed


def test_between_slices_it_is_the_network_that_counts():
    found = [all_reduce(10**6, group=2, times=3, axes="dcn"), all_reduce(10**6, group=32)]

    spent = roofline.seconds(
        CHIP, (4, 8), arithmetic="bfloat16", flops=0, hbm_bytes=0, collectives=found
    )

    assert spent.dcn == pytest.approx(3 * 1e6 / 2e9)
    assert spent.ici == pytest.approx(2 * 1e6 * 31 / 32 / 100e9)


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-gather", 60 * 4),
        ("all-reduce", 96),
        ("reduce-scatter", 48),
        ("all-to-all", 48),
        ("collective-permute", 60),
    ],
)
def test_a_ring_of_five_sends(kind, sent):
    assert sent_bytes(kind, 60, 5) == sent


def test_mfu_counts_what_the_model_asks_for():
    share = roofline.mfu(CHIP, arithmetic="bfloat16", flops=3e12, seconds=0.06)

    assert share == pytest.approx(0.5)


def test_every_chip_with_slices_has_all_figures_of_one():
    for name, chip in chips.CHIPS.items():
        if name.startswith("TPU"):
            assert None not in (chip.hbm_gib, chip.hbm_bytes, chip.ici_bytes, chip.wraps), name
    assert chips.find("TPU v5 lite") is chips.find("TPU v5e")
    assert chips.find("TPU v5").flops["bfloat16"] == 459e12
    assert chips.find("cpu") is None


def test_a_chip_of_tpu7x_is_two_devices_with_half_of_it_each():
    device = chips.find("TPU7x")

    assert device.devices == 2
    assert 2 * device.flops["bfloat16"] == 2307e12
    assert (2 * device.hbm_gib, 2 * device.hbm_bytes, 2 * device.ici_bytes) == (192, 7380e9, 1.2e12)


@pytest.mark.parametrize("gpu", gpus.GPUS.values(), ids=gpus.GPUS)
def test_every_gpu_that_can_be_planned_for_has_memory_links_and_all_arithmetic(gpu):
    chip = chips.find(gpu.kind)

    assert set(chip.flops) == {"bfloat16", "tensorfloat32", "float32"}
    assert chip.hbm_gib and chip.hbm_bytes
    # NVLink sends half of what the data sheet adds up, whatever the number of GPUs.
    assert roofline.ici_speed(chip, (8,)) == roofline.ici_speed(chip, (3,)) == chip.ici_bytes / 2
