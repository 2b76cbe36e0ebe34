"""From shards to batches of NumPy arrays: the training stream and one pass for evaluation.

Batch k is a pure function of (seed, k): it does not depend on the number of hosts or threads, and
resuming a run needs no more than the number of the next batch.
"""

from collections.abc import Iterator
from typing import NamedTuple

import grain
import numpy as np

from xclip_jax import frame_policy, frames
from xclip_jax.frame_policy import Sampling
from xclip_jax.records import Shards
from xclip_jax.tokenizer import Tokenizer

THREADS = 16


class Intake(NamedTuple):
    """What a model takes in: words a text, frames a video, pixels a side, and which frames.

    Of `encoded_frames` it has pixels, where that is not 0: more frames no video may have. The six
    from `frame_policy` on are as `frame_policy.Sampling` has them; `frame_seed` shuffles in
    evaluation.
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
    encoded_frames: int = 0

    @property
    def encoded(self) -> int:
        """How many frames of a video there are pixels of."""
        return min(self.encoded_frames or self.max_frames, self.max_frames)

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


def examples(shards: Shards, captions: int = 1) -> np.ndarray:
    """Returns the (video, part of its captions) index pairs of one epoch, [N, 2], for `captions`
    in each part; the last one is filled up from the first."""
    counts = -(-shards.captions_per_video // captions)
    videos = np.repeat(np.arange(len(counts)), counts)
    parts = np.concatenate([np.arange(count) for count in counts])
    return np.stack([videos, parts], axis=1)


def train(
    shards: Shards,
    tokenizer: Tokenizer,
    intake: Intake,
    *,
    batch_size: int,
    seed: int,
    first: int,
    rows: np.ndarray | None = None,
    captions_per_video: int = 1,
    same_video_negatives: bool = True,
) -> grain.DatasetIterator:
    """Returns this host's endless stream of batches, shuffled anew each epoch.

    A batch holds `video` uint8 [B, K, H, W, 3], `frame_mask` bool [B, F], `tokens` int32 [B, W]
    and `token_mask` bool [B, W]. The first batch is number `first`. With
    several hosts, this one has the `rows` of every batch's videos, ascending: those that lie on its
    devices, so that the global batch is the same for any number and order of devices. Rows from the
    number of videos on pad the batch: a black frame and a text without words, which nothing reads.

    With `captions_per_video` C a batch has B / C videos and C captions of each, one after another,
    drawn anew each epoch. `video_ids` int32 [B / C] then tells whether two are one video by chance;
    so it does where `same_video_negatives` is False.
    """
    stored = stored_policy(shards, intake)
    videos = batch_size // captions_per_video
    rows = np.arange(videos) if rows is None else rows
    with_ids = captions_per_video > 1 or not same_video_negatives
    listed = examples(shards, captions_per_video)
    shuffled = grain.MapDataset.source(listed).seed(seed).shuffle().repeat()

    def load(index: int) -> dict[str, np.ndarray]:
        """Returns this host's `index`-th video and captions, counted from the first batch."""
        batch, i = divmod(index, len(rows))
        if rows[i] >= videos:
            return blank
        place = batch * videos + int(rows[i])
        video, part = shuffled[place]
        record = shards[int(video)]
        chosen = [int(part)]
        if captions_per_video > 1:
            epoch = place // len(listed)
            order = np.random.default_rng((seed, epoch, int(video))).permutation(
                len(record.captions)
            )
            order = np.resize(order, len(order) + -len(order) % captions_per_video)
            chosen = order.reshape(-1, captions_per_video)[part]
        # What is drawn hangs on the example's place in the whole stream, not on host or thread.
        pixels, frame_mask = load_frames(
            record.frames,
            intake,
            intake.training,
            stored=stored,
            rng=np.random.default_rng((seed, place)),
        )
        tokens, token_mask = tokenizer([record.captions[i] for i in chosen], intake.max_words)
        loaded = {
            "video": pixels[None],
            "frame_mask": frame_mask[None],
            "tokens": tokens,
            "token_mask": token_mask,
        }
        if with_ids:
            loaded["video_ids"] = np.array([video], np.int32)
        return loaded

    blank = _blank(tokenizer, intake, captions_per_video)
    if with_ids:
        blank["video_ids"] = np.array([-1], np.int32)

    def join(loaded: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: np.concatenate([one[name] for one in loaded]) for name in loaded[0]}

    # Examples, not batches, are prefetched: all threads work on the next batch, and what waits
    # in memory is about one batch.
    stream = grain.MapDataset.range(first * len(rows), 2**60).map(load)
    stream = stream.to_iter_dataset(_read_options(len(rows)))
    return iter(stream.batch(len(rows), batch_fn=join))


def videos(
    shards: Shards, intake: Intake, *, batch_size: int, rows: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]]:
    """Yields each video once, in order: (numbers int32 [R], pixels [R, K, H, W, 3], mask [R, F],
    captions).

    With several hosts, each reads only the `rows` of every batch that are its own, ascending, and
    yields as many batches as the others. Of the last batch some or all may be missing; `captions`
    are those of the batch's videos, one after another.
    """
    rows = np.arange(batch_size) if rows is None else rows
    mine = own_videos(len(shards), batch_size=batch_size, rows=rows)
    stored = stored_policy(shards, intake)

    def load(place: int) -> tuple[int, np.ndarray, np.ndarray, list[str]]:
        index = int(mine[place])
        record = shards[index]
        rng = np.random.default_rng((intake.frame_seed, index))
        pixels, mask = load_frames(record.frames, intake, intake.evaluation, stored=stored, rng=rng)
        return index, pixels, mask, record.captions

    def join(examples) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        numbers, pixels, masks, captions = zip(*examples, strict=True)
        texts = [text for own in captions for text in own]
        return np.array(numbers, np.int32), np.stack(pixels), np.stack(masks), texts

    yield from (
        grain.MapDataset.range(len(mine))
        .map(load)
        .to_iter_dataset(_read_options(len(rows)))
        .batch(len(rows), batch_fn=join)
    )
    square = (intake.image_size, intake.image_size, 3)
    for _ in range(-(-len(mine) // len(rows)), -(-len(shards) // batch_size)):
        pixels = np.zeros((0, intake.encoded, *square), np.uint8)
        yield np.zeros(0, np.int32), pixels, np.zeros((0, intake.max_frames), bool), []


def own_videos(count: int, *, batch_size: int, rows: np.ndarray) -> np.ndarray:
    """Returns the numbers of those of `count` videos that a host reads which has these rows of
    every batch."""
    numbers = np.arange(count)
    return numbers[np.isin(numbers % batch_size, rows)]


def load_frames(
    jpegs: list[bytes],
    intake: Intake,
    sampling: Sampling,
    *,
    stored: str,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels [K, H, W, 3] and the mask [F] of one video, decoding only what is used.

    K is F, or the intake's `encoded_frames`.
    """
    most = intake.max_frames
    chosen = frame_policy.choose(len(jpegs), sampling, stored=stored, most=most, rng=rng)
    encoded = intake.encoded
    if len(chosen) > encoded:
        raise ValueError(
            f"a video has {len(chosen)} frames to encode, more than config.data.encoded_frames="
            f"{encoded}: set it to {most}, the model's max_frames."
        )
    chosen_jpegs = [jpegs[j] for j in chosen]
    pixels, mask = frames.stack(chosen_jpegs, max_frames=encoded, size=intake.image_size)
    return pixels, np.pad(mask, (0, most - encoded))


def _blank(tokenizer: Tokenizer, intake: Intake, captions: int) -> dict[str, np.ndarray]:
    """Returns what pads a batch. Its features are finite and none is zero, so that no gradient is
    NaN, which a loss that ignores them would not stop."""
    tokens, token_mask = tokenizer([""] * captions, intake.max_words)
    return {
        "video": np.zeros((1, intake.encoded, intake.image_size, intake.image_size, 3), np.uint8),
        "frame_mask": np.arange(intake.max_frames)[None] < 1,
        "tokens": tokens,
        "token_mask": token_mask,
    }


def _read_options(batch_size: int) -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=max(batch_size, 2 * THREADS))
