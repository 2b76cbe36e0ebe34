"""The batches that training and evaluation read: what is in them, and in which order they come."""

import itertools
from collections import Counter

import numpy as np
import pytest

from xclip_jax import frames, input, tokenizer
from xclip_jax.records import Shards

PAIRS = 24 * 5  # the training clips of `shapes` and the captions of each
INTAKE = input.Intake(max_words=9, max_frames=3, image_size=32, slice_position=2)


@pytest.fixture(scope="module")
def train_shards(shapes):
    return Shards(shapes / "shards", "train")


@pytest.fixture(scope="module")
def words(shapes):
    return tokenizer.load(shapes / "shards" / "merges.txt")


def stream(shards, words, *, batch_size=8, seed=0, first=0, intake=INTAKE, **more):
    return input.train(shards, words, intake, batch_size=batch_size, seed=seed, first=first, **more)


def take(batches, count):
    return list(itertools.islice(batches, count))


def examples(batches):
    """Returns each example of some batches as bytes that tell it from all others."""
    return [
        (pixels.tobytes(), tokens.tobytes())
        for batch in batches
        for pixels, tokens in zip(batch["video"], batch["tokens"], strict=True)
    ]


def load(record, intake):
    rng = np.random.default_rng(0)
    return input.load_frames(record.frames, intake, intake.evaluation, stored="", rng=rng)


def expected_frames(record, indices, size=INTAKE.image_size):
    """Returns the frames of a record decoded and squared one at a time."""
    return [frames.to_square(frames.decode_jpeg(record.frames[i]), size) for i in indices]


def test_a_batch_has_the_shapes_and_dtypes_that_models_take(train_shards, words):
    [batch] = take(stream(train_shards, words), 1)

    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        "video": ((8, 3, 32, 32, 3), np.uint8),
        "frame_mask": ((8, 3), bool),
        "tokens": ((8, 9), np.int32),
        "token_mask": ((8, 9), bool),
    }


@pytest.mark.parametrize("first", [1, 17])  # within the first epoch of 15 batches, and after it
def test_a_stream_that_starts_at_k_gives_what_the_whole_one_gives_at_k(train_shards, words, first):
    whole = take(stream(train_shards, words), first + 2)
    later = take(stream(train_shards, words, first=first), 2)

    for one, other in zip(whole[first:], later, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_an_epoch_visits_every_pair_once_and_the_next_in_another_order(train_shards, words):
    batches = PAIRS // 8
    pairs = Counter(
        (np.stack(expected_frames(record, picked)).tobytes(), words([text], 9)[0].tobytes())
        for record in (train_shards[i] for i in range(len(train_shards)))
        for picked in [np.linspace(0, len(record.frames) - 1, 3, dtype=int)]
        for text in record.captions
    )

    seen = examples(take(stream(train_shards, words), 2 * batches))

    assert Counter(seen[:PAIRS]) == Counter(seen[PAIRS:]) == pairs
    assert pairs.total() == PAIRS
    assert seen[:PAIRS] != seen[PAIRS:]


def test_another_seed_gives_another_order(train_shards, words):
    one = examples(take(stream(train_shards, words, seed=0), 2))
    other = examples(take(stream(train_shards, words, seed=1), 2))

    assert one != other


# Which rows of a batch of 8 each of two hosts has: one after the other, and as TPUs have them.
HOSTS = {"in order": ([0, 1, 2, 3], [4, 5, 6, 7]), "interleaved": ([0, 3, 4, 6], [1, 2, 5, 7])}


@pytest.mark.parametrize("hosts", HOSTS.values(), ids=HOSTS)
def test_the_batches_of_two_hosts_make_the_batch_of_one(train_shards, words, hosts):
    whole = take(stream(train_shards, words), 2)

    shares = [take(stream(train_shards, words, rows=np.array(rows)), 2) for rows in hosts]

    for both, *parts in zip(whole, *shares, strict=True):
        for rows, part in zip(hosts, parts, strict=True):
            for name in both:
                np.testing.assert_array_equal(both[name][rows], part[name])


@pytest.mark.parametrize("captions", [1, 2])
def test_rows_after_the_last_pair_are_blank_and_change_no_other(train_shards, words, captions):
    class Counted:
        """The shards, and how many records were read."""

        def __init__(self):
            self.manifest, self.captions_per_video = (
                train_shards.manifest,
                train_shards.captions_per_video,
            )
            self.read = 0

        def __getitem__(self, i):
            self.read += 1
            return train_shards[i]

    more = {"batch_size": 6 * captions, "captions_per_video": captions, "first": 3}
    plain, shards = take(stream(train_shards, words, **more), 2), Counted()

    padded = take(stream(train_shards, words, rows=np.arange(4, 9), **more), 2)
    without = take(stream(shards, words, rows=np.array([6, 8]), **more), 1)

    for one, other in zip(padded, plain, strict=True):
        assert one.keys() == other.keys()
        assert (len(one["video"]), len(one["tokens"])) == (5, 5 * captions)
        for name in one:
            real = len(other[name]) // 6 * 2
            np.testing.assert_array_equal(one[name][:real], other[name][-real:])
        assert (one["frame_mask"].sum(1)[2:] == 1).all() and not one["video"][2:].any()
        assert (one["token_mask"].sum(1)[2 * captions :] == 2).all()  # both markers, no word
        assert one["tokens"].dtype == other["tokens"].dtype
    assert shards.read == 0 and without[0]["video"].shape[0] == 2


def test_a_host_without_videos_has_batches_of_the_same_shapes(train_shards):
    most, seen = max(len(record.frames) for record in train_shards), []
    intake = INTAKE._replace(max_frames=20, encoded_frames=most)
    for rows in (np.arange(24), np.arange(24, 48)):
        [batch] = input.videos(train_shards, intake, batch_size=48, rows=rows)
        numbers, pixels, mask, captions = batch
        seen.append((len(numbers), len(captions), pixels.shape[1:], mask.shape[1:]))

    shape = ((most, 32, 32, 3), (20,))
    assert seen == [(24, PAIRS, *shape), (0, 0, *shape)]


def test_shuffled_frames_do_not_depend_on_the_number_of_hosts(train_shards, words):
    intake = INTAKE._replace(train_frame_order=2, frame_jitter=True)
    (whole,) = take(stream(train_shards, words, intake=intake), 1)
    (still,) = take(stream(train_shards, words), 1)

    (high,) = take(stream(train_shards, words, intake=intake, rows=np.arange(4, 8)), 1)

    np.testing.assert_array_equal(whole["video"][4:], high["video"])
    assert (whole["video"] != still["video"]).any()


@pytest.mark.parametrize("name", ["train_frame_order", "eval_frame_order"])
def test_each_of_training_and_evaluation_has_its_own_order(train_shards, words, name):
    intake = INTAKE._replace(**{name: 1})

    (trained,) = take(stream(train_shards, words, intake=intake), 1)
    (plain,) = take(stream(train_shards, words), 1)
    seen = next(input.videos(train_shards, intake, batch_size=2))[1]
    usual = next(input.videos(train_shards, INTAKE, batch_size=2))[1]

    turned = (trained["video"], plain["video"]), (seen, usual)
    changed, kept = turned if name == "train_frame_order" else turned[::-1]
    np.testing.assert_array_equal(changed[0], changed[1][:, ::-1])
    np.testing.assert_array_equal(kept[0], kept[1])


def test_shards_that_cannot_give_the_policy_asked_for_are_refused(train_shards, words):
    intake = INTAKE._replace(frame_policy="native_5fps")
    expected = "hold frames of policy clip4clip_1fps, which cannot give native_5fps"

    with pytest.raises(ValueError, match=expected):
        stream(train_shards, words, intake=intake)
    with pytest.raises(ValueError, match=expected):
        next(input.videos(train_shards, intake, batch_size=2))
    with pytest.raises(ValueError, match=r"frame_divisor=0.*frame order 3"):
        stream(train_shards, words, intake=INTAKE._replace(frame_divisor=0, train_frame_order=3))


def test_padding_is_zero_and_masked(train_shards, words):
    intake = INTAKE._replace(max_frames=20, max_words=30)  # more than any clip or caption has
    lengths = {len(train_shards[i].frames) for i in range(len(train_shards))}

    [batch] = take(stream(train_shards, words, intake=intake), 1)

    assert set(batch["frame_mask"].sum(axis=1)) <= lengths
    for value, mask in (("video", "frame_mask"), ("tokens", "token_mask")):
        kept = batch[mask]
        assert (kept[:, :-1] >= kept[:, 1:]).all()  # padding comes last
        assert not kept.all(axis=1).any()
        assert not batch[value][~kept].any()
        assert batch[value][kept].any()


@pytest.mark.parametrize("position, picked", [(0, [0, 1, 2]), (1, [-3, -2, -1])])
def test_the_slice_position_says_which_frames_are_read(train_shards, position, picked):
    record = train_shards[4]

    pixels, mask = load(record, INTAKE._replace(slice_position=position))

    np.testing.assert_array_equal(pixels, expected_frames(record, picked))
    assert len(record.frames) > 3 and mask.all()


def test_videos_come_once_in_order_with_a_short_last_batch(shapes):
    shards = Shards(shapes / "shards", "test")
    records = [shards[i] for i in range(len(shards))]

    batches = list(input.videos(shards, INTAKE._replace(slice_position=0), batch_size=4))

    assert [numbers.tolist() for numbers, *_ in batches] == [[0, 1, 2, 3], [4, 5]]
    np.testing.assert_array_equal(
        np.concatenate([pixels for _, pixels, _, _ in batches]),
        [expected_frames(record, [0, 1, 2]) for record in records],
    )
    assert [text for *_, captions in batches for text in captions] == [
        text for record in records for text in record.captions
    ]


def test_frames_that_no_video_has_are_left_out(train_shards, words):
    intake = INTAKE._replace(max_frames=20)
    most = max(len(record.frames) for record in train_shards)

    [whole] = take(stream(train_shards, words, intake=intake), 1)
    [less] = take(stream(train_shards, words, intake=intake._replace(encoded_frames=most)), 1)

    assert most < 20 and whole["video"].shape[1] == 20 and less["video"].shape[1] == most
    np.testing.assert_array_equal(less["video"], whole["video"][:, :most])
    np.testing.assert_array_equal(less["frame_mask"], whole["frame_mask"])
    with pytest.raises(ValueError, match=rf"has {most} frames to encode, more than .*={most - 1}"):
        load(train_shards[0], intake._replace(encoded_frames=most - 1))


def test_a_video_brings_several_of_its_captions(train_shards, words):
    def epoch(seed, first=0):
        batches = input.train(
            train_shards,
            words,
            INTAKE,
            batch_size=16,
            seed=seed,
            first=first,
            captions_per_video=2,
        )
        return take(batches, 9 - first)  # 24 clips of 5 captions: 72 pairs of captions, 8 a batch

    batches = epoch(0)

    assert batches[0]["tokens"].shape == (16, 9) and batches[0]["video"].shape[0] == 8
    seen = Counter()
    for batch in batches:
        ids, tokens = batch["video_ids"], batch["tokens"].reshape(8, 2, 9)
        for video, pair, pixels in zip(ids, tokens, batch["video"], strict=True):
            record = train_shards[int(video)]
            captions, _ = words(record.captions, INTAKE.max_words)
            known = {row.tobytes() for row in captions}
            assert {row.tobytes() for row in pair} <= known
            np.testing.assert_array_equal(pixels, load(record, INTAKE)[0])
            seen.update((int(video), row.tobytes()) for row in pair)
    # Every caption comes once, and one of each clip twice, to make them even.
    for video, record in enumerate(train_shards):
        captions, _ = words(record.captions, INTAKE.max_words)
        once = Counter((video, row.tobytes()) for row in captions)
        more = Counter({key: n for key, n in seen.items() if key[0] == video}) - once
        assert more.total() == 1 and not once - seen
    for one, other in zip(batches[5:], epoch(0, first=5), strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert not np.array_equal(batches[0]["tokens"], epoch(1)[0]["tokens"])
