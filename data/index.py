"""Where the records of each split lie: one file a split, beside the shards of all videos."""

import os
import struct
from pathlib import Path

import numpy as np

VIDEOS = "videos"  # the one split that TFDS knows: every video once, whatever splits it is in


def write(folder: Path, splits: dict[str, dict[str, list[str]]], stored: dict[str, list[str]]):
    """Saves an index of each split into a folder of shards.

    Args:
        folder: where TFDS wrote the records.
        splits: split -> video id -> captions, in the order to be read in.
        stored: video id -> captions of its record, in the order of the records.
    """
    files = sorted(folder.glob(f"*-{VIDEOS}.tfrecord-*"))
    places = [(i, *place) for i, path in enumerate(files) for place in _places(path)]
    if len(places) != len(stored):
        raise RuntimeError(f"{len(places)} records written for {len(stored)} videos.")
    place_of = dict(zip(stored, places, strict=True))
    for split, members in splits.items():
        shard, offset, length = zip(*(place_of[video_id] for video_id in members), strict=True)
        caption = []
        for video_id, texts in members.items():
            number = {text: i for i, text in enumerate(stored[video_id])}
            caption += [number[text] for text in texts]
        np.savez(
            folder / f"index_{split}.npz",
            files=np.array([path.name for path in files]),
            shard=np.array(shard, np.int32),
            offset=np.array(offset, np.int64),
            length=np.array(length, np.int64),
            video_id=np.array(list(members)),
            captions=np.array([len(texts) for texts in members.values()], np.int32),
            caption=np.array(caption, np.int32),  # which of the record's, video after video
            stored=np.array([len(stored[video_id]) for video_id in members], np.int32),
        )


def _places(path: Path) -> list[tuple[int, int]]:
    """Returns the offset and length of each record in a TFRecord file."""
    found = []
    with open(path, "rb") as file:
        while header := file.read(8):
            found.append((file.tell() - 8, struct.unpack("<Q", header)[0]))
            file.seek(found[-1][1] + 8, os.SEEK_CUR)  # a checksum before the data, one behind
    return found
