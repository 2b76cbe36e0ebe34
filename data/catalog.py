"""The benchmarks by name: each has a folder here that reads its annotations and knows its files."""

import importlib
from pathlib import Path

from xclip_jax import remote
from xclip_jax.data import lookup
from xclip_jax.data.benchmark import Benchmark, videos
from xclip_jax.remote import RemotePath

NAMES = ("msrvtt", "msvd", "lsmdc", "didemo", "activitynet", "vatex")


def read(name: str, folder: str | Path) -> Benchmark:
    """Returns a benchmark as the annotation files in `folder` give it."""
    if name not in NAMES:
        raise ValueError(f"benchmark {name!r} is unknown: give one of {', '.join(NAMES)}.")
    with remote.local_folder(folder) as here:
        if not here.is_dir():
            raise FileNotFoundError(f"No folder of annotations {folder}.")
        return importlib.import_module(f"xclip_jax.data.{name}.annotations").read(here)


def find(benchmark: Benchmark, root: str | Path) -> dict[str, Path | RemotePath]:
    """Returns the file of each video that lies below `root`, a folder or the address of one."""
    return lookup.find(root, videos(benchmark), **lookup.RULES.get(benchmark.name, {}))
