"""Small copies of videos: their frames, sizes and names, and what is not made smaller."""

import shutil
import subprocess
import sys

import av
import numpy as np
import pytest
from rendered import number, render

from xclip_jax import frames, video
from xclip_jax.data import compress


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder of files of all kinds, the folder of their copies, and the report."""
    folder = tmp_path_factory.mktemp("compress") / "videos"
    for name in ("", "one/deep", "other"):
        (folder / name).mkdir(parents=True)
    big = {"size": (320, 240), "codec": "mpeg4", "bit_rate": 4_000_000}
    render(folder / "a.mp4", 61, **big)
    render(folder / "one/deep/a.mp4", 30, fps=10, **big)
    render(folder / "other/a.avi", 21, **big)
    render(folder / "other/portrait.mov", 21, **big | {"size": (270, 480)})
    render(folder / "tiny.webm", 3, codec="libvpx-vp9")
    (folder / "one/broken.mp4").write_bytes(bytes(range(256)) * 9)
    (folder / "empty.mkv").write_bytes(b"")
    out = folder.parent / "small"
    return folder, out, compress.compress(folder, out, workers=2)


def numbers(path):
    return [number(image) for image, _ in video.decode(path, range(1000))]


def test_the_frames_are_those_on_screen_at_each_third_of_a_second(done):
    small = done[1] / "a.mp4"

    on_screen = [max(i for i in range(61) if i / 25 <= k / 3) for k in range(8)]
    assert numbers(small) == on_screen == [0, 8, 16, 25, 33, 41, 50, 58]
    assert video.probe(small) == (8, 3.0)


def test_a_frame_a_second_of_the_copy_is_that_of_the_original(done):
    folder, out, _ = done

    for name, expected in (("a.mp4", [0, 25, 50]), ("one/deep/a.mp4", [0, 10, 20])):
        for root in (folder, out):
            images, times = video.read(root / name)
            assert [number(image) for image in images] == expected
            np.testing.assert_allclose(times, [0, 1, 2], atol=1e-3)


def test_names_and_folders_are_kept_and_nothing_else_is_there(done):
    folder, out, _ = done

    names = [
        sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
        for root in (folder, out)
    ]
    assert names[0] == names[1] and len(names[0]) == 7


def test_the_copies_are_h264_without_sound_whatever_their_name(done):
    for name in ("a.mp4", "other/a.avi", "other/portrait.mov"):
        with av.open(str(done[1] / name)) as container:
            (stream,) = container.streams
            assert stream.codec_context.name == "h264" and "mp4" in container.format.name


def test_the_shorter_side_is_224_of_portrait_clips_too(done):
    ((portrait, _), *_) = video.decode(done[1] / "other/portrait.mov", [0])
    ((landscape, _), *_) = video.decode(done[1] / "a.mp4", [0])

    assert portrait.size == (224, 398)  # not (224, 126)
    assert landscape.size == (298, 224)


@pytest.mark.parametrize(
    "size, expected",
    [((1920, 1080), (398, 224)), ((1080, 1920), (224, 398)), ((301, 301), (224, 224))],
)
def test_sizes_keep_the_aspect_and_are_even(size, expected):
    assert compress.size(*size) == expected


def test_what_cannot_be_made_smaller_is_the_original_and_is_named(done):
    folder, out, report = done

    assert set(report.copied) == {"empty.mkv", "one/broken.mp4", "tiny.webm"}
    assert report.copied["one/broken.mp4"].startswith("unreadable (")
    assert report.copied["tiny.webm"].endswith("bytes, which would become more")
    for name in report.copied:
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert report.compressed == 4 and report.there_before == 0
    assert report.bytes_after < report.bytes_before


def test_a_second_run_does_only_what_is_missing(done, tmp_path):
    folder = done[0]
    out = shutil.copytree(done[1], tmp_path / "small")
    (out / "a.mp4").unlink()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}

    report = compress.compress(folder, out, workers=1)

    assert (report.compressed, report.there_before) == (1, 6)
    assert set(report.copied) == set(done[2].copied)
    assert (out / "a.mp4").read_bytes() == (done[1] / "a.mp4").read_bytes()
    assert all(path.stat().st_mtime_ns == at for path, at in before.items() if path.is_file())


def test_a_full_disk_leaves_nothing_half_written_and_says_so(done, tmp_path):
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from pathlib import Path\n"
        "from xclip_jax.data import compress\n"
        "print(compress._compress(Path(sys.argv[1]), Path(sys.argv[2])))"
    )

    run = subprocess.run(
        [sys.executable, "-B", "-c", code, str(done[0] / "a.mp4"), str(tmp_path / "out/a.mp4")],
        capture_output=True,
        text=True,
    )

    assert run.stdout.startswith("('stopped', '[Errno 27] File too large"), run.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_variable_frame_rate_keeps_its_speed(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i, milliseconds in enumerate([0, 100, 200, 1500, 1600, 3000]):
            pixels = np.full((48, 64, 3), 16 * i, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = milliseconds
            container.mux(stream.encode(frame))
        container.mux(stream.encode())

    shown = [number(image) % 16 for image in compress.sample(path)]

    times = [0, 0.1, 0.2, 1.5, 1.6, 3.0]
    expected = [max(i for i in range(6) if times[i] <= k / 3 + 1e-3) for k in range(14)]
    # The last frame stays as long as the one before, 1.4 s.
    assert shown == expected == [0, 2, 2, 2, 2, 4, 4, 4, 4, 5, 5, 5, 5, 5]


def test_a_jump_in_time_cannot_fill_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(compress, "MAX_FRAMES", 6)
    path = render(tmp_path / "a.mp4", 61)

    with pytest.raises(video.VideoError, match=r"unreadable \(longer than 2 seconds"):
        list(compress.sample(path))


def test_the_detail_lost_on_rendered_clips_is_small(done):
    folder, out, _ = done

    images = [frames.to_square(video.read(root / "a.mp4")[0][1], 224) for root in (folder, out)]

    error = np.mean((np.float32(images[0]) - images[1]) ** 2)
    assert 10 * np.log10(255**2 / error) > 30  # decibels, of flat halves of grey


@pytest.mark.parametrize(
    "folder, out, message",
    [
        ("none", "small", "none is not a folder of videos"),
        ("videos", "videos/small", "small lies in .*videos: give a folder beside it"),
        ("videos", "videos", "videos lies in .*videos"),
        ("void", "small", "void cannot be compressed: it is empty"),
        ("links", "small", "gone.mp4 leads nowhere"),
        ("videos", "taken", "a.mp4 is a folder"),
    ],
)
def test_folders_that_do_not_do_are_refused(tmp_path, folder, out, message):
    for name in ("videos", "void", "links", "taken/a.mp4"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "videos/a.mp4").write_bytes(b"")
    (tmp_path / "links/gone.mp4").symlink_to(tmp_path / "nothing")

    with pytest.raises((ValueError, FileNotFoundError), match=message):
        compress.compress(tmp_path / folder, tmp_path / out)
