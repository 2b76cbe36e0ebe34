"""The way in for `tfds`; `xclip-jax build msvd` decodes in parallel, resumes, and skips clips."""

from pathlib import Path

from etils import epath

from xclip_jax.data import catalog
from xclip_jax.data.clips import Clip, of_benchmark
from xclip_jax.data.msvd import annotations
from xclip_jax.data.shard_builder import ShardBuilder


class Builder(ShardBuilder):
    """MSVD, every clip once."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir/annotations: train_list.txt, val_list.txt, test_list.txt and raw-captions.pkl, or
    CLIP4Clip's msvd_data.zip.
    manual_dir/videos: the clips as .avi or anything else, in any folders, named by their ids.
    Where to get them: data/msvd/README.md.
    """
    pkg_dir_path = epath.Path(__file__).parent

    def read(self, folder: Path) -> list[Clip]:
        """Returns every video of the benchmark once, from TFDS's `manual_dir`."""
        benchmark = annotations.read(folder / "annotations")
        return of_benchmark(benchmark, catalog.find(benchmark, folder / "videos"))
