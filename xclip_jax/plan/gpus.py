"""NVIDIA GPUs that are not here: what XLA must know of one to compile for it.

JAX's CUDA plugin is a compiler, too: given this description it needs no GPU, no driver and no CUDA.
It cannot time kernels to choose among them, as it does on a real GPU.
"""

import os
from typing import NamedTuple

import jax
from jax.experimental import topologies

from xclip_jax import chips

HOST = 8  # GPUs that NVLink joins, on NVIDIA's HGX boards
FRACTION = 0.75  # of a GPU's memory is what JAX takes unless it is told otherwise
NOTE = (
    "Read off the program that XLA makes for this GPU: memory, operations, traffic, transfers."
    " Estimated: times. Not counted: memory of cuBLAS, NCCL and CUDA; no kernel was tuned on a GPU."
)
MISSING = (
    "compiling for a GPU needs JAX's CUDA plugin, for Linux: pip install 'xclip_jax[plan-gpu]' (no"
    " GPU is needed); cpu:N works without it."
)


class Gpu(NamedTuple):
    """What XLA's choices depend on; memory and its speed are in `chips`.

    Attributes:
      kind: JAX's `device_kind`.
      capability: NVIDIA's compute capability, major and minor.
      cores: streaming multiprocessors.
      fpus: float32 units of each.
      shared: bytes of shared memory that a block can have; CUDA keeps 1 KiB more of each core's.
      l2: bytes of the second cache.
      clock: GHz at most.
    """

    kind: str
    capability: tuple[int, int]
    cores: int
    fpus: int
    shared: int
    l2: int
    clock: float


# The SXM parts, as CUDA's device query gives them; the same as in XLA's
# xla/backends/gpu/target_config/specs (h100_sxm, h200, a100_sxm_80, b200).
GPUS = {
    "a100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 166912, 41943040, 1.41),
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 232448, 52428800, 1.98),
    "h200": Gpu("NVIDIA H200", (9, 0), 132, 128, 232448, 52428800, 1.98),
    "b200": Gpu("NVIDIA B200", (10, 0), 148, 128, 232448, 132644864, 1.965),
}


def devices(name: str, count: int, hosts: int) -> list[jax.Device]:
    """Returns `count` GPUs on each of `hosts`, which can be compiled for and nothing else.

    Raises ValueError where JAX's CUDA plugin is not installed.
    """
    jax.devices("cpu")  # looks for plugins
    try:
        found = topologies.get_topology_desc(
            topology_name=f"{name}:{count}:{hosts}",
            platform="cuda",
            topology=f"1x{hosts}x{count}",
            target_config=_target(GPUS[name]),
        )
    except NotImplementedError:  # no plugin calls itself cuda
        raise ValueError(MISSING) from None
    return list(found.devices)


def share() -> float:
    """Returns the part of a GPU's memory that JAX takes, by the variables that it reads."""
    given = os.environ.get("XLA_CLIENT_MEM_FRACTION") or os.environ.get(
        "XLA_PYTHON_CLIENT_MEM_FRACTION"
    )
    return float(given) if given else FRACTION


def notes(memory_gib: float, hosts: int) -> list[str]:
    """Returns what a reader of the plan of such GPUs must know."""
    lines = [
        NOTE,
        f"JAX takes {share():.0%} of the {memory_gib:g} GiB of a GPU unless the run's environment"
        " has XLA_CLIENT_MEM_FRACTION, .95 say; set it here too.",
    ]
    if hosts > 1:
        lines.append("No times: how fast the hosts reach each other is in no table.")
    return lines


def _target(gpu: Gpu) -> str:
    """Returns XLA's GpuTargetConfigProto as text."""
    chip = chips.find(gpu.kind)
    major, minor = gpu.capability
    accelerated = "feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} {accelerated} }}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.fpus}
  clock_rate_ghz: {gpu.clock}
  device_memory_size: {int(chip.hbm_gib * 2**30)}
  memory_bandwidth: {int(chip.hbm_bytes)}
  l2_cache_size: {gpu.l2}
  shared_memory_per_block: {48 * 1024}
  shared_memory_per_block_optin: {gpu.shared}
  shared_memory_per_core: {gpu.shared + 1024}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 13 }}
device_description_str: "{gpu.kind}"
"""
