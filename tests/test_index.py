"""An index of videos: what is encoded anew and what is not, and what a broken update leaves."""

import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import rendered

import xclip_jax
from xclip_jax import cli, clip_features, evaluate, workdir
from xclip_jax.index import ann, listing, making, query, spans, store, update
from xclip_jax.index.rows import Row

CLIPS = 4


@pytest.fixture(scope="module")
def trained(run):
    return workdir.load(run)


@pytest.fixture(scope="module")
def encoders(trained):
    return evaluate.make_encoders(trained.graphdef)


@pytest.fixture
def clips(shapes, tmp_path):
    """A folder with four of the rendered test clips, one of them in a subfolder."""
    folder = tmp_path / "clips"
    (folder / "more").mkdir(parents=True)
    for i in range(CLIPS):
        target = folder / "more" if i == 2 else folder
        shutil.copy(shapes / "rendered" / "videos" / f"test-{i:05d}.mp4", target)
    return folder


@pytest.fixture
def index(trained, encoders, clips, tmp_path):
    """Brings the index of the folder up to date; returns what changed, and the features."""

    def index(source=clips, encoders=encoders):
        opened = making.open_or_make(tmp_path / "index", trained, encoders, "run")
        listed = listing.read(source)
        changes = update.update(opened, trained, encoders, listed, progress=False)
        return changes, features_of(store.open_index(tmp_path / "index"))

    return index


def features_of(opened):
    """Returns the features of each clip by its file's name."""
    kind = evaluate.Video
    found = {}
    for rows in store.scan(opened, opened.videos.schema.names, where=None, rows=99):
        features = zip(*store.features(opened, rows, kind), strict=True)
        names = [os.path.basename(path) for path in rows["path"].to_pylist()]
        assert not set(names) & set(found)
        found |= dict(zip(names, features, strict=True))
    return found


def make_unreadable(path):
    """Destroys a clip in a way that its size and time of change do not show."""
    stat = path.stat()
    path.write_bytes(b"\0" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def assert_same(one, other):
    for x, y in zip(one, other, strict=True):
        np.testing.assert_array_equal(x, y)


def counts(changes):
    return changes.added, changes.changed, changes.removed, changes.kept, len(changes.unreadable)


def test_a_second_update_decodes_nothing(index, clips):
    first, before = index()
    for path in clips.rglob("*.mp4"):
        make_unreadable(path)

    second, after = index()

    assert counts(first) == (CLIPS, 0, 0, 0, 0) and counts(second) == (0, 0, 0, CLIPS, 0)
    for name in before:
        assert_same(after[name], before[name])


def test_only_what_is_new_changed_or_gone_is_done(index, clips, shapes):
    videos = shapes / "rendered" / "videos"
    _, before = index()
    for path in clips.rglob("*.mp4"):
        make_unreadable(path)
    shutil.copyfile(videos / "test-00003.mp4", clips / "test-00001.mp4")
    os.utime(clips / "test-00001.mp4", ns=(0, 0))
    (clips / "test-00000.mp4").unlink()
    shutil.copy(videos / "test-00000.mp4", clips / "it's new.MP4")

    changes, after = index()

    assert counts(changes) == (1, 1, 1, 2, 0)
    assert set(after) == {f"test-{i:05d}.mp4" for i in (1, 2, 3)} | {"it's new.MP4"}
    assert_same(after["test-00001.mp4"], before["test-00003.mp4"])
    assert_same(after["it's new.MP4"], before["test-00000.mp4"])
    assert_same(after["test-00002.mp4"], before["test-00002.mp4"])


def test_a_touched_file_of_the_same_content_is_not_encoded_again(index, clips, encoders):
    index()
    for path in clips.rglob("*.mp4"):
        os.utime(path, ns=(5, 5))

    def fail(*_):
        raise AssertionError("encoded again")

    touched, _ = index(encoders=encoders._replace(frames=fail))
    again, _ = index(encoders=encoders._replace(frames=fail))

    assert counts(touched) == counts(again) == (0, 0, 0, CLIPS, 0)


def test_what_cannot_be_read_is_named_remembered_and_tried_again_once_changed(
    index, clips, shapes, trained
):
    broken, link = clips / "broken.mp4", clips / "gone.mp4"
    broken.write_bytes(b"not a video")
    link.symlink_to(clips / "nothing.mp4")

    first, _ = index()
    second, features = index()
    shutil.copyfile(shapes / "rendered" / "videos" / "test-00005.mp4", broken)
    link.unlink()
    third, healed = index()
    broken.write_bytes(b"broken once more")
    fourth, without = index()

    assert counts(first) == (CLIPS, 0, 0, 0, 2) and counts(second) == (0, 0, 0, CLIPS, 2)
    assert first.unreadable == second.unreadable
    for path, line in zip((broken, link), first.unreadable, strict=True):
        assert line.startswith(f"{path}: ")
    assert counts(third) == (1, 0, 0, CLIPS, 0) and counts(fourth) == (0, 0, 0, CLIPS, 1)
    assert broken.name in healed and set(without) == set(features)


def test_a_clip_of_too_few_frames_a_second_is_unreadable(trained, encoders, clips, tmp_path):
    rendered.render(clips / "slow.mp4", 9, fps=3)  # the others have 4 a second
    dense = trained._replace(frame_policy=trained.frame_policy | {"name": "clip4clip_4fps"})
    opened = making.make(tmp_path / "index", dense, encoders, "run")

    changes = update.update(opened, dense, encoders, listing.read(clips), progress=False)

    assert counts(changes) == (CLIPS, 0, 0, 0, 1)
    assert changes.unreadable[0].startswith(f"{clips / 'slow.mp4'}: unreadable")


def test_an_update_that_is_killed_leaves_an_index_that_the_next_one_completes(
    index, encoders, tmp_path, monkeypatch
):
    monkeypatch.setattr(update, "LEAST", 1)
    monkeypatch.setattr(update, "SECONDS", 0)
    calls = []

    def dies(*args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(args)
        return encoders.gathered(*args)

    with pytest.raises(KeyboardInterrupt):
        index(encoders=encoders._replace(gathered=dies))
    left = features_of(store.open_index(tmp_path / "index"))
    changes, after = index()

    assert len(left) == 2 and counts(changes) == (CLIPS - 2, 0, 0, 2, 0)
    for name, row in left.items():
        assert_same(after[name], row)


def test_a_list_gives_metadata_that_changes_without_encoding(index, clips, tmp_path):
    listed = clips / "list.jsonl"

    def write(*entries):
        listed.write_text("\n".join(map(json.dumps, entries)))

    def metadata():
        table = store.open_index(tmp_path / "index").videos.to_arrow()
        rows = zip(table["path"].to_pylist(), table["metadata"].to_pylist(), strict=True)
        return {os.path.basename(path): json.loads(said) for path, said in rows}

    write({"video": "test-00000.mp4", "year": 1999}, {"video": "test-00001.mp4"})
    first, _ = index(listed)
    before = metadata()
    write({"video": "test-00000.mp4", "year": 2000, "tags": ["a"]})
    second, _ = index(listed)

    assert counts(first) == (2, 0, 0, 0, 0) and counts(second) == (0, 0, 1, 1, 0)
    assert before == {"test-00000.mp4": {"year": 1999}, "test-00001.mp4": {}}
    assert metadata() == {"test-00000.mp4": {"year": 2000, "tags": ["a"]}}


def test_a_folder_leaves_the_videos_of_another_alone(index, clips, shapes):
    other = clips.parent / "other"
    other.mkdir()
    shutil.copy(shapes / "rendered" / "videos" / "test-00004.mp4", other)

    index()
    changes, features = index(other)

    assert counts(changes) == (1, 0, 0, 0, 0) and len(features) == CLIPS + 1


def test_what_is_wrong_with_a_list_is_told_together(tmp_path):
    (tmp_path / "list.jsonl").write_text(
        '{"video": "a.mp4"}\nnonsense\n{"path": 3}\n{"video": "b.mp4", "start": 2}\n'
        '\n{"video": "./a.mp4"}\n'
    )

    with pytest.raises(ValueError, match=r"line 2 is not JSON") as caught:
        listing.read(tmp_path / "list.jsonl")

    for said in ('line 3 has no "video"', 'line 4 has "start"', "line 6 names"):
        assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("leaf", ["clip", "word_mat_weight"])
def test_another_model_is_refused_by_name(index, trained, encoders, tmp_path, leaf):
    index()
    params = trained.params | {leaf: jax.tree.map(lambda x: x * 0.9, trained.params[leaf])}
    other = trained._replace(params=params)

    with pytest.raises(ValueError, match=r"holds features of xclip \(custom\), step 6") as caught:
        making.open_or_make(tmp_path / "index", other, encoders, "runs/other")

    assert "--workdir runs/other is another model" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_default_index_of_a_folder_is_made_anew_for_another_model(
    index, trained, encoders, clips, tmp_path, capsys
):
    _, before = index()
    other = trained._replace(params=jax.tree.map(lambda leaf: leaf * 0.9, trained.params))

    opened = making.open_or_replace(tmp_path / "index", other, encoders, "run")
    update.update(opened, other, encoders, listing.read(clips), progress=False)

    assert "is of another model: encoding anew" in capsys.readouterr().err
    after = features_of(store.open_index(tmp_path / "index"))
    assert np.abs(after["test-00000.mp4"][0] - before["test-00000.mp4"][0]).max() > 0.01


def test_many_videos_are_found_by_an_index_over_their_vectors(
    index, trained, encoders, tmp_path, monkeypatch
):
    monkeypatch.setattr(ann, "ROWS", 300)  # LanceDB wants 256 to learn from
    making.open_or_make(tmp_path / "index", trained, encoders, "run", moment_frames=0)
    index()
    opened = store.open_index(tmp_path / "index")
    kind = update.feature_type(trained)
    [rows] = store.scan(opened, opened.videos.schema.names, where=None, rows=99)
    model = jax.tree.map(lambda x: x[0], store.features(opened, rows, kind))
    rng = np.random.default_rng(0)
    videos = []
    for i in range(400):
        vector = rng.standard_normal(model.video.shape).astype(np.float32)
        drawn = model._replace(video=vector / np.linalg.norm(vector))
        videos.append(Row(f"/{i}.mp4", "", 1, 1, "made up", 1.0, np.zeros(1), drawn, {}))

    store.put(opened, videos, replace=False)
    ann.tidy(opened)
    searcher = query.Searcher(opened, trained, encoders)
    found = query.like(searcher, np.stack([row.features.video for row in videos[:7]]), k=1)

    assert [one.index_type for one in opened.videos.list_indices()] == ["IvfRq"]
    assert [answers.hits[0].path for answers in found] == [row.path for row in videos[:7]]


def damage_manifests(folder):
    for file in folder.glob("videos.lance/_versions/*"):
        file.write_bytes(b"something else")


def damage_metadata(folder):
    shutil.rmtree(folder / "unreadable.lance")


def test_frames_to_find_moments_by_are_kept_where_asked_for(
    index, trained, encoders, clips, tmp_path
):
    making.open_or_make(tmp_path / "index", trained, encoders, "run", moment_frames=0)
    place = tmp_path / "with frames"
    opened = making.open_or_make(place, trained, encoders, "run", moment_frames=5)
    update.update(opened, trained, encoders, listing.read(clips), progress=False)
    path = clips / "test-00001.mp4"
    [(_, clip)] = clip_features.encode_clips(
        trained, encoders, [path], progress=False, most_frames=5
    )

    frames, times = store.moment_frames(store.open_index(place), str(path))

    assert frames.shape == (5, 64) and times[-1] > 3
    np.testing.assert_array_equal(times, clip.frame_times)
    # Of float16, and of batches of other sizes.
    np.testing.assert_allclose(frames, clip.frames, rtol=2e-3, atol=2e-3)
    with pytest.raises(ValueError, match=r"has no video /it's\.mp4"):
        store.moment_frames(opened, "/it's.mp4")
    with pytest.raises(ValueError, match=r"keeps no frames to find moments by"):
        store.moment_frames(store.open_index(tmp_path / "index"), str(path))
    with pytest.raises(ValueError, match=r"--moment-frames 7: .* keeps 5 of each"):
        making.open_or_make(place, trained, encoders, "run", moment_frames=7)


def test_an_index_that_another_process_is_changing_is_not_changed_but_searched(
    index, trained, encoders, clips, tmp_path
):
    index()
    place = tmp_path / "index"
    opened = store.open_index(place)
    program = (
        "import sys; from xclip_jax.index import lock\n"
        f"with lock.held({str(place)!r}): print('held', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=r"index is being changed by another process"):
            making.fill(opened, trained, encoders, listing.read(clips), progress=False)
        assert len(query.texts(query.Searcher(opened, trained, encoders), ["a"], k=9)[0].hits) == 4
        other.kill()
    making.fill(opened, trained, encoders, listing.read(clips), progress=False)


def test_moments_are_the_parts_that_the_library_finds_in_the_best_videos(
    trained, encoders, run, clips, tmp_path, capsys
):
    opened = making.open_or_make(tmp_path / "i", trained, encoders, run, moment_frames=64)
    making.fill(opened, trained, encoders, listing.read(clips), progress=False)
    searcher = query.Searcher(opened, trained, encoders)
    texts = ["a red circle moves up", "two shapes"]

    found = spans.find(searcher, texts, k=2, exact=True)

    library = xclip_jax.load(run)
    for text, parts, answers in zip(
        texts, found, query.texts(searcher, texts, k=2, exact=True), strict=True
    ):
        paths = [hit.path for hit in answers.hits]
        expected = [(path, *span) for path in paths for span in library.moments(text, path, k=2)]
        expected = sorted(expected, key=lambda part: -part[3])[:2]
        assert {part.path for part in parts} <= set(paths)
        # The index keeps float16, which changes the scores by 0.001 or so.
        np.testing.assert_allclose([x.score for x in parts], [x[3] for x in expected], atol=0.02)
    cli.main(["search", "--index", str(tmp_path / "i"), "--moments", "-k", "2", "--json", *texts])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["query"] for line in lines] == texts
    for line, parts in zip(lines, found, strict=True):
        assert [(x["path"], x["start"], x["end"]) for x in line["results"]] == [
            (x.path, x.start, x.end) for x in parts
        ]


@pytest.mark.parametrize("damage", [damage_manifests, damage_metadata], ids=["manifest", "gone"])
def test_a_damaged_index_is_one_line_that_says_what_to_do(index, tmp_path, damage):
    index()
    damage(tmp_path / "index")

    with pytest.raises(ValueError, match=r"delete it and index\s+anew") as caught:
        store.open_index(tmp_path / "index")

    assert f"--index {tmp_path / 'index'}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_place_without_an_index_is_one_line_and_stays_empty(tmp_path):
    with pytest.raises(FileNotFoundError, match="no index there; make one with xclip-jax index"):
        store.open_index(tmp_path / "nothing")

    assert not (tmp_path / "nothing").exists()


def test_a_folder_without_clips_is_one_line(tmp_path):
    (tmp_path / "notes.txt").write_text("no video")

    with pytest.raises(ValueError, match=r"holds no video: looked for \.avi") as caught:
        listing.read(tmp_path)

    assert "\n" not in str(caught.value)


def test_a_folder_of_nothing_but_broken_clips_is_one_line(trained, encoders, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    opened = making.make(tmp_path / "index", trained, encoders, "run")

    with pytest.raises(ValueError, match=r"none of the 1 clips in .* can be read"):
        making.fill(opened, trained, encoders, listing.read(tmp_path), progress=False)


def test_without_lancedb_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ValueError, match=r"pip install 'xclip_jax\[index\]'"):
        store.require()
