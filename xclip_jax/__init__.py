"""Text-video retrieval in JAX: X-CLIP and its relatives, trained, evaluated and used.

Importing the package is light; import the module you need, `xclip_jax.models` say.
"""

from xclip_jax.version import __version__

__all__ = ["__version__"]
