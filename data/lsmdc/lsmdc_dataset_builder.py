"""The way in for `tfds`; `xclip-jax build lsmdc` decodes in parallel, resumes, and skips clips."""

from pathlib import Path

from etils import epath

from xclip_jax.data import catalog
from xclip_jax.data.clips import Clip, of_benchmark
from xclip_jax.data.lsmdc import annotations
from xclip_jax.data.shard_builder import ShardBuilder


class Builder(ShardBuilder):
    """LSMDC 2016, every clip once."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir/annotations: LSMDC16_annos_training.csv, LSMDC16_annos_val.csv and
    LSMDC16_challenge_1000_publictect.csv.
    manual_dir/videos: the clips, in any folders, named by their ids.
    Where to get them: data/lsmdc/README.md.
    """
    pkg_dir_path = epath.Path(__file__).parent

    def read(self, folder: Path) -> list[Clip]:
        """Returns every video of the benchmark once, from TFDS's `manual_dir`."""
        benchmark = annotations.read(folder / "annotations")
        return of_benchmark(benchmark, catalog.find(benchmark, folder / "videos"))
