"""Sampling tables of SPEC 10.2, pixels of 10.3, JPEG."""

import io

import numpy as np
import pytest
from PIL import Image

from xclip_jax import frames


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    "frame_count, fps, window, expected",
    [
        (75, 25, (None, None), [0, 25, 50]),
        (76, 25, (None, None), [0, 25, 50, 75]),
        (90, 3, (None, None), list(range(0, 90, 3))),
        (1200, 30, (0, 31), list(range(0, 960, 30))),
        (50, 10, (1, 3), [10, 20, 30]),
        (20, 25, (None, None), [0]),
        (60, 29.97, (None, None), [0, 29, 58]),
        (50, 10, (4, 4), [40]),
        (50, 10, (9, 12), []),
        (0, 10, (None, None), []),
    ],
)
def test_one_frame_a_second_is_sampled_as_the_originals_do(frame_count, fps, window, expected):
    got = frames.second_indices(frame_count, fps, start=window[0], end=window[1])

    assert got.tolist() == expected


def original_indices(frame_count, fps, rate, start, end):
    """The originals' loop, with a read that fails past the end."""
    fps, indices = int(fps), []
    duration = (frame_count + fps - 1) // fps
    first, last = (0, duration) if start is None else (start, min(end, duration))
    interval = fps // rate if fps // rate > 0 else 1
    offsets = np.arange(0, fps, interval)[:rate]
    for second in np.arange(first, last + 1):
        for offset in offsets:
            if second * fps + offset >= frame_count:
                return indices
            indices.append(int(second * fps + offset))
    return indices


def test_any_rate_and_window_samples_what_the_original_loop_reads():
    rng = np.random.default_rng(1)
    for _ in range(300):
        fps = float(rng.uniform(1, 61))
        rate = int(rng.integers(1, int(fps) + 1))
        frame_count = int(rng.integers(1, 400))
        start, end = sorted(int(second) for second in rng.integers(0, 12, 2))
        start, end = (None, None) if rng.random() < 0.5 else (start, end)

        got = frames.second_indices(frame_count, fps, rate=rate, start=start, end=end)

        assert got.tolist() == original_indices(frame_count, fps, rate, start, end)


def test_rate_zero_takes_every_frame():
    assert frames.second_indices(31, 12.5, rate=0).tolist() == list(range(31))


def test_a_window_in_fractions_of_a_second_is_widened():
    got = frames.second_indices(500, 10, start=1.9, end=3.2)

    assert got.tolist() == [10, 20, 30, 40]


@pytest.mark.parametrize(
    "fps, settings, message",
    [
        (0.5, {}, "fps=0.5"),
        (4.9, {"rate": 5}, "rate=5 frames a second wanted, but the clip has 4"),
        (25, {"rate": -1}, "rate=-1"),
        (25, {"start": -2.0}, "start=-2"),
    ],
)
def test_impossible_sampling_says_what_to_change(fps, settings, message):
    with pytest.raises(ValueError, match=message):
        frames.second_indices(100, fps, **settings)


@pytest.mark.parametrize(
    "count, max_frames, position, expected",
    [
        (30, 12, 2, [0, 2, 5, 7, 10, 13, 15, 18, 21, 23, 26, 29]),
        (13, 12, 2, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12]),
        (12, 12, 2, list(range(12))),
        (30, 3, 0, [0, 1, 2]),
        (30, 3, 1, [27, 28, 29]),
        (5, 12, 1, [0, 1, 2, 3, 4]),
        (5, 1, 2, [0]),
        (0, 12, 2, []),
    ],
)
def test_frames_are_chosen_as_the_originals_do(count, max_frames, position, expected):
    assert frames.choose(count, max_frames, position=position).tolist() == expected


def test_an_unknown_position_says_what_there_is():
    with pytest.raises(ValueError, match="position=3: give 0"):
        frames.choose(30, 12, position=3)


@pytest.mark.parametrize(
    "size, resized",
    [((640, 360), (398, 224)), ((360, 641), (224, 398)), ((224, 300), (224, 300)), ((7, 7), None)],
)
def test_the_shorter_side_gets_the_size_and_the_longer_is_truncated(size, resized):
    got = frames.resize_short_side(noise(*size), 224)

    assert got.size == (resized or (224, 224))


@pytest.mark.parametrize("longer, left", [(297, 36), (299, 38), (298, 37)])
def test_half_pixels_of_the_crop_round_to_even(longer, left):
    wide, tall = noise(longer, 224), noise(224, longer)

    got_wide, got_tall = frames.center_crop(wide, 224), frames.center_crop(tall, 224)

    np.testing.assert_array_equal(got_wide, np.asarray(wide)[:, left : left + 224])
    np.testing.assert_array_equal(got_tall, np.asarray(tall)[left : left + 224])


def test_a_grey_image_becomes_three_equal_channels():
    pixels = frames.to_square(noise(50, 40).convert("L"), 32)

    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_the_seven_reference_images_give_clips_input_exactly(shared):
    folder = shared / "data/reference/clip-golden/clip-retrieval"
    golden = np.load(folder / "clip_retrieval_7images.npz")

    assert len(golden["names"]) == 7
    for name, expected in zip(golden["names"], golden["image_tensor"], strict=True):
        image = Image.open(folder / "images" / f"{name}.jpg").convert("RGB")
        scaled = frames.to_square(image, 224).astype(np.float32) / np.float32(255)
        got = (scaled - frames.MEAN) / frames.STD

        np.testing.assert_array_equal(got.transpose(2, 0, 1), expected)


def smooth(width, height):
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)]
    return Image.fromarray(np.uint8(127 + 120 * np.stack(waves, -1)))


@pytest.mark.parametrize("make", [smooth, noise])
@pytest.mark.parametrize("size", [(310, 224), (17, 33), (8, 1)])
def test_jpegs_decode_to_pillows_pixels_exactly(make, size):
    for settings in ({"subsampling": 0}, {"subsampling": 2}, {"progressive": True}):
        data = io.BytesIO()
        make(*size).save(data, "JPEG", quality=80, **settings)

        got = frames.decode_jpeg(data.getvalue())

        np.testing.assert_array_equal(got, Image.open(data))


def test_a_jpeg_is_close_to_its_image():
    image = smooth(310, 224)

    got = frames.decode_jpeg(frames.encode_jpeg(image))

    assert got.mode == "RGB" and got.size == image.size
    error = np.asarray(got, np.float32) - np.asarray(image, np.float32)
    assert np.sqrt((error**2).mean()) < 2  # of 255; measured 1.2


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-900], lambda data: b"", lambda data: b"GIF"]
)
def test_broken_jpeg_bytes_are_an_error_of_one_line(damage):
    data = frames.encode_jpeg(smooth(64, 48))

    with pytest.raises(ValueError, match="Not a whole JPEG image"):
        frames.decode_jpeg(damage(data))


def test_a_stack_holds_the_chosen_frames_then_zeros():
    jpegs = [frames.encode_jpeg(Image.new("RGB", (60, 40), (20 * i, 0, 0))) for i in range(5)]

    pixels, mask = frames.stack(jpegs, max_frames=7, size=32)

    assert pixels.shape == (7, 32, 32, 3) and pixels.dtype == np.uint8
    assert mask.tolist() == [True] * 5 + [False] * 2
    np.testing.assert_allclose(pixels[:5, 16, 16, 0], np.arange(5) * 20, atol=2)
    assert not pixels[5:].any()


@pytest.mark.parametrize("shape", [(80, 45), (45, 81), (47, 46), (41, 53)])
def test_a_stack_squares_each_frame_as_an_image_is_squared(shape):
    jpegs = [frames.encode_jpeg(smooth(*shape)), frames.encode_jpeg(noise(*shape))]

    for size in (min(shape), 32):
        pixels, _ = frames.stack(jpegs, max_frames=2, size=size)

        for got, data in zip(pixels, jpegs, strict=True):
            np.testing.assert_array_equal(got, frames.to_square(Image.open(io.BytesIO(data)), size))


def test_only_the_chosen_frames_are_decoded():
    whole = frames.encode_jpeg(Image.new("RGB", (60, 40), (200, 0, 0)))

    pixels, mask = frames.stack([whole, b"broken", whole], max_frames=2, size=32)

    assert mask.all() and (pixels[:, 16, 16, 0] > 190).all()
