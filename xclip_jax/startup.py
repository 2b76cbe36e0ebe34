"""Where the time before the first step goes, and what makes the next start quicker."""

import hashlib
import os
import time
from pathlib import Path

import jax

CACHE = "~/.cache/xclip_jax/compilation"
BUCKETS = ("gs://", "s3://")  # where jax can write
DETERMINISTIC = "--xla_gpu_deterministic_ops"


class Clock:
    """Splits the time since it was made into named parts, one after another."""

    def __init__(self):
        self.parts: dict[str, float] = {}
        self.since = time.perf_counter()

    def mark(self, name: str) -> None:
        """Gives the time since the last mark a name; equal names add up."""
        now = time.perf_counter()
        self.parts[name] = self.parts.get(name, 0.0) + now - self.since
        self.since = now

    def line(self) -> str:
        """Returns all parts for the screen."""
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.parts.items())
        return f"start-up {sum(self.parts.values()):.1f} s: {parts}"


def compute_the_same_bits() -> None:
    """Keeps XLA to GPU kernels that give the same bits at each run; to be called before jax has
    its devices. What XLA_FLAGS says of it goes first."""
    flags = os.environ.get("XLA_FLAGS", "")
    if DETERMINISTIC not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC}=true".strip()


def check_bits(config) -> None:
    """Raises ValueError where a config asks for the same bits and it is too late for that."""
    asked = config.get("deterministic", False) and jax.default_backend() == "gpu"
    if asked and DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""):
        raise ValueError(
            "config.deterministic=True takes effect only before jax has its devices: call"
            f" startup.compute_the_same_bits() first, or set XLA_FLAGS={DETERMINISTIC}=true."
        )


def keep_compilations(workdir: str = "") -> None:
    """Lets jax keep what it compiles, for the next start of this run or of one like it.

    That is in the home, or in a `workdir` in a bucket: the homes of a slice go with it. What
    JAX_COMPILATION_CACHE_DIR says goes first. On CPUs nothing is kept unless that is set: what
    was compiled for one machine may crash another that shares the home, and XLA only warns.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or jax.default_backend() == "cpu":
        return
    folder = str(Path(CACHE).expanduser())
    if workdir.startswith(BUCKETS):
        folder = f"{workdir.rstrip('/')}/compilation"
        # XLA's own cache of what is fastest on a GPU lies beside jax's, and knows no buckets.
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    jax.config.update("jax_compilation_cache_dir", folder)


def keep_compilations_of_this_cpu() -> None:
    """Lets jax keep what it compiles for a CPU too, apart for every kind of CPU and version.

    For commands that are over in seconds: half of a first search is compilation. Where the kind of
    CPU cannot be told, and where JAX_COMPILATION_CACHE_DIR says otherwise, this does nothing.
    """
    keep_compilations()
    told = Path("/proc/cpuinfo")
    named = "JAX_COMPILATION_CACHE_DIR" in os.environ
    if named or jax.default_backend() != "cpu" or not told.is_file():
        return
    # Flags decide which instructions XLA may use, the model how it tunes for them.
    facts = {
        line for line in told.read_text().splitlines() if line.startswith(("flags", "model name"))
    }
    kind = hashlib.sha256("\n".join([jax.__version__, *sorted(facts)]).encode()).hexdigest()[:16]
    jax.config.update("jax_compilation_cache_dir", str(Path(CACHE).expanduser() / f"cpu-{kind}"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
