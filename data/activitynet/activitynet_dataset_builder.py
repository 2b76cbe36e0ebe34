"""The way in for `tfds`; `xclip-jax build` decodes in parallel, resumes, and skips clips."""

from pathlib import Path

from etils import epath

from xclip_jax.data import catalog
from xclip_jax.data.activitynet import annotations
from xclip_jax.data.clips import Clip, of_benchmark
from xclip_jax.data.shard_builder import ShardBuilder


class Builder(ShardBuilder):
    """ActivityNet Captions, every video once."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir/annotations: train.json and val_1.json; for their order train_ids.json and
    val_ids.json.
    manual_dir/videos: the videos, in any folders, named by their ids, with or without v_.
    Where to get them: data/activitynet/README.md.
    """
    pkg_dir_path = epath.Path(__file__).parent

    def read(self, folder: Path) -> list[Clip]:
        """Returns every video of the benchmark once, from TFDS's `manual_dir`."""
        benchmark = annotations.read(folder / "annotations")
        return of_benchmark(benchmark, catalog.find(benchmark, folder / "videos"))
