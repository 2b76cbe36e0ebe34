"""`python -m xclip_jax` is `xclip-jax`."""

from xclip_jax.cli import main

main()
