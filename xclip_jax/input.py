"""From shards to batches of NumPy arrays: the training stream and one pass for evaluation.

Batch k is a pure function of (seed, k): it does not depend on the number of hosts or threads, and
resuming a run needs no more than the number of the next batch.
"""

from collections.abc import Iterator
from typing import NamedTuple

import grain
import jax
import numpy as np

from xclip_jax import frame_policy, frames
from xclip_jax.frame_policy import Sampling
from xclip_jax.records import Shards
from xclip_jax.tokenizer import Tokenizer

THREADS = 16


class Intake(NamedTuple):
    """What a model takes in: words a text, frames a video, pixels a side, and which frames.

    The last six are as `frame_policy.Sampling` has them; `frame_seed` shuffles in evaluation.
    """

    max_words: int
    max_frames: int
    image_size: int
    slice_position: int
    frame_policy: str = ""
    frame_divisor: int = 1
    frame_jitter: bool = False
    train_frame_order: int = 0
    eval_frame_order: int = 0
    frame_seed: int = 0

    @property
    def training(self) -> Sampling:
        """Which of a video's stored frames to train on."""
        return Sampling(
            self.frame_policy,
            self.frame_divisor,
            self.slice_position,
            self.train_frame_order,
            self.frame_jitter,
        )

    @property
    def evaluation(self) -> Sampling:
        """Which to evaluate on: nothing is drawn at random but an order that is to be shuffled."""
        return self.training._replace(order=self.eval_frame_order, jitter=False)


def stored_policy(shards: Shards, intake: Intake) -> str:
    """Returns the frame policy of shards; one ValueError where it cannot give what is asked."""
    stored = shards.manifest["frame_policy"]["name"]
    found = frame_policy.problems(intake.training) or frame_policy.problems(intake.evaluation)
    if not found and (reason := frame_policy.refusal(stored, intake.frame_policy)):
        found = [f"{shards.directory}: {reason}"]
    if found:
        raise ValueError("; ".join(found))
    return stored


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
    hosts, devices = jax.process_count(), jax.device_count()
    if batch_size % hosts or batch_size % devices:
        less = batch_size // devices * devices
        raise ValueError(
            f"batch_size={batch_size} cannot be spread over {devices} devices on {hosts} hosts: set"
            f" config.batch_size to a multiple of {devices}, such as"
            f" {f'{less} or ' if less else ''}{less + devices}."
        )

    stored = stored_policy(shards, intake)

    def load(example: tuple[int, np.ndarray]) -> dict[str, np.ndarray]:
        place, (video, caption) = example
        record = shards[int(video)]
        # What is drawn hangs on the example's place in the whole stream, not on host or thread.
        pixels, frame_mask = load_frames(
            record.frames,
            intake,
            intake.training,
            stored=stored,
            rng=np.random.default_rng((seed, place)),
        )
        tokens, token_mask = tokenizer([record.captions[int(caption)]], intake.max_words)
        return {
            "video": pixels,
            "frame_mask": frame_mask,
            "tokens": tokens[0],
            "token_mask": token_mask[0],
        }

    local = batch_size // hosts
    shuffled = grain.MapDataset.source(pairs(shards)).seed(seed).shuffle().repeat()

    def mine(index: int) -> tuple[int, np.ndarray]:
        """Returns this host's `index`-th pair and its place among all: hosts hold consecutive
        slices of a global batch."""
        batch, place = divmod(index, local)
        place += batch * batch_size + jax.process_index() * local
        return place, shuffled[place]

    # Examples, not batches, are prefetched: all threads work on the next batch, and what waits
    # in memory is about one batch.
    stream = grain.MapDataset.range(first * local, 2**60).map(mine).map(load)
    return iter(stream.to_iter_dataset(_read_options(local)).batch(local))


def videos(
    shards: Shards, intake: Intake, *, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
    """Yields each video once, in order: (pixels [B, F, H, W, 3], mask [B, F], captions).

    The last batch may be short; `captions` are those of the batch's videos, one after another. Of
    several hosts each reads its slice of every batch, and yields as many batches as the others.
    """
    mine = own_videos(len(shards), batch_size=batch_size)
    local = batch_size // jax.process_count()
    stored = stored_policy(shards, intake)

    def load(place: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        index = int(mine[place])
        record = shards[index]
        rng = np.random.default_rng((intake.frame_seed, index))
        pixels, mask = load_frames(record.frames, intake, intake.evaluation, stored=stored, rng=rng)
        return pixels, mask, record.captions

    def join(examples) -> tuple[np.ndarray, np.ndarray, list[str]]:
        pixels, masks, captions = zip(*examples, strict=True)
        return np.stack(pixels), np.stack(masks), [text for texts in captions for text in texts]

    yield from (
        grain.MapDataset.range(len(mine))
        .map(load)
        .to_iter_dataset(_read_options(local))
        .batch(local, batch_fn=join)
    )
    square = (intake.image_size, intake.image_size, 3)
    for _ in range(-(-len(mine) // local), -(-len(shards) // batch_size)):
        shape = (0, intake.max_frames)
        yield np.zeros(shape + square, np.uint8), np.zeros(shape, bool), []


def own_videos(count: int, *, batch_size: int, host: int | None = None) -> np.ndarray:
    """Returns the numbers of those of `count` videos that this host reads, or another one; the
    hosts' number must divide the batch."""
    hosts = jax.process_count()
    host = jax.process_index() if host is None else host
    places = np.arange(count)
    return places[places % batch_size // (batch_size // hosts) == host]


def load_frames(
    jpegs: list[bytes],
    intake: Intake,
    sampling: Sampling,
    *,
    stored: str,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels [F, H, W, 3] and the mask [F] of one video, decoding only what is used."""
    most = intake.max_frames
    chosen = frame_policy.choose(len(jpegs), sampling, stored=stored, most=most, rng=rng)
    return frames.stack([jpegs[j] for j in chosen], max_frames=most, size=intake.image_size)


def _read_options(batch_size: int) -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=max(batch_size, 2 * THREADS))
