"""The way in for `tfds`; `xclip-jax build didemo` decodes in parallel, resumes, and skips clips."""

from pathlib import Path

from etils import epath

from xclip_jax.data import catalog
from xclip_jax.data.clips import Clip, of_benchmark
from xclip_jax.data.didemo import annotations
from xclip_jax.data.shard_builder import ShardBuilder


class Builder(ShardBuilder):
    """DiDeMo, the first half-minute of every video once."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir/annotations: {train,val,test}_list.txt and {train,val,test}_data.json.
    manual_dir/videos: the videos, in any folders, named by their ids, with .mp4 behind or in place
    of the suffix.
    Where to get them: data/didemo/README.md.
    """
    pkg_dir_path = epath.Path(__file__).parent

    def read(self, folder: Path) -> list[Clip]:
        """Returns every video of the benchmark once, from TFDS's `manual_dir`."""
        benchmark = annotations.read(folder / "annotations")
        return of_benchmark(benchmark, catalog.find(benchmark, folder / "videos"))
