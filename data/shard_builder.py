"""The TFDS builder that all data sets share: clips with decoded frames become TFRecord shards."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from xclip_jax.data import clips


class Example(NamedTuple):
    """A clip whose frames lie decoded in a file."""

    clip: clips.Clip
    frames: Path


def features() -> tfds.features.FeaturesDict:
    """Returns what a record holds; the frames stay JPEG bytes until those in use are decoded."""
    return tfds.features.FeaturesDict(
        {
            "video_id": tfds.features.Text(),
            "frames": tfds.features.Tensor(shape=(None,), dtype=np.object_),
            "timestamps": tfds.features.Tensor(shape=(None,), dtype=np.float32),
            "captions": tfds.features.Sequence(tfds.features.Text()),
        }
    )


class ShardBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes examples in the order given; `name` becomes the beginning of the files' names."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, name: str, examples: dict[str, list[Example]], **kwargs):
        self.name = name
        self.examples = examples
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Videos as JPEG frames, with their captions.",
            features=features(),
            disable_shuffling=True,  # twins are matched by order, and training shuffles itself
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        return {
            split: records(examples, len(examples)) for split, examples in self.examples.items()
        }

    def _generate_examples(self):
        raise NotImplementedError  # the split generators are generators already


def records(examples: Iterable[Example], count: int) -> Iterator[tuple[int, dict]]:
    """Yields (key, record) in order.

    TFDS sorts by key, in 1,000 buckets by the key's first digits once there is more than 1 GB.
    Keys 0, 1, 2, ... would all land in the first one, and the whole data set in memory.
    """
    for i, (clip, path) in enumerate(examples):
        jpegs, timestamps = clips.load(path)
        yield (
            (i << 128) // count,
            {
                "video_id": clip.video_id,
                "frames": np.array(jpegs, dtype=np.object_),
                "timestamps": timestamps,
                "captions": list(clip.captions),
            },
        )
