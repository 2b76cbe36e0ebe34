"""Training videos held out, to choose a checkpoint on where a data set's val is its test."""

import hashlib

import numpy as np

from xclip_jax.records import Record, Shards


class Part:
    """Some videos of a split, in its order; stands wherever a `Shards` does."""

    def __init__(self, shards: Shards, members: np.ndarray, split: str):
        self.directory, self.manifest, self.split = shards.directory, shards.manifest, split
        self.captions_per_video = shards.captions_per_video[members]
        self.video_ids = shards.video_ids[members]
        self._shards, self._members = shards, members

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, i: int) -> Record:
        return self._shards[int(self._members[i])]


def hold_out(shards: Shards, count: int, *, seed: int) -> tuple[Part, Part]:
    """Returns the split without `count` of its videos, and those videos.

    Which ones hangs on their ids and the seed alone: a video that is missing here moves one other
    at most, and no order of a build or version of NumPy plays a part.
    """
    if not 0 < count < len(shards):
        raise ValueError(
            f"config.data.held_out={count}: expected 1 or more, less than the {len(shards)} videos"
            f" of {shards.split}."
        )
    keys = [hashlib.sha256(f"{seed} {video}".encode()).digest() for video in shards.video_ids]
    out = np.zeros(len(shards), bool)
    out[sorted(range(len(keys)), key=keys.__getitem__)[:count]] = True
    return (
        Part(shards, np.flatnonzero(~out), shards.split),
        Part(shards, np.flatnonzero(out), f"{count} held out of {shards.split}"),
    )
