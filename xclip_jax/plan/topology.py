"""Machines that are not here: "v5e:8x8", two slices of it "v5e:8x8:2", "h100:8", or "cpu:8".

A TPU's program is compiled by libtpu, which needs no TPU for it, and a GPU's by JAX's CUDA plugin
without a GPU. Nothing here starts a computation.
"""

import contextlib
import os
import re
import sys
from typing import NamedTuple

import jax
from jax.experimental import topologies

from xclip_jax import chips
from xclip_jax.plan import gpus

EXPECTED = (
    "expected a TPU like v5e:8x8, slices of it like v5e:8x8:2, GPUs like h100:8"
    f" ({', '.join(gpus.GPUS)}), hosts of them like h100:8:4, or fake devices like cpu:8"
)
FAKE = 2048  # XLA takes a CPU device of a higher number for one of another process
# v4 has two cores a chip that a program sees as one device only in this configuration.
_MEGACORE = {"v4": {"chip_config_name": "megacore"}}


class Topology(NamedTuple):
    """Chips to compile for.

    Attributes:
      name: as given.
      devices: JAX's, which can be compiled for and nothing else.
      chip: their peaks, None where none are known.
      shape: chips along each axis of a slice, (8, 8); GPUs of a host; None of fake CPU devices.
      slices: how many slices, joined by the data centre's network.
      hosts: of GPUs, how many hosts.
    """

    name: str
    devices: list[jax.Device]
    chip: chips.Chip | None
    shape: tuple[int, ...] | None
    slices: int
    hosts: int = 1

    @property
    def chips(self) -> int:
        """How many chips there are: JAX sees two devices on one of tpu7x."""
        return len(self.devices) // (self.chip.devices if self.chip else 1)

    @property
    def is_gpu(self) -> bool:
        return self.devices[0].platform == "gpu"

    @property
    def room_gib(self) -> float | None:
        """The memory of a device that a program of JAX can use, None where it is not known."""
        if self.chip is None or self.chip.hbm_gib is None:
            return None
        return self.chip.hbm_gib * (gpus.share() if self.is_gpu else 1)


def prepare(names: list[str]) -> None:
    """Sets what JAX and libtpu read when they start: to be called before the first device is asked
    for. Compiling needs no accelerator, so one that is here is left alone.

    Raises ValueError naming every topology that cannot be one.
    """
    parsed = {name: _parse(name) for name in names}
    if wrong := [name for name, parts in parsed.items() if parts is None]:
        raise ValueError(f"--topology {','.join(wrong)}: {EXPECTED} (to cpu:{FAKE}).")
    fake = max((parts[1][0] for parts in parsed.values() if parts[0] == "cpu"), default=0)
    flags = os.environ.get("XLA_FLAGS", "")
    given = re.search(r"host_platform_device_count=(\d+)", flags)
    if fake and (not given or int(given[1]) < fake):
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={fake}"
    jax.config.update("jax_platforms", "cpu")
    # No cloud machine to ask for what it is; and several of us may compile at a time.
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }.items():
        os.environ.setdefault(name, value)


def get(name: str) -> Topology:
    """Returns the machine of a name that `prepare` has seen."""
    kind, shape, slices = _parse(name)
    if kind == "cpu":
        devices = jax.devices("cpu")
        if len(devices) < shape[0]:
            raise ValueError(
                f"--topology {name}: this process has {len(devices)} fake devices already; set"
                f" XLA_FLAGS=--xla_force_host_platform_device_count={shape[0]}."
            )
        return Topology(name, devices[: shape[0]], None, None, 1)
    if kind in gpus.GPUS:
        try:
            devices = gpus.devices(kind, shape[0], slices)
        except ValueError as error:
            raise ValueError(f"--topology {name}: {error}") from None
        return Topology(name, devices, chips.find(gpus.GPUS[kind].kind), shape, 1, slices)
    options = dict(_MEGACORE.get(kind, {}))
    if shape[0] * shape[1] == 1:  # a part of a host, which has at least four
        options["chips_per_host_bounds"] = (1, 1, 1)
    if slices > 1:
        options["num_slices"] = slices
    text = f"{kind}:{'x'.join(map(str, shape))}"
    try:
        with _quiet():
            found = topologies.get_topology_desc(topology_name=text, platform="tpu", **options)
    except (jax.errors.JaxRuntimeError, RuntimeError, ImportError) as error:
        raise ValueError(f"--topology {name}: {_reason(error)}") from None
    chip = chips.find(found.devices[0].device_kind)
    if slices > 1 and chip and chip.dcn_bytes is None:
        raise ValueError(
            f"--topology {name}: how fast slices of {kind} reach each other is in no table; plan"
            " for one slice."
        )
    return Topology(name, list(found.devices), chip, shape, slices)


def _parse(name: str) -> tuple[str, tuple[int, ...], int] | None:
    """Returns the kind, the shape, and the number of slices or of GPUs' hosts."""
    fake = re.fullmatch(r"cpu:([1-9]\d{0,3})", name)
    if fake and int(fake[1]) <= FAKE:
        return "cpu", (int(fake[1]),), 1
    gpu = re.fullmatch(rf"({'|'.join(gpus.GPUS)}):([1-9]\d*)(?::([1-9]\d*))?", name)
    if gpu and int(gpu[2]) <= gpus.HOST:
        return gpu[1], (int(gpu[2]),), int(gpu[3] or 1)
    if tpu := re.fullmatch(r"((?:v|tpu)\d+\w*):(\d+(?:x\d+){1,2})(?::([1-9]\d*))?", name):
        return tpu[1], tuple(int(n) for n in tpu[2].split("x")), int(tpu[3] or 1)
    return None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "not installed" in text:
        return (
            "compiling for a TPU needs libtpu, for Linux on x86_64: pip install 'xclip_jax[plan]';"
            " cpu:N works without it."
        )
    return f"{text[:200]}; {EXPECTED}."


@contextlib.contextmanager
def _quiet():
    """Keeps libtpu from writing to stderr that this machine is no TPU."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
