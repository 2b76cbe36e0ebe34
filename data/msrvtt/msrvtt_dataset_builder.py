"""The way in for `tfds`; `xclip-jax build msrvtt` decodes in parallel, resumes, and skips clips."""

from pathlib import Path

from etils import epath

from xclip_jax.data import catalog
from xclip_jax.data.clips import Clip, of_benchmark
from xclip_jax.data.msrvtt import annotations
from xclip_jax.data.shard_builder import ShardBuilder


class Builder(ShardBuilder):
    """MSR-VTT, every clip once."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir/annotations: MSRVTT_data.json, MSRVTT_train.9k.csv, MSRVTT_train.7k.csv and
    MSRVTT_JSFUSION_test.csv, or CLIP4Clip's msrvtt_data.zip.
    manual_dir/videos: the clips as .mp4 or .webm, in any folders, named by their ids.
    Where to get them: data/msrvtt/README.md.
    """
    pkg_dir_path = epath.Path(__file__).parent

    def read(self, folder: Path) -> list[Clip]:
        """Returns every video of the benchmark once, from TFDS's `manual_dir`."""
        benchmark = annotations.read(folder / "annotations")
        return of_benchmark(benchmark, catalog.find(benchmark, folder / "videos"))
