"""`xclip-jax embed`: features in files that NumPy and Parquet read, whole after a stop too."""

import re
import shutil

import numpy as np
import pyarrow.parquet as parquet
import pytest

import xclip_jax
from xclip_jax import cli, embed


@pytest.fixture(scope="module")
def model(run):
    return xclip_jax.load(run)


@pytest.fixture
def clips(shapes, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for i in range(3):
        shutil.copy(shapes / "rendered" / "videos" / f"test-{i:05d}.mp4", folder)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def columns_of(file) -> dict:
    """Returns the columns of either kind of file as nested lists, those of Parquet flattened."""
    if file.suffix == ".parquet":
        return parquet.read_table(file).to_pydict()
    with np.load(file, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_a_folder_becomes_a_file_of_features(model, clips, tmp_path, capsys, kind):
    out = tmp_path / f"clips.{kind}"

    said = embed.clips(model, clips, out)

    assert said == f"3 clips in {out}; 1 left out, 0 encoded before"
    said = capsys.readouterr()
    assert f"left out: {clips / 'broken.mp4'}" in said.err
    columns = columns_of(out)
    paths = sorted(clips.glob("test-*.mp4"))
    assert list(columns["path"]) == list(map(str, paths))
    expected = model.encode_video(paths)
    for name, x in expected._asdict().items():
        assert np.shape(columns[name])[0] == 3
        np.testing.assert_allclose(
            np.reshape(columns[name], x.shape).astype(np.float32), x, rtol=0, atol=1e-5
        )
    times = np.array(columns["times"], np.float32)
    assert (np.isnan(times) == ~expected.mask).all()
    assert (times[:, :3] == [0, 1, 2]).all()
    assert not list(tmp_path.glob("clips.*.parts")) and not list(tmp_path.glob("*.tmp"))


def test_the_lines_of_a_file_become_rows_in_their_order(model, run, tmp_path):
    (tmp_path / "texts.txt").write_text("a red square\n\n  ein größerer Kreis \n", "utf-8")
    out = tmp_path / "texts.parquet"

    cli.main(
        ["embed", "--workdir", str(run), "--texts", f"{tmp_path}/texts.txt", "--out", f"{out}"]
    )

    columns = columns_of(out)
    assert columns["text"] == ["a red square", "ein größerer Kreis"]
    expected = model.encode_text(columns["text"])
    np.testing.assert_allclose(columns["sentence"], expected.sentence, rtol=0, atol=1e-5)
    assert np.shape(columns["words"]) == (2, 16 * 64)


def test_what_was_encoded_before_a_stop_is_kept(model, clips, tmp_path, capsys):
    out = tmp_path / "clips.npz"
    with pytest.raises(KeyboardInterrupt), embed.Parts(out, model.fingerprint) as parts:
        features = model.encode_video([clips / "test-00000.mp4"])
        row = {name: x[0] for name, x in features._asdict().items()}
        key = embed.key_of(clips / "test-00000.mp4")
        parts.add({"key": key, "path": "kept", "times": np.zeros(8, np.float32)} | row)
        raise KeyboardInterrupt

    said = embed.clips(model, clips, out)

    assert said == f"3 clips in {out}; 1 left out, 1 encoded before"
    assert columns_of(out)["path"][0] == "kept" and len(columns_of(out)["video"]) == 3


def test_parts_of_another_model_are_refused(model, clips, tmp_path):
    with embed.Parts(tmp_path / "clips.npz", "another") as parts:
        parts.add({"key": "a", "path": "a", "video": np.zeros(4, np.float32)})

    with pytest.raises(ValueError, match=r"clips\.npz\.parts holds features of another model"):
        embed.clips(model, clips, tmp_path / "clips.npz")


def test_a_damaged_part_is_named(model, clips, tmp_path):
    (tmp_path / "clips.npz.parts").mkdir()
    (tmp_path / "clips.npz.parts" / "000000.npz").write_bytes(b"PK\x03\x04")

    with pytest.raises(ValueError, match=r"000000\.npz is damaged .* remove it"):
        embed.clips(model, clips, tmp_path / "clips.npz")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("clips", None, "--videos .*clips is not a folder"),
        ("blank.txt", b"\n \n", "holds no text: expected one a line"),
        ("other.txt", b"\xff\xfe\xff", "is not in UTF-8"),
    ],
    ids=["no folder", "blank", "encoding"],
)
def test_what_cannot_be_embedded_is_one_line(model, tmp_path, name, content, said):
    write = embed.clips if content is None else embed.texts
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
        write(model, tmp_path / name, tmp_path / "out.npz")

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("new.csv", r"--out .*: expected a name that ends with \.npz or \.parquet"),
        ("here.npz", r"--out .* exists: choose another name"),
        ("gs://bucket/new.npz", r"--out gs://bucket/new\.npz: expected a file of this machine"),
    ],
    ids=["kind", "exists", "bucket"],
)
def test_a_wrong_name_is_told_before_the_model_is_loaded(tmp_path, capsys, out, said):
    (tmp_path / "here.npz").touch()

    out = out if ":" in out else str(tmp_path / out)
    with pytest.raises(SystemExit):
        cli.main(["embed", "--workdir", "no run", "--videos", "v", "--out", out])

    error = capsys.readouterr().err
    assert re.search(said, error) and error.count("\n") == 1
