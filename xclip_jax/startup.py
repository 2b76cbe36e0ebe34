"""Where the time before the first step goes, and what makes the next start quicker."""

import hashlib
import os
import time
from pathlib import Path

import jax

CACHE = "~/.cache/xclip_jax/compilation"


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


def keep_compilations() -> None:
    """Lets jax keep what it compiles, for the next start of this run or of one like it.

    What JAX_COMPILATION_CACHE_DIR says goes first. On CPUs nothing is kept unless that is set: what
    was compiled for one machine may crash another that shares the home, and XLA only warns.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or jax.default_backend() == "cpu":
        return
    jax.config.update("jax_compilation_cache_dir", str(Path(CACHE).expanduser()))


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
