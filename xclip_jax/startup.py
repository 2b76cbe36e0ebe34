"""Where the time before the first step goes, and what makes the next start quicker."""

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
