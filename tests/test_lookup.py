"""Which file answers to which id: every rule of SPEC 10.4, and folders as they are in practice."""

import os

import pytest

from xclip_jax.data import catalog, lookup
from xclip_jax.data.lookup import find


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def relative(found, root):
    return {video_id: path.relative_to(root).as_posix() for video_id, path in found.items()}


def test_files_are_found_in_any_folder_and_kept_in_the_order_of_the_ids(tmp_path):
    touch(tmp_path, "video7.mp4", "a/b/video1.avi", "c/1005_Signs_00.01.12.000-00.01.20.100.avi")

    found = find(tmp_path, ["1005_Signs_00.01.12.000-00.01.20.100", "video1", "gone", "video7"])

    assert list(relative(found, tmp_path).items()) == [
        ("1005_Signs_00.01.12.000-00.01.20.100", "c/1005_Signs_00.01.12.000-00.01.20.100.avi"),
        ("video1", "a/b/video1.avi"),
        ("video7", "video7.mp4"),
    ]


def test_mp4_goes_before_webm_before_others_then_the_shorter_path_and_a_line_names_both(
    tmp_path, capsys
):
    touch(tmp_path, "x.avi", "x.webm", "deep/x.MP4")
    touch(tmp_path, "y.avi", "y.webm")
    touch(tmp_path, "first/z.mp4", "b/z.mp4")
    touch(tmp_path, "alone.mkv")

    found = find(tmp_path, ["x", "y", "z", "alone"])

    expected = {"x": "deep/x.MP4", "y": "y.webm", "z": "b/z.mp4", "alone": "alone.mkv"}
    assert relative(found, tmp_path) == expected
    (line,) = capsys.readouterr().err.splitlines()
    for part in ("deep/x.MP4 (used) and", "x.webm", "x.avi", "y.webm (used)", "first/z.mp4"):
        assert part in line
    assert "alone" not in line


def test_an_empty_file_is_taken_only_where_there_is_no_other(tmp_path):
    touch(tmp_path, "x.webm")
    (tmp_path / "x.mp4").write_bytes(b"")
    (tmp_path / "y.mp4").write_bytes(b"")

    assert relative(find(tmp_path, ["x", "y"]), tmp_path) == {"x": "x.webm", "y": "y.mp4"}


def test_hidden_files_partial_downloads_and_sidecars_are_passed_over(tmp_path):
    touch(tmp_path, ".a.mp4", "._b.mp4", "c.mp4.part", "d.part", ".trash/e.mp4", "f.mp4.ytdl")
    touch(tmp_path, "g.jpg", "h.json", "i.en.vtt", "j.webp", "k.mp4.part-Frag3", "l.CRDOWNLOAD")

    ids = [*"abcdefghijkl", "c.mp4", "f.mp4", "i.en", "k.mp4"]

    assert find(tmp_path, ids) == {}


def test_circles_of_links_end_and_links_to_one_file_are_no_ambiguity(tmp_path, capsys):
    touch(tmp_path, "root/a/x.mp4", "elsewhere/y.mp4")
    os.symlink(tmp_path / "root", tmp_path / "root/a/again")
    os.symlink(tmp_path / "elsewhere", tmp_path / "root/link")
    os.symlink(tmp_path / "root/a/x.mp4", tmp_path / "root/x.webm")

    found = find(tmp_path / "root", ["x", "y"])

    assert relative(found, tmp_path / "root") == {"x": "a/x.mp4", "y": "link/y.mp4"}
    assert not capsys.readouterr().err


def test_activitynet_files_may_have_lost_their_prefix_even_where_the_id_has_it_twice(tmp_path):
    touch(tmp_path, "v_abc.mp4", "de-f.mkv", "v_XYZ.mp4", "output_v_no.mp4")

    found = find(
        tmp_path, ["v_abc", "v_de-f", "v_v_XYZ", "v_no", "abc"], **lookup.RULES["activitynet"]
    )

    assert relative(found, tmp_path) == {
        "v_abc": "v_abc.mp4",
        "v_de-f": "de-f.mkv",
        "v_v_XYZ": "v_XYZ.mp4",
    }


@pytest.mark.parametrize("file", ["1@N_2_c0.{}", "1@N_2_c0.{}.mp4", "1@N_2_c0.mp4", "1@N_2_c0"])
@pytest.mark.parametrize("suffix", ["mov", "mp4", "MP4", ""])
def test_every_form_of_a_didemo_id_finds_every_form_of_its_file(tmp_path, file, suffix):
    name = file.format(suffix)
    touch(tmp_path, f"deep/{name}")

    for video_id in (f"1@N_2_c0.{suffix}", "1@N_2_c0"):
        found = find(tmp_path, [video_id, "1@N_2_c"], **lookup.RULES["didemo"])

        assert relative(found, tmp_path) == {video_id: f"deep/{name}"}


def test_didemo_names_that_differ_in_the_suffix_only_find_their_own_file(tmp_path, capsys):
    touch(tmp_path, "a.mov.mp4", "a.mp4.mp4")  # as the data set's own downloader names them

    found = find(tmp_path, ["a.mp4", "a.mov", "a.avi"], **lookup.RULES["didemo"])

    assert relative(found, tmp_path) == {"a.mp4": "a.mp4.mp4", "a.mov": "a.mov.mp4"}
    assert not capsys.readouterr().err


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No folder of videos .*nowhere"):
        find(tmp_path / "nowhere", ["a"])


@pytest.mark.parametrize("name, clips", [("msvd", 13), ("msrvtt", 1), ("activitynet", 2)])
def test_the_real_clips_are_found_under_their_official_ids(shared, name, clips):
    (annotations,) = (shared / "data/annotations").glob(f"{name}-*")
    folder = shared / f"data/videos/{name}-videos"

    found = catalog.find(catalog.read(name, annotations), shared / "data/videos")

    assert len(found) == clips
    assert {path.parent for path in found.values()} == {folder}
    assert all(path.stem == video_id for video_id, path in found.items())
