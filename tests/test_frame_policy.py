"""Which frames are stored and which of them are used: the originals' rules, and what gives what."""

import numpy as np
import pytest
from rendered import number, render

from xclip_jax import frame_policy, video
from xclip_jax.frame_policy import Sampling, choose, divide, indices, parse, refusal, resample


def stored(name, frame_count, fps, **window):
    return indices(parse(name), frame_count, fps, **window).tolist()


@pytest.mark.parametrize(
    "frame_count, fps, window, expected",
    [
        (75, 25, {}, [0, 25, 50]),
        (76, 25, {}, [0, 25, 50, 75]),
        (50, 10, {"start": 1, "end": 3}, [10, 20, 30]),
        (20, 25, {}, [0]),
    ],
)
def test_one_frame_a_second_is_what_clip4clip_takes(frame_count, fps, window, expected):
    assert stored("clip4clip_1fps", frame_count, fps, **window) == expected


def test_a_uniform_policy_spreads_its_frames_over_the_clip_or_the_window():
    assert stored("uniform_4", 100, 25) == [0, 33, 66, 99]
    assert stored("uniform_3", 100, 25, start=1.0, end=2.2) == [25, 40, 55]
    assert stored("uniform_5", 3, 25) == [0, 1, 2]
    assert stored("uniform_5", 100, 25, start=9, end=12) == []


# What ffmpeg 9.0.2 writes with `-r 5`, read off numbered frames.
FFMPEG = {
    (76, 25): [0, 1, 4, 9, 14, 19, 24, 29, 34, 39, 44, 49, 54, 59, 64, 69, 74],
    (31, 12): [0, 1, 2, 4, 6, 9, 11, 14, 16, 18, 21, 23, 26, 28, 30],
    (9, 2): [0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 5, 5, 6, 6, 7, 7, 7, 8, 8],
    (11, 5): list(range(11)),
}


@pytest.mark.parametrize("frame_count, fps", FFMPEG)
def test_a_native_policy_takes_what_ffmpeg_would_write(frame_count, fps, tmp_path):
    path = render(tmp_path / "a.mp4", frame_count, fps=fps)

    images, times = video.read(path, policy="native_5fps", short_side=24)

    assert [number(image) for image in images] == FFMPEG[frame_count, fps]
    np.testing.assert_allclose(times, np.array(FFMPEG[frame_count, fps]) / fps, atol=1e-3)


def test_a_native_policy_keeps_to_the_seconds_of_a_window():
    times = np.arange(20) / 10

    whole = indices(parse("native_5fps"), 20, 10, times=times)
    window = indices(parse("native_5fps"), 20, 10, times=times, start=0.4, end=1)

    assert window.tolist() == whole[2:6].tolist()  # at 0.4, 0.6, 0.8 and 1 s of the output


def test_a_gap_in_a_files_times_is_filled_and_cannot_fill_the_memory():
    gap = resample(np.array([0, 0.1, 2.0, 2.1]), 5, last=0.1)
    endless = resample(np.array([0, 0.1, 1e9, 1e9 + 1]), 5, last=0.1)

    assert gap.tolist() == sorted(gap) and 9 <= len(gap) <= 13 and set(gap) <= {0, 1, 2, 3}
    assert len(endless) == frame_policy.MAX_TAKEN + 1


@pytest.mark.parametrize(
    "count, divisor, expected",
    [
        (50, 1, [0, 4, 8, 13, 17, 22, 26, 31, 35, 40, 44, 49]),
        (50, 2, [0, 4, 8, 12, 16, 20, 26, 30, 34, 38, 42, 49]),
        (7, 2, [0, 3, 6]),
    ],
)
def test_a_divisor_selects_the_frames_of_clip2video(count, divisor, expected):
    sampling = Sampling("native_5fps", divisor)

    assert choose(count, sampling, stored="native_5fps", most=12).tolist() == expected


def test_fewer_frames_than_the_divisor_are_none_in_the_original_and_one_here():
    assert divide(3, 4).tolist() == []
    assert choose(3, Sampling(divisor=4), stored="native_5fps", most=12).tolist() == [0]


def test_jitter_moves_frames_between_the_first_and_the_last_by_less_than_half_a_step():
    still = choose(200, Sampling(), stored="native_5fps", most=9)
    step = (still[1] - still[0]) // 2
    draws = [
        choose(
            200,
            Sampling(jitter=True),
            stored="native_5fps",
            most=9,
            rng=np.random.default_rng((1, i)),
        )
        for i in range(300)
    ]

    moves = np.stack(draws) - still
    assert (moves[:, [0, -1]] == 0).all()
    assert moves[:, 1:-1].min() == -step and moves[:, 1:-1].max() == step - 1
    assert (np.diff(np.stack(draws)) > 0).all()
    again = Sampling(jitter=True)
    rng = np.random.default_rng((1, 5))
    np.testing.assert_array_equal(
        draws[5], choose(200, again, stored="native_5fps", most=9, rng=rng)
    )


def test_frames_close_together_are_not_moved():
    jitter, rng = Sampling(jitter=True), np.random.default_rng(0)

    got = choose(40, jitter, stored="native_5fps", most=9, rng=rng)

    assert got.tolist() == choose(40, Sampling(), stored="native_5fps", most=9).tolist()


def test_the_order_is_kept_reversed_or_shuffled_after_the_choice():
    def ordered(order):
        rng = np.random.default_rng(3)
        return choose(30, Sampling(order=order), stored="", most=12, rng=rng).tolist()

    expected = [0, 2, 5, 7, 10, 13, 15, 18, 21, 23, 26, 29]
    assert ordered(0) == expected
    assert ordered(1) == expected[::-1]
    assert ordered(2) != expected and sorted(ordered(2)) == expected and ordered(2) == ordered(2)


@pytest.mark.parametrize("fps", [3, 7.5, 25, 29.97])
@pytest.mark.parametrize("rate", [1, 2, 3])
def test_more_frames_a_second_give_exactly_those_of_one(rate, fps):
    for frame_count in range(1, 95):
        many = stored(f"clip4clip_{rate}fps", frame_count, fps)

        kept = choose(
            len(many), Sampling("clip4clip_1fps"), stored=f"clip4clip_{rate}fps", most=10**6
        )

        assert [many[i] for i in kept] == stored("clip4clip_1fps", frame_count, fps)


@pytest.mark.parametrize(
    "have, want, can",
    [
        ("clip4clip_1fps", "", True),
        ("uniform_12", "uniform_12", True),
        ("clip4clip_4fps", "clip4clip_1fps", True),
        ("clip4clip_4fps", "clip4clip_2fps", False),
        ("clip4clip_0fps", "clip4clip_1fps", False),
        ("clip4clip_1fps", "clip4clip_2fps", False),
        ("native_5fps", "clip4clip_1fps", False),
        ("uniform_24", "uniform_12", False),
    ],
)
def test_shards_give_their_own_policy_and_one_frame_of_several_a_second(have, want, can):
    reason = refusal(have, want)

    assert (reason is None) == can
    assert can or (have in reason and want in reason and "\n" not in reason)


@pytest.mark.parametrize("name", ["", "uniform_0", "native_0fps", "clip4clip_1", "uniform_99999"])
def test_an_unknown_policy_is_named(name):
    with pytest.raises(ValueError, match=f"'{name}' is unknown.*clip4clip_1fps.*native_5fps"):
        parse(name)


def test_all_that_no_sampling_can_be_is_said():
    found = "\n".join(frame_policy.problems(Sampling("mine", 0, 3, 5)))

    for part in ("frame_policy", "'mine'", "frame_divisor=0", "slice_position=3", "order 5"):
        assert part in found
