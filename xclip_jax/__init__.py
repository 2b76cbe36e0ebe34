"""Text-video retrieval in JAX: X-CLIP and its relatives, trained, evaluated and used.

`xclip_jax.load(DIR)` gives a trained model. Importing the package is light: JAX comes with the
first use of what needs it.
"""

import os
from typing import TYPE_CHECKING

from xclip_jax.version import __version__

if TYPE_CHECKING:
    from xclip_jax.library import Model, load

# etils, through which Orbax reaches gs://, takes TensorFlow for it where that is installed: another
# login and other errors than those of the shards and the metrics. It decides at its first use.
os.environ.setdefault("EPATH_USE_TF", "false")

__all__ = ["Model", "__version__", "load"]


def __getattr__(name: str):
    if name in ("Model", "load"):
        from xclip_jax import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "Model", "load"])
