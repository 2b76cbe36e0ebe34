"""A benchmark as its annotation files give it, before any video is looked at.

Every reader in this folder returns one; `splits` of it share videos, whose frames are stored once.
"""

import collections
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Benchmark(NamedTuple):
    """Which videos a data set has, and which captions each has in every split.

    Attributes:
        name: of the data set.
        splits: split -> video id -> captions, both in the protocol's own order.
        official: split -> (videos, captions) of the published protocol; a split without a line
            here is never called official.
        windows: video id -> (start, end) in seconds, of those that are not used whole.
        notes: what the annotation files had that a user should know, a line each.
    """

    name: str
    splits: dict[str, dict[str, list[str]]]
    official: dict[str, tuple[int, int]]
    windows: Mapping[str, tuple[float, float]] = MappingProxyType({})
    notes: tuple[str, ...] = ()


def videos(benchmark: Benchmark) -> dict[str, list[str]]:
    """Returns every video of the benchmark once, with the captions of all its splits."""
    captions = collections.defaultdict(dict)
    for members in benchmark.splits.values():
        for video_id, texts in members.items():
            captions[video_id] |= dict.fromkeys(texts)
    return {video_id: list(texts) for video_id, texts in captions.items()}


def count(members: dict[str, list[str]]) -> tuple[int, int]:
    """Returns the number of videos and of captions of a split."""
    return len(members), sum(map(len, members.values()))


def standing(benchmark: Benchmark, split: str, present: dict[str, list[str]]) -> dict:
    """Returns a split's line of the manifest; complete is what the published protocol has."""
    official, (videos_there, captions_there) = benchmark.official.get(split), count(present)
    return {
        "official": official and list(official),
        "listed": len(benchmark.splits[split]),
        "present": videos_there,
        "captions": captions_there,
        "complete": official is not None and tuple(official) == (videos_there, captions_there),
    }
