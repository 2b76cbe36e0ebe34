"""The way in for `tfds`; `xclip-jax build vatex` decodes in parallel, resumes, and skips clips."""

from pathlib import Path

from etils import epath

from xclip_jax.data import catalog
from xclip_jax.data.clips import Clip, of_benchmark
from xclip_jax.data.shard_builder import ShardBuilder
from xclip_jax.data.vatex import annotations


class Builder(ShardBuilder):
    """VATEX, every clip once."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir/annotations: train_list.txt, val_list.txt, test_list.txt, test1k5_sec_list.txt,
    vatex_training_v1.0.json and vatex_validation_v1.0.json.
    manual_dir/videos: the clips, in any folders, named by their ids.
    Where to get them: data/vatex/README.md.
    """
    pkg_dir_path = epath.Path(__file__).parent

    def read(self, folder: Path) -> list[Clip]:
        """Returns every video of the benchmark once, from TFDS's `manual_dir`."""
        benchmark = annotations.read(folder / "annotations")
        return of_benchmark(benchmark, catalog.find(benchmark, folder / "videos"))
