"""From shards to batches of NumPy arrays: the training stream and one pass for evaluation.

Batch k is a pure function of (seed, k): it does not depend on the number of hosts or threads, and
resuming a run needs no more than the number of the next batch.
"""

from collections.abc import Iterator
from typing import NamedTuple

import grain
import jax
import numpy as np

from xclip_jax import frames
from xclip_jax.records import Shards
from xclip_jax.tokenizer import Tokenizer

THREADS = 16


class Intake(NamedTuple):
    """What a model takes in: words a text, frames a video, pixels a side, which frames of more."""

    max_words: int
    max_frames: int
    image_size: int
    slice_position: int


def pairs(shards: Shards) -> np.ndarray:
    """Returns all (video, caption) index pairs, [N, 2]: the examples of one epoch."""
    counts = shards.captions_per_video
    videos = np.repeat(np.arange(len(counts)), counts)
    captions = np.concatenate([np.arange(count) for count in counts])
    return np.stack([videos, captions], axis=1)


def train(
    shards: Shards,
    tokenizer: Tokenizer,
    intake: Intake,
    *,
    batch_size: int,
    seed: int,
    first: int,
) -> grain.DatasetIterator:
    """Returns this host's endless stream of batches, shuffled anew each epoch.

    A batch holds `video` uint8 [B, F, H, W, 3], `frame_mask` bool [B, F], `tokens` int32 [B, W]
    and `token_mask` bool [B, W]. The first batch is number `first`.
    """
    hosts = jax.process_count()
    if batch_size % hosts or batch_size % jax.device_count():
        raise ValueError(
            f"batch_size={batch_size} cannot be spread over {jax.device_count()} devices on"
            f" {hosts} hosts: set config.batch_size to a multiple of {jax.device_count()}."
        )

    def load(pair: np.ndarray) -> dict[str, np.ndarray]:
        video, caption = (int(i) for i in pair)
        record = shards[video]
        pixels, frame_mask = load_frames(record.frames, intake)
        tokens, token_mask = tokenizer([record.captions[caption]], intake.max_words)
        return {
            "video": pixels,
            "frame_mask": frame_mask,
            "tokens": tokens[0],
            "token_mask": token_mask[0],
        }

    local = batch_size // hosts
    shuffled = grain.MapDataset.source(pairs(shards)).seed(seed).shuffle().repeat()

    def mine(index: int) -> np.ndarray:
        """Returns this host's `index`-th pair: hosts hold consecutive slices of a global batch."""
        batch, place = divmod(index, local)
        return shuffled[batch * batch_size + jax.process_index() * local + place]

    # Examples, not batches, are prefetched: all threads work on the next batch, and what waits
    # in memory is about one batch.
    stream = grain.MapDataset.range(first * local, 2**60).map(mine).map(load)
    return iter(stream.to_iter_dataset(_read_options(local)).batch(local))


def videos(
    shards: Shards, intake: Intake, *, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
    """Yields each video once, in order: (pixels [B, F, H, W, 3], mask [B, F], captions).

    The last batch may be short; `captions` are those of the batch's videos, one after another.
    """

    def load(index: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        record = shards[index]
        return *load_frames(record.frames, intake), record.captions

    def join(examples) -> tuple[np.ndarray, np.ndarray, list[str]]:
        pixels, masks, captions = zip(*examples, strict=True)
        return np.stack(pixels), np.stack(masks), [text for texts in captions for text in texts]

    yield from (
        grain.MapDataset.range(len(shards))
        .map(load)
        .to_iter_dataset(_read_options(batch_size))
        .batch(batch_size, batch_fn=join)
    )


def load_frames(jpegs: list[bytes], intake: Intake) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels [F, H, W, 3] and the mask [F] of one video, decoding only what is used."""
    return frames.stack(
        jpegs,
        max_frames=intake.max_frames,
        size=intake.image_size,
        position=intake.slice_position,
    )


def _read_options(batch_size: int) -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=max(batch_size, 2 * THREADS))
