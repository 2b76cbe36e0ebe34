"""Leaving out frames changes no other: `decode` against decoding all, bit for bit."""

import hashlib
import itertools
import random
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from xclip_jax import stream_frames, video

POLICIES = ("clip4clip_1fps", "uniform_12", "native_5fps")
B_FRAMES = {"bf": "3", "g": "24", "x264-params": "b-pyramid=normal:b-adapt=0:scenecut=0"}


def encode(path, *, codec="libx264", options=B_FRAMES, count=60, first=0, **settings):
    """Writes a picture that moves under noise, 15 frames a second."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 200, (12, 20, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w", **settings) as container:
        # x264's rate control gives other bytes now and then; a fixed quantiser never does.
        stream = container.add_stream(codec, rate=15, options={"qp": "25", **options})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for i in range(count):
            noise = rng.integers(0, 30, picture.shape, np.uint8)
            pixels = np.roll(picture, (i, 3 * i), (0, 1)) + noise
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = first + i, Fraction(1, 15)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def packets(path):
    """Returns where each packet lies in the file, its size, and whether others need its frame."""
    with av.open(str(path)) as container:
        found = [packet for packet in container.demux(video=0) if packet.size]
        return [(p.pos, p.size, not stream_frames._is_needed_by_none(p)) for p in found]


def some(path, indices):
    """Returns the numbers of the frames that come out of the decoder for these; may raise."""
    with video.open_video(path) as container:
        stream = video.video_stream(container, path)
        if not stream_frames.may_be_regular(container, stream):
            raise stream_frames.Irregular
        return [i for i, *_ in stream_frames.some(container, stream, indices)]


def digest(image, time):
    return image.size, hashlib.sha256(image.tobytes()).hexdigest(), time


def outcome(frames_of):
    """Returns the digests of the frames, or the reason why there are none."""
    try:
        return [digest(*frame) for frame in frames_of()]
    except video.VideoError as error:
        return error.reason


def assert_nothing_differs(path, *plans):
    """Decodes by each plan, and all frames once to pick the same from them."""
    wanted, found, reason = set().union(*map(set, plans)), {}, "zero frames"
    try:
        for i, (frame, time) in enumerate(video.every_frame(path)):
            if i in wanted:
                found[i] = digest(video.upright(frame, path), time)
    except video.VideoError as error:
        found, reason = {}, error.reason
    for plan in plans:
        expected = [found[i] for i in plan if i in found] or reason
        assert outcome(lambda plan=plan: video.decode(path, plan)) == expected, plan


PLANS = [0], [59], [0, 15, 30, 45], [7, 7, 8, 31, 58], [3, 59, 60, 90], range(1000)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("a.mp4", {}),
        ("a.mov", {}),
        ("a.mkv", {}),
        ("late.mp4", {"first": 30}),
        ("early.mp4", {"first": -7}),
        ("fragments.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("no_edit_list.mp4", {"container_options": {"use_editlist": "0"}}),
        ("negative.mp4", {"container_options": {"movflags": "negative_cts_offsets"}}),
        ("open.mp4", {"options": {"bf": "3", "x264-params": "open-gop=1:keyint=12:b-adapt=0"}}),
        ("slices.mp4", {"options": {"bf": "3", "x264-params": "slices=3:b-adapt=0"}}),
        ("fields.mp4", {"options": {"bf": "3", "x264-params": "interlaced=1:b-adapt=0"}}),
        ("refresh.mp4", {"options": {"bf": "3", "x264-params": "intra-refresh=1:keyint=12"}}),
        ("delimiters.mp4", {"options": {"bf": "2", "x264-params": "aud=1:b-adapt=0"}}),
        ("no_b.mp4", {"options": {"bf": "0"}}),
        ("a.avi", {}),
        ("mpeg4.mp4", {"codec": "mpeg4", "options": {"bf": "2"}}),
        ("mpeg4.avi", {"codec": "mpeg4", "options": {"bf": "2"}}),
        ("mpeg2.mp4", {"codec": "mpeg2video", "options": {"bf": "2"}}),
        ("vp9.mp4", {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}}),
        ("hevc.mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none"}}),
    ],
)
def test_sampled_frames_are_those_of_decoding_all(tmp_path, name, settings):
    if settings.get("codec", "libx264") not in av.codecs_available:
        pytest.skip("no such encoder here")
    path = encode(tmp_path / name, **settings)

    assert_nothing_differs(path, *PLANS)


@pytest.mark.parametrize(
    "options",
    [B_FRAMES, {"bf": "3", "x264-params": "open-gop=1:keyint=12:b-adapt=0:aud=1:slices=3"}],
)
def test_frames_that_none_needs_are_left_out(tmp_path, options):
    path = encode(tmp_path / "a.mp4", options=options)
    needed = sum(needed for *_, needed in packets(path))

    assert needed <= 36
    assert set(some(path, [1, 2, 3])) >= {0, 1, 2, 3}
    assert len(some(path, [])) == needed and len(some(path, range(60))) == 60


def test_decode_leaves_them_out(tmp_path, monkeypatch):
    path, seen = encode(tmp_path / "a.mp4"), []

    def spy(*args):
        for i, *timed in stream_frames_some(*args):
            seen.append(i)
            yield i, *timed

    stream_frames_some = stream_frames.some
    monkeypatch.setattr(stream_frames, "some", spy)

    assert len(list(video.decode(path, [0, 58]))) == 2
    assert 0 in seen and 58 in seen and len(seen) < 40


@pytest.mark.parametrize("shift", [1, 5, 20])
def test_an_edit_list_that_cuts_the_start(tmp_path, shift):
    path = encode(tmp_path / "a.mp4")
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 16  # past version, count and duration
    (media_time,) = struct.unpack_from(">i", data, at)
    with av.open(str(path)) as container:
        one = int(1 / (15 * container.streams.video[0].time_base))
    struct.pack_into(">i", data, at, media_time + shift * one)
    path.write_bytes(data)

    assert_nothing_differs(path, *PLANS)
    with pytest.raises(stream_frames.Irregular):
        some(path, [0])


@pytest.mark.parametrize("needed", [True, False])
@pytest.mark.parametrize("damage", ["zeros", "noise", "end", "lengths"])
def test_a_damaged_packet_is_passed_over_as_ever(tmp_path, needed, damage):
    path = encode(tmp_path / "a.mp4")
    data, rng = path.read_bytes(), random.Random(0)
    chosen = [(pos, size) for pos, size, is_needed in packets(path) if is_needed is needed]

    for pos, size in chosen[2:16:4]:
        damaged = bytearray(data)
        if damage == "zeros":
            damaged[pos : pos + size] = bytes(size)
        elif damage == "noise":
            damaged[pos : pos + size] = rng.randbytes(size)
        elif damage == "end":
            damaged[pos + size // 2 : pos + size] = rng.randbytes(size - size // 2)
        else:
            damaged[pos : pos + 4] = struct.pack(">I", size + 9)
        path.write_bytes(damaged)

        assert_nothing_differs(path, *PLANS[:-1])


def test_damage_that_shows_half_way_starts_anew(tmp_path):
    path = encode(tmp_path / "a.mp4")
    data = bytearray(path.read_bytes())
    pos, size, _ = [packet for packet in packets(path) if packet[2]][-8]
    data[pos : pos + size] = bytes(size)
    path.write_bytes(data)

    with video.open_video(path) as container:
        stream, came = video.video_stream(container, path), []
        with pytest.raises((stream_frames.Irregular, av.FFmpegError)):
            for i, *_ in stream_frames.some(container, stream, [0, 15, 58]):
                came.append(i)
    assert {0, 15} <= set(came) and 58 not in came
    assert_nothing_differs(path, [0, 15, 15, 16, 58], [0, 58])


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8, 0.97])
def test_a_file_cut_off(tmp_path, part):
    path = encode(tmp_path / "a.mp4", container_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])

    assert_nothing_differs(path, *PLANS)


def test_real_clips_give_the_same_frames_and_times(shared):
    suffixes = (".mp4", ".avi", ".mkv", ".gif")
    paths = sorted(p for p in (shared / "data/videos").rglob("*") if p.suffix in suffixes)
    left_out = 0
    for path, policy in zip(paths, itertools.cycle(POLICIES)):
        try:
            indices = video.plan(path, policy=policy).tolist()
            left_out += len(some(path, indices)) < video.probe(path)[0]
        except (video.VideoError, stream_frames.Irregular):
            continue  # unreadable, or decoded whole anyway
        assert_nothing_differs(path, indices)

    assert len(paths) >= 77 and left_out >= 20
