"""Files that users have and standards do not foresee: which frames come out, or which reason."""

import struct
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from rendered import number, render

from xclip_jax import video


def outcome(path, **settings):
    """Returns the numbers of the frames and their times, or the reason why there are none."""
    try:
        images, times = video.read(path, short_side=48, **settings)
    except video.VideoError as error:
        return error.reason
    return [number(image) for image in images], times.tolist()


def encode(path, shades, times, *, codec="libx264", size=(64, 48), rate=1000, **settings):
    """Writes frames that carry these numbers (below 16), shown at these milliseconds."""
    with av.open(str(path), "w", **settings) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for shade, time in zip(shades, times, strict=True):
            container.mux(stream.encode(picture(shade, size, time)))
        container.mux(stream.encode())
    return path


def picture(shade, size, time):
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2] = 16 * shade
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    frame.pts, frame.time_base = time, Fraction(1, 1000)
    return frame


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.mov"])
def test_a_clip_of_one_frame_gives_that_frame(tmp_path, name):
    path = render(tmp_path / name, 1, codec="mpeg4" if name == "a.avi" else "libx264")

    assert outcome(path) == ([0], [0])
    assert outcome(path, policy="uniform_12")[0] == [0]


def test_a_still_gif_gives_its_picture_or_says_that_it_has_no_frame_rate(tmp_path):
    Image.new("RGB", (64, 48), (112, 112, 112)).save(tmp_path / "a.gif")

    assert outcome(tmp_path / "a.gif") == ([7 + 16 * 7], [0])


@pytest.mark.parametrize("fps, count", [(25, 13), (30, 15), (10, 5), (60, 30)])
def test_half_a_second_gives_its_first_frame(tmp_path, fps, count):
    path = render(tmp_path / "a.mp4", count, fps=fps)

    assert outcome(path) == ([0], [0])
    assert outcome(path, end=31) == ([0], [0])  # a window longer than the clip
    assert outcome(path, start=1, end=31) == "zero frames"


@pytest.mark.parametrize("faststart", [True, False])
def test_however_much_is_cut_off_the_first_frames_or_a_reason_are_left(tmp_path, faststart):
    flags = {"container_options": {"movflags": "faststart"}} if faststart else {}
    path = render(tmp_path / "a.mp4", 76, **flags)
    data, whole = path.read_bytes(), [0, 25, 50, 75]
    outcomes = []

    for part in range(12):
        path.write_bytes(data[: len(data) * part // 12])
        outcomes.append(outcome(path))

    assert outcomes[0] == "unreadable"
    for found in outcomes:
        if isinstance(found, str):
            assert found in ("unreadable", "no video stream", "zero frames")
        else:
            assert found[0] == whole[: len(found[0])] and found[0]
    # An mp4's table of frames lies at its end unless it was moved, and without it all is lost.
    assert any(not isinstance(found, str) for found in outcomes) is faststart


def test_sound_alone_is_no_video_whatever_its_name(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = np.zeros((1, 1024), np.float32)
        for i in range(20):
            frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, 1024 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())

    assert outcome(path) == "no video stream"


def test_a_variable_frame_rate_is_sampled_by_its_mean_and_timed_truly(tmp_path):
    # Eight frames in 2 s: the mean is four a second, so the samples are frames 0 and 4.
    times = [0, 50, 100, 150, 1000, 1100, 1200, 1750]
    path = encode(tmp_path / "a.mp4", range(8), times, codec="mpeg4")

    assert video.probe(path)[0] == 8
    assert 4 <= video.probe(path)[1] < 5
    shades, seconds = outcome(path)
    assert [shade % 16 for shade in shades] == [0, 4]
    np.testing.assert_allclose(seconds, [0, 1], atol=1e-3)


def test_of_two_video_streams_the_larger_is_taken(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        small, large = (container.add_stream("mpeg4", rate=10) for _ in range(2))
        small.width, small.height, small.pix_fmt = 32, 24, "yuv420p"
        large.width, large.height, large.pix_fmt = 64, 48, "yuv420p"
        for i in range(15):
            container.mux(small.encode(picture(1, (32, 24), 100 * i)))
            container.mux(large.encode(picture(2 + i // 10, (64, 48), 100 * i)))
        for stream in (small, large):
            container.mux(stream.encode())

    images, times = video.read(path, short_side=48)

    assert [number(image) % 16 for image in images] == [2, 3]
    assert images[0].size == (64, 48) and times.tolist() == [0, 1]


@pytest.mark.parametrize(
    "pix_fmt, codec, name",
    [
        ("yuv444p", "libx264", "a.mp4"),
        ("yuv420p10le", "libx264", "a.mp4"),
        ("yuv444p10le", "libx264", "a.mp4"),
        ("yuv422p", "libx264", "a.mp4"),
        ("yuv420p12le", "ffv1", "a.mkv"),
        ("bgr0", "ffv1", "a.mkv"),
        ("yuva420p", "ffv1", "a.mkv"),
    ],
)
def test_other_pixel_formats_give_the_same_frames(tmp_path, pix_fmt, codec, name):
    path = render(tmp_path / name, 21, fps=10, pix_fmt=pix_fmt, codec=codec)

    (image, *_), _ = video.read(path, short_side=48)

    assert image.mode == "RGB"
    assert outcome(path)[0] == [0, 10, 20]


@pytest.mark.parametrize("size", [(65, 49), (49, 65), (63, 48), (17, 5)])
def test_odd_sizes_are_resized_as_pillow_does(tmp_path, size):
    path = render(tmp_path / "a.mkv", 21, fps=10, size=size, codec="ffv1", pix_fmt="yuv444p")

    images, _ = video.read(path, short_side=24)

    short = min(size)
    assert {image.size for image in images} == {tuple(24 * side // short for side in size)}
    assert [number(image) for image in images] == [0, 10, 20]


def turned(path, degrees, *, mirrored=False):
    """Writes a display matrix into an mp4 of 64 x 48, as phones do."""
    angle = np.deg2rad(degrees)
    flip = -1 if mirrored else 1
    a, b = flip * np.cos(angle), flip * np.sin(angle)
    c, d = -np.sin(angle), np.cos(angle)
    matrix = [round(value * 65536) for value in (a, b, c, d)]
    data = path.read_bytes()
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    at = data.index(identity, data.index(b"tkhd"))
    new = struct.pack(">9i", matrix[0], matrix[1], 0, matrix[2], matrix[3], 0, 0, 0, 1 << 30)
    path.write_bytes(data[:at] + new + data[at + 36 :])
    return path


@pytest.mark.parametrize("degrees, bright", [(90, "top"), (180, "right"), (270, "bottom")])
def test_a_turned_clip_is_upright_before_it_is_resized(tmp_path, degrees, bright):
    path = encode(tmp_path / "a.mp4", [12] * 3, [0, 400, 800])  # its left half is bright
    turned(path, degrees)

    (image, *_), _ = video.read(path, short_side=24)

    image = np.asarray(image, np.float32).mean(2)
    height, width = image.shape
    assert (height, width) == ((24, 32) if degrees == 180 else (32, 24))
    halves = {
        "top": image[: height // 3].mean() - image[-(height // 3) :].mean(),
        "right": image[:, -(width // 3) :].mean() - image[:, : width // 3].mean(),
    }
    halves["bottom"] = -halves["top"]
    assert halves[bright] > 150


@pytest.mark.parametrize("degrees, mirrored", [(45, False), (0, True), (10, False)])
def test_a_display_matrix_that_is_no_quarter_turn_leaves_the_frame(tmp_path, degrees, mirrored):
    path = turned(render(tmp_path / "a.mp4", 5), degrees, mirrored=mirrored)

    images, _ = video.read(path, short_side=48)

    assert images[0].size == (64, 48)


def test_a_gif_with_odd_delays_is_sampled_by_its_mean_rate(tmp_path):
    pictures = [Image.new("RGB", (64, 48), (16 * i,) * 3) for i in range(9)]
    delays = [20, 500, 30, 1000, 70, 40, 600, 40, 700]  # 3 s: the mean is three a second
    pictures[0].save(
        tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=delays, loop=0
    )

    shades, seconds = outcome(tmp_path / "a.gif")

    assert [shade % 16 for shade in shades] == [0, 3, 6]
    shown = np.cumsum([0, *delays])[[0, 3, 6]] / 1000
    np.testing.assert_allclose(seconds, shown, atol=1e-6)


def test_a_gif_slower_than_a_frame_a_second_says_so(tmp_path):
    pictures = [Image.new("RGB", (64, 48), (16 * i,) * 3) for i in range(3)]
    pictures[0].save(
        tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[1500, 3000, 2000]
    )

    assert outcome(tmp_path / "a.gif") == "zero fps"


MEASURE = """
import resource, sys
from xclip_jax import video
for path in sys.argv[1:]:
    images, times = video.read(path, short_side=24)
    print(len(images), times[-1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peaks(*paths):
    """Returns of each clip its frames, last second, and the most MiB the process has had so far."""
    command = [sys.executable, "-c", MEASURE, *map(str, paths)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return [tuple(map(float, line.split())) for line in run.stdout.splitlines()]


def test_memory_does_not_grow_with_the_length_of_a_clip(tmp_path):
    settings = {"size": (320, 240), "codec": "mpeg4", "fps": 10}
    short = render(tmp_path / "short.mp4", 15, **settings)
    long = render(tmp_path / "long.mp4", 600, **settings)  # 138 MB of pixels, 14 of those sampled

    (_, _, first), (count, _, second) = peaks(short, long)

    assert count == 60 and second - first < 10


def test_the_longest_real_clip_gives_a_frame_a_second_in_little_memory(shared):
    folder = shared / "data/videos"
    short = folder / "msvd-videos/WTf5EgVY5uU_124_128.avi"
    long = folder / "misc-videos/videollava_sample_demo_16.mp4"

    (_, _, first), (count, last, second) = peaks(short, long)

    assert count == 152 and last == pytest.approx(151, abs=0.1)
    assert second - first < 20
