"""From shards to batches of NumPy arrays: the training stream and one pass for evaluation.

Batch k is a pure function of (seed, k): it does not depend on the number of hosts or threads, and
resuming a run needs no more than the number of the next batch.
"""

from collections.abc import Iterator

import grain
import jax
import numpy as np

from xclip_jax import frames
from xclip_jax.records import Shards
from xclip_jax.tokenizer import Tokenizer

THREADS = 16
PREFETCH = 64  # examples decoded ahead; 64 of 12 frames of 224 pixels take 116 MB


def pairs(shards: Shards) -> np.ndarray:
    """Returns all (video, caption) index pairs, [N, 2]: the examples of one epoch."""
    counts = shards.captions_per_video
    videos = np.repeat(np.arange(len(counts)), counts)
    captions = np.concatenate([np.arange(count) for count in counts])
    return np.stack([videos, captions], axis=1)


def train(
    shards: Shards,
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    seed: int,
    max_words: int,
    max_frames: int,
    image_size: int,
    slice_position: int,
) -> grain.DatasetIterator:
    """Returns this host's endless stream of batches, shuffled anew each epoch.

    A batch holds `video` uint8 [B, F, H, W, 3], `frame_mask` bool [B, F], `tokens` int32 [B, W]
    and `token_mask` bool [B, W]. `set_state({"next_index": k})` makes batch k the next.
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
        pixels, frame_mask = frames.stack(
            record.frames, max_frames=max_frames, size=image_size, position=slice_position
        )
        tokens, token_mask = tokenizer([record.captions[caption]], max_words)
        return {
            "video": pixels,
            "frame_mask": frame_mask,
            "tokens": tokens[0],
            "token_mask": token_mask[0],
        }

    local = (
        grain.MapDataset.source(pairs(shards))
        .seed(seed)
        .shuffle()
        .repeat()
        .map(load)
        .batch(batch_size // hosts)[jax.process_index() :: hosts]
    )
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=PREFETCH)
    return iter(local.to_iter_dataset(options))


def videos(
    shards: Shards,
    *,
    batch_size: int,
    max_frames: int,
    image_size: int,
    slice_position: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
    """Yields each video once, in order: (pixels [B, F, H, W, 3], mask [B, F], captions).

    The last batch may be short; `captions` are those of the batch's videos, one after another.
    """

    def load(index: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        record = shards[index]
        pixels, mask = frames.stack(
            record.frames, max_frames=max_frames, size=image_size, position=slice_position
        )
        return pixels, mask, record.captions

    def join(examples) -> tuple[np.ndarray, np.ndarray, list[str]]:
        pixels, masks, captions = zip(*examples, strict=True)
        return np.stack(pixels), np.stack(masks), [text for texts in captions for text in texts]

    yield from (
        grain.MapDataset.range(len(shards))
        .map(load)
        .batch(batch_size, batch_fn=join)
        .to_iter_dataset(
            grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=2 * batch_size)
        )
    )
