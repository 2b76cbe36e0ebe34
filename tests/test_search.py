"""Search in a folder of clips: the order of answers, and what is encoded anew and what is not."""

import os
import shutil
import zipfile

import jax
import numpy as np
import pytest
import rendered
from flax import nnx

from xclip_jax import evaluate, search, workdir
from xclip_jax.records import Shards

CLIPS = 5


@pytest.fixture(scope="module")
def trained(run):
    return workdir.load(run)


@pytest.fixture(scope="module")
def encoders(trained):
    return evaluate.make_encoders(trained.graphdef)


@pytest.fixture
def clips(shapes, tmp_path):
    """A folder with five of the rendered test clips, one of them in a subfolder."""
    folder = tmp_path / "clips"
    (folder / "more").mkdir(parents=True)
    for i in range(CLIPS):
        target = folder / "more" if i == 2 else folder
        shutil.copy(shapes / "rendered" / "videos" / f"test-{i:05d}.mp4", target)
    return folder


@pytest.fixture
def index(trained, encoders, clips, tmp_path):
    """Indexes the folder, with the features in a file beside it."""

    def index(model=trained):
        return search.index_folder(model, encoders, clips, tmp_path / "features.npz")

    return index


def make_unreadable(path):
    """Destroys a clip in a way that its size and time of change do not show."""
    stat = path.stat()
    path.write_bytes(b"\0" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def features_of(index):
    """Returns the features of each clip by its file's name."""
    rows = zip(*index.features, strict=True)
    return {os.path.basename(path): row for path, row in zip(index.paths, rows, strict=True)}


def assert_same(one, other):
    for x, y in zip(one, other, strict=True):
        np.testing.assert_array_equal(x, y)


def test_answers_come_in_the_order_of_brute_force(trained, encoders, index):
    indexed = index()
    model = nnx.merge(trained.graphdef, trained.params)
    queries = ["a red square moves left", "a circle grows, then it moves up", "zebra"]

    found = search.search(trained, encoders, indexed, queries, k=3)

    similarity = jax.jit(model.similarity)
    for query, answers in zip(queries, found, strict=True):
        text = jax.jit(model.encode_text)(*trained.tokenizer([query], trained.intake.max_words))
        expected = []
        for i, path in enumerate(indexed.paths):  # one pair at a time
            video = jax.tree.map(lambda x, i=i: x[i : i + 1], indexed.features)
            expected.append((path, similarity(text, video).item()))
        expected.sort(key=lambda answer: -answer[1])
        assert [path for path, _ in answers] == [path for path, _ in expected[:3]]
        # Logits of tens, of which float32 has 1e-5.
        np.testing.assert_allclose(
            [score for _, score in answers], [score for _, score in expected[:3]], atol=1e-4
        )


def test_more_answers_than_clips_are_all_of_them(trained, encoders, index):
    [found] = search.search(trained, encoders, index(), ["a circle"], k=CLIPS + 4)

    assert len(found) == CLIPS


def test_features_equal_those_of_the_shards_up_to_jpeg_loss(trained, encoders, index, shapes):
    shards = Shards(shapes / "shards", "test")
    _, from_shards = evaluate.encode_split(
        encoders,
        trained.params,
        shards,
        trained.intake,
        batch_size=8,
        progress=False,
    )

    found = features_of(index())

    for i in range(CLIPS):
        video, frames, mask = found[f"{shards[i].video_id}.mp4"]
        np.testing.assert_array_equal(mask, from_shards.mask[i])
        # Values reach 0.3; quality 95 changes them by 0.011 at most, another clip's by 0.1.
        np.testing.assert_allclose(video, from_shards.video[i], rtol=0, atol=0.02)
        np.testing.assert_allclose(frames, from_shards.frames[i], rtol=0, atol=0.02)
    assert np.abs(from_shards.video[0] - from_shards.video[1]).max() > 0.05


def test_a_second_search_decodes_nothing(index, clips):
    before = index()
    for path in clips.rglob("*.mp4"):
        make_unreadable(path)

    after = index()

    assert after.paths == before.paths and len(after.paths) == CLIPS
    assert_same(after.features, before.features)


def test_only_what_changed_is_encoded_anew(index, clips, shapes):
    before = features_of(index())
    for path in clips.rglob("*.mp4"):
        make_unreadable(path)
    changed = clips / "test-00001.mp4"
    shutil.copyfile(shapes / "rendered" / "videos" / "test-00003.mp4", changed)
    os.utime(changed, ns=(0, 0))

    after = features_of(index())

    assert_same(after["test-00001.mp4"], before["test-00003.mp4"])
    for name in before.keys() - {changed.name}:
        assert_same(after[name], before[name])


def test_a_deleted_clip_is_gone_and_a_new_one_is_there(index, clips):
    index()
    (clips / "test-00000.mp4").unlink()

    without = index()
    shutil.copy(clips / "test-00001.mp4", clips / "a copy.MP4")
    after = features_of(index())

    assert len(without.paths) == CLIPS - 1
    assert "test-00000.mp4" not in after
    assert_same(after["a copy.MP4"], after["test-00001.mp4"])


def test_a_clip_that_cannot_be_read_is_named_and_left_out(index, clips, capsys):
    (clips / "broken.mp4").write_bytes(b"not a video")

    indexed = index()

    assert len(indexed.paths) == CLIPS
    assert f"left out: {clips / 'broken.mp4'}" in capsys.readouterr().err


def test_a_link_to_nowhere_is_named_and_left_out(index, clips, capsys):
    (clips / "gone.mp4").symlink_to(clips / "nothing.mp4")

    indexed = index()

    assert len(indexed.paths) == CLIPS
    assert f"left out: {clips / 'gone.mp4'}" in capsys.readouterr().err


def test_a_clip_of_too_few_frames_a_second_is_named_and_left_out(index, trained, clips, capsys):
    rendered.render(clips / "slow.mp4", 9, fps=3)  # the others have 4 a second
    dense = trained._replace(frame_policy=trained.frame_policy | {"name": "clip4clip_4fps"})

    indexed = index(dense)

    assert len(indexed.paths) == CLIPS
    assert f"left out: {clips / 'slow.mp4'}" in capsys.readouterr().err


def test_features_of_another_model_are_not_used(trained, index, capsys):
    before = index()
    other = trained._replace(params=jax.tree.map(lambda leaf: leaf * 0.9, trained.params))

    after = index(other)

    assert "is of another model: encoding anew" in capsys.readouterr().err
    assert np.abs(after.features.video - before.features.video).max() > 0.01
    assert_same(index(other).features, after.features)


def truncated(file):
    file.write_bytes(file.read_bytes()[:-100])


def flipped(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def foreign_archive(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "not features")


def single_array(file):
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"something else"),
        truncated,
        flipped,
        foreign_archive,
        single_array,
    ],
    ids=["empty", "text", "truncated", "flipped", "foreign", "array"],
)
def test_a_damaged_features_file_is_one_line_that_says_what_to_do(index, tmp_path, damage):
    index()
    damage(tmp_path / "features.npz")

    with pytest.raises(ValueError, match="delete it, or give another --features") as caught:
        index()

    assert str(tmp_path / "features.npz") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_clips_is_one_line(trained, encoders, tmp_path):
    (tmp_path / "notes.txt").write_text("no video")

    with pytest.raises(ValueError, match=r"holds no video: looked for \.avi") as caught:
        search.index_folder(trained, encoders, tmp_path, tmp_path / "features.npz")

    assert "\n" not in str(caught.value)


def test_a_folder_of_nothing_but_broken_clips_is_one_line(trained, encoders, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"not a video")

    with pytest.raises(ValueError, match=r"none of the 1 clips in .* can be read"):
        search.index_folder(trained, encoders, tmp_path, tmp_path / "features.npz")

    assert not (tmp_path / "features.npz").exists()
