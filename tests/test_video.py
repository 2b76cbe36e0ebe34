"""Decoding: the right frames, upright, of files of all kinds, damaged and hostile ones included."""

import json
import pickle
import random
import re
import struct
import wave

import av
import numpy as np
import pytest
from rendered import number, render

from xclip_jax import video


def numbers(path, **settings):
    images, _ = video.read(path, short_side=48, **settings)
    return [number(image) for image in images]


@pytest.mark.parametrize(
    "name, settings",
    [
        ("counted.mp4", {}),
        ("counted.avi", {"codec": "mpeg4"}),
        ("duration_only.mkv", {}),
        ("duration_only.webm", {"codec": "libvpx-vp9"}),
        ("neither.mkv", {"container_options": {"live": "1"}}),
        ("no_container.h264", {}),
        ("fragments.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    ],
)
def test_one_frame_a_second_comes_out_of_every_container(tmp_path, name, settings):
    path = render(tmp_path / name, 76, **settings)

    images, timestamps = video.read(path, short_side=24)

    assert video.probe(path) == (76, 25.0)
    assert [number(image) for image in images] == [0, 25, 50, 75]
    assert images[0].size == (32, 24)
    np.testing.assert_array_equal(timestamps, np.float32([0, 1, 2, 3]))


@pytest.mark.parametrize(
    "count, fps, settings, expected",
    [
        (75, 25, {}, [0, 25, 50]),
        (20, 25, {}, [0]),
        (60, 30000 / 1001, {}, [0, 29, 58]),
        (50, 10, {"start": 1, "end": 3}, [10, 20, 30]),
        (30, 10, {"policy": "clip4clip_2fps"}, [0, 5, 10, 15, 20, 25]),
        (7, 10, {"policy": "clip4clip_0fps"}, list(range(7))),
    ],
)
def test_files_are_sampled_by_the_tables(tmp_path, count, fps, settings, expected):
    path = render(tmp_path / "a.mp4", count, fps=fps)

    assert numbers(path, **settings) == expected


def test_a_stream_without_header_or_rate_is_sampled_by_its_timestamps(tmp_path):
    path = tmp_path / "browser.mkv"
    with av.open(str(path), "w", container_options={"live": "1"}) as container:
        stream = container.add_stream("mpeg4", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for i in range(40):  # ten frames a second, on a clock of milliseconds
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts = 100 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())

    frame_count, fps = video.probe(path)

    assert frame_count == 40 and fps == pytest.approx(10)


def test_the_eleven_golden_frames_of_the_larger_stream_are_exact(shared):
    folder = shared / "data/reference/decode-golden"
    golden = np.load(folder / "nasa_13013_stream3_frames.npz")
    indices = sorted(int(name.removeprefix("frame")) for name in golden)

    decoded = list(video.decode(folder / "nasa_13013.mp4", indices))

    assert len(decoded) == len(indices) == 11
    for i, (image, time) in zip(indices, decoded, strict=True):
        np.testing.assert_array_equal(image, golden[f"frame{i}"])
        assert time == pytest.approx(i * 1001 / 30000, abs=1e-4)


def test_the_frame_rates_of_77_real_clips_are_those_of_their_list(shared):
    for entry in json.loads((shared / "data/real_videos.json").read_text()):
        _, fps = video.probe(shared / "data" / entry["video"])

        assert round(fps, 3) == entry["fps"], entry["video"]


@pytest.mark.parametrize(
    "name",
    [
        "msrvtt-videos/video7500.mp4",
        "msrvtt2017-videos/video12939.gif",
        "msvd-videos/WTf5EgVY5uU_124_128.avi",
        "misc-videos/decord_flipping_a_pancake.mkv",
        "activitynet-videos/v_GGSY1Qvo990.mp4",
    ],
)
def test_real_clips_give_a_frame_for_each_second_begun(shared, name):
    entries = json.loads((shared / "data/real_videos.json").read_text())
    (entry,) = (entry for entry in entries if entry["video"] == f"videos/{name}")

    images, timestamps = video.read(shared / "data/videos" / name)

    assert len(images) == len(timestamps) == -(-entry["frames"] // int(entry["fps"]))
    assert all(min(image.size) == 224 for image in images)


def patch_matrix(path, matrix):
    """Writes a display matrix into an mp4, as phones do; the file has the identity."""
    data = path.read_bytes()
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    at = data.index(identity, data.index(b"tkhd"))
    path.write_bytes(data[:at] + struct.pack(">9i", *matrix) + data[at + 36 :])


@pytest.mark.parametrize(
    "matrix, turns",
    [
        # QuickTime: x' = a x + c y, y' = b x + d y, and the matrix is a b u c d v x y w.
        ([0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30], 3),  # clockwise
        ([-1 << 16, 0, 0, 0, -1 << 16, 0, 64 << 16, 48 << 16, 1 << 30], 2),
        ([0, -1 << 16, 0, 1 << 16, 0, 0, 0, 64 << 16, 1 << 30], 1),
    ],
)
def test_phone_clips_come_out_upright(tmp_path, matrix, turns):
    path = render(tmp_path / "phone.mp4", 20)
    ((lying, _),) = video.decode(path, [19])
    patch_matrix(path, matrix)

    ((upright, _),) = video.decode(path, [19])

    np.testing.assert_array_equal(upright, np.rot90(np.asarray(lying), turns))


def test_data_that_end_early_end_the_sampling(tmp_path):
    path = render(tmp_path / "a.mp4", 100, container_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])

    got = numbers(path)

    assert video.plan(path).tolist() == [0, 25, 50, 75]
    assert got == [0, 25, 50, 75][: len(got)] and 0 < len(got) < 4


def test_a_damaged_packet_within_is_passed_over(tmp_path):
    path = render(tmp_path / "a.avi", 60, codec="mjpeg", pix_fmt="yuvj420p", fps=10)
    data = bytearray(path.read_bytes())
    starts = [match.start() for match in re.finditer(b"\xff\xd8\xff", data)]
    data[starts[15] : starts[16] - 8] = bytes(starts[16] - 8 - starts[15])
    path.write_bytes(data)

    assert numbers(path) == [0, 10, 21, 31, 41, 51]  # frame 15 counts no more


def sound(path):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))


def empty_after_header(path):
    render(path, 50, container_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 4])


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda path: None, "missing"),
        (lambda path: path.mkdir(), "missing"),
        (lambda path: path.write_bytes(b""), "unreadable"),
        (lambda path: path.write_bytes(bytes(range(256)) * 40), "unreadable"),
        (lambda path: path.write_text("no video, only words\n" * 99), "unreadable"),
        (lambda path: path.write_bytes(render(path, 9).read_bytes()[:-400]), "unreadable"),
        (lambda path: render(path, 2, size=(1024, 16)), "unreadable"),
        (sound, "no video stream"),
        (empty_after_header, "zero frames"),
        (lambda path: render(path, 5, fps=0.5), "zero fps"),
    ],
)
def test_a_file_that_gives_nothing_says_which_and_why(tmp_path, make, reason):
    path = tmp_path / ("a.wav" if make is sound else "a.mp4")
    make(path)

    with pytest.raises(video.VideoError, match=rf"{path}: {reason}") as caught:
        video.read(path)

    assert caught.value.reason == reason
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.reason) == (str(caught.value), reason)


def test_text_is_not_drawn_as_video(tmp_path):
    (tmp_path / "a.txt").write_text("ffmpeg draws text files\n" * 99)

    with pytest.raises(video.VideoError, match="a text file"):
        video.read(tmp_path / "a.txt")


def test_a_window_behind_the_end_has_zero_frames(tmp_path):
    path = render(tmp_path / "a.mp4", 50)

    with pytest.raises(video.VideoError, match=r"zero frames \(5 to 9 s of 50 frames at 25"):
        video.read(path, start=5, end=9)


@pytest.mark.parametrize("name", ["a:b.mp4", "a%03d.mp4", "http:x.mp4", "-i.mp4", "é ü.mp4"])
def test_strange_names_are_names_of_files(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    render(tmp_path / "plain.mp4", 3).rename(tmp_path / name)

    assert numbers(name) == [0]


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.mp4", "ffconcat version 1.0\nfile 'secret.mp4'\n"),
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\nsecret.mp4\n#EXT-X-ENDLIST\n"),
    ],
)
def test_a_playlist_opens_no_other_file(tmp_path, name, text):
    render(tmp_path / "secret.mp4", 3)
    (tmp_path / name).write_text(text)

    with pytest.raises(video.VideoError, match="unreadable"):
        video.read(tmp_path / name)


@pytest.mark.parametrize(
    "limit, value, message",
    [
        ("MAX_FRAME_PIXELS", 3000, "frames of 64 x 48"),
        ("MAX_DECODED_FRAMES", 30, "too long: 30 frames"),
        ("MAX_DECODED_PIXELS", 3072 * 40, "too long: 40 frames"),
        ("MAX_SAMPLES", 2, "4 samples, at most 2"),
    ],
)
def test_what_a_file_can_cost_is_bounded(tmp_path, monkeypatch, limit, value, message):
    path = render(tmp_path / "a.mp4", 80)
    monkeypatch.setattr(video, limit, value)

    with pytest.raises(video.VideoError, match=rf"unreadable \({message}"):
        video.read(path)


def test_flipped_bytes_give_frames_or_a_reason_and_nothing_else(tmp_path):
    rng = random.Random(0)
    path = render(tmp_path / "a.mp4", 12)
    data = path.read_bytes()
    outcomes = set()

    for i in range(60):
        damaged = bytearray(data)
        for _ in range(1 + i % 8):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            outcomes.add(len(video.read(path)[0]) > 0)
        except video.VideoError as error:
            outcomes.add(error.reason)

    assert {True, "unreadable"} <= outcomes
