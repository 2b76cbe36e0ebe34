"""The TFDS builder that all data sets share: clips with decoded frames become TFRecord shards."""

import collections
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from xclip_jax.data import clips

POLICY = {
    "policy": "clip4clip_1fps",
    "short_side": 224,
}  # of a data set's own builder; `build` has its own


class ShardBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes clips in the order given, those handed over or those a data set's builder reads.

    A data set's own builder, for those who come by way of TFDS, overrides `read` and sets
    `MANUAL_DOWNLOAD_INSTRUCTIONS` and `pkg_dir_path`.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self, *, name: str = "", decoded: list[tuple[clips.Clip, Path]] | None = None, **kwargs
    ):
        self.name = name or self.name  # TFDS begins the files' names with it
        self.decoded = decoded
        super().__init__(**kwargs)

    def read(self, folder: Path) -> list[clips.Clip]:
        """Returns the clips that lie in TFDS's `manual_dir`."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "video_id": tfds.features.Text(),
            # Bytes of JPEG files, so that only the frames in use are decoded.
            "frames": tfds.features.Tensor(shape=(None,), dtype=np.object_),
            "timestamps": tfds.features.Tensor(shape=(None,), dtype=np.float32),
            "captions": tfds.features.Sequence(tfds.features.Text()),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Videos as JPEG frames with their timestamps and captions.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # twins are matched by order; training shuffles by itself
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        decoded = self.decoded
        if decoded is None:
            self._work = tempfile.TemporaryDirectory()  # lives as long as the builder
            decoded, _ = clips.decode(
                self.read(Path(dl_manager.manual_dir)), Path(self._work.name), **POLICY
            )
        splits = collections.defaultdict(list)
        for clip, path in decoded:
            splits[clip.split].append((clip, path))
        return {split: self._generate_examples(kept) for split, kept in splits.items()}

    def _generate_examples(
        self, decoded: list[tuple[clips.Clip, Path]]
    ) -> Iterator[tuple[int, dict]]:
        for i, (clip, path) in enumerate(tqdm(decoded, "write", unit="clip")):
            jpegs, timestamps = clips.load(path)
            example = {
                "video_id": clip.video_id,
                "frames": np.array(jpegs, dtype=np.object_),
                "timestamps": timestamps,
                "captions": list(clip.captions),
            }
            # Above 1 GB TFDS sorts by key in 1,000 buckets, by the first of the key's 128 bits:
            # keys 0, 1, 2, ... would all fall into one, and the whole split into memory.
            yield (i << 128) // len(decoded), example
