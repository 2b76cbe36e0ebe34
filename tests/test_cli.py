"""The command line: help that works, each command end to end, and one line for every mistake."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import rendered

from xclip_jax import cli
from xclip_jax.frames import decode_jpeg
from xclip_jax.records import Shards

COMMANDS = (
    *("demo", "build", "compress", "doctor", "train"),
    *("eval", "index", "search", "explain", "convert", "embed", "export", "download", "plan"),
)


@pytest.fixture(scope="module")
def altered_run(run, tmp_path_factory):
    """A copy of the run whose config describes another model."""
    folder = tmp_path_factory.mktemp("altered") / "run"
    shutil.copytree(run, folder)
    facts = json.loads((folder / "config.json").read_text())
    facts["config"]["model"]["embed_dim"] = 128
    (folder / "config.json").write_text(json.dumps(facts))
    return folder


def fails(capsys, argv) -> str:
    """Returns the one message with which a command ends."""
    with pytest.raises(SystemExit) as caught:
        cli.main(list(map(str, argv)))

    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert error.startswith("xclip-jax: ") and error.count("xclip-jax: ") == 1
    assert "Traceback" not in error
    return error


def test_a_bad_weight_file_is_refused_before_jax_is_loaded(tmp_path):
    page = tmp_path / "ViT-B-32.pt"
    page.write_text("<!DOCTYPE html><html></html>")
    code = (
        "import sys\n"
        "from xclip_jax import cli\n"
        "try:\n"
        f"    cli.main(['convert', {str(page)!r}, '--out', {str(tmp_path / 'out')!r}])\n"
        "finally:\n"
        "    print('jax' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (2, "False\n")
    assert "it is a web page" in done.stderr


def outputs(capsys, argv) -> str:
    cli.main(list(map(str, argv)))
    return capsys.readouterr().out


def test_help_lists_the_commands_with_examples(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])

    text = capsys.readouterr().out
    assert caught.value.code == 0
    for name in COMMANDS:
        assert re.search(rf"^ +{name} +\w", text, re.MULTILINE)
        assert f"  xclip-jax {name}" in text


def test_every_example_is_a_command_that_exists(capsys):
    pages = []
    for name in ([], *([name] for name in COMMANDS)):
        with pytest.raises(SystemExit):
            cli.main([*name, "--help"])
        pages.append(capsys.readouterr().out)
    lines = re.findall(r"^  (xclip-jax .*?)(?:   .*)?$", "\n".join(pages), re.MULTILINE)

    for line in lines:
        assert callable(cli._parse(shlex.split(line)[1:]).run)

    assert len(lines) >= 2 * len(COMMANDS)


def mistakes():
    """Yields (what is wrong, command, what the message must say); {} are the fixtures' folders."""
    train = "train --config shapes --config.data.dir={shards} --workdir {new}"
    yield (
        "key",
        f"{train} --config.batchsize=8",
        r"no such key; did you mean --config\.batch_size\?",
    )
    yield "group", f"{train} --config.model=8", "--config.model: the config has no such key"
    yield "type", f"{train} --config.batch_size=many", "expected a value of type int, like 64"
    yield "zero", f"{train} --config.batch_size=0", r"config\.batch_size=0: expected more than 0"
    yield "no value", f"{train} --config.seed", r"expected --config\.seed=VALUE"
    yield (
        "config",
        "train --config shape --workdir {new}",
        "unknown: expected one of .*jsonl, .*shapes",
    )
    yield (
        "config file",
        "train --config {new}.py --workdir {new}",
        r"new\.py: there is no such file",
    )
    yield (
        "argument",
        "train --config shapes:hed=meanP --workdir {new}",
        "takes model, head, seed, smoke",
    )
    yield "head", f"{train} --config.model.head=mean", "is not one of .*meanP.*seqTransf"
    yield (
        "shards",
        "train --config shapes --config.data.dir={new} --workdir {new}",
        r"No manifest\.json in .*new: not a folder of shards.* run `xclip-jax build`",
    )
    yield "train split", f"{train} --config.data.train_split=all", "no split 'all', only test, tw"
    yield "batch", f"{train} --config.batch_size=121", r"has 120 .*pairs.*batch_size to 120 or less"
    yield (
        "vocabulary's size",
        "train --config jsonl:arch=vit_b32 --config.data.dir={shards} --workdir {new}",
        r"the vocabulary has \d+ entries, the model 49408: give .* --config\.data\.vocab=FILE",
    )
    yield (
        "vocabulary",
        f"{train} --config.data.vocab={{shapes}}/rendered/captions.jsonl",
        r"captions\.jsonl is not a CLIP vocabulary .* expected .*merges\.txt",
    )
    yield (
        "vocabulary file",
        f"{train} --config.data.vocab={{new}}",
        r"config\.data\.vocab names .*new, which is no file; expected .*merges\.txt",
    )
    yield (
        "other settings",
        "train --config shapes --config.data.dir={shards} --workdir {run}",
        r"holds a run with other settings; choose a new --workdir.*\n"
        r"  batch_size: 8 before, 64 now\n",
    )
    yield "no run", "eval --workdir {new}", r"is not a run: expected .*config\.json"
    yield (
        "mismatched checkpoint",
        "eval --workdir {altered}",
        r"checkpoint in .*run is of another model:\n  clip\..*64.* in the checkpoint, .*128",
    )
    yield "step", "eval --workdir {run} --checkpoint 5", r"choose last, best or one of \[.*6\]"
    yield (
        "no step",
        "search a --videos {videos} --workdir {run} --checkpoint x",
        "choose last, best",
    )
    yield "split", "eval --workdir {run} --split val", "no split 'val', only test, twins, train"
    yield "data", "eval --workdir {run} --data {new}", r"No manifest\.json in .*new"
    yield "k", "search a --videos {videos} --workdir {run} -k 0", "-k 0: expected 1 or more"
    yield "folder", "search a --videos {new} --workdir {run}", "--videos .*new is not a folder"
    yield "no clips", "search a --videos {shards} --workdir {run}", "holds no video: looked for"
    yield "no list", "build jsonl --out {new}", "build jsonl needs --captions FILE"
    yield "list", "build jsonl --out {new} --captions {new}.csv", r"No list of captions .*new\.csv"
    listed = "build jsonl --out {new} --captions {shapes}/rendered/captions.jsonl"
    yield "root", f"{listed} --videos {{new}}", "No folder of videos .*new"
    yield "pixels", f"{listed} --short-side 0", "--short-side 0: expected 1 or more"
    yield "rate", f"{listed} --rate -1", "--rate -1: expected 0 or more"
    yield "odd clips", "build shapes --out {new} --clips 3", "give an even train_clips"


@pytest.mark.parametrize(
    "command, message", [pytest.param(*rest, id=name) for name, *rest in mistakes()]
)
def test_a_mistake_is_one_message_without_traceback(
    command, message, run, altered_run, shapes, tmp_path, capsys
):
    folders = {
        "run": run,
        "altered": altered_run,
        "shapes": shapes,
        "shards": shapes / "shards",
        "videos": shapes / "rendered" / "videos",
        "new": tmp_path / "new",
    }

    error = fails(capsys, [word.format(**folders) for word in command.split()])

    assert re.search(message, error)


def test_an_interrupted_command_says_how_to_go_on(tmp_path, capsys):
    config = tmp_path / "config.py"
    config.write_text("def get_config(arg):\n    raise KeyboardInterrupt\n")

    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "--config", str(config), "--workdir", str(tmp_path)])

    assert caught.value.code == 130
    assert "run the same command again to go on" in capsys.readouterr().err


def test_the_traceback_can_be_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("XCLIP_JAX_TRACEBACK", "1")

    with pytest.raises(FileNotFoundError, match="is not a run"):
        cli.main(["eval", "--workdir", str(tmp_path)])


def test_eval_prints_its_protocol_a_table_and_one_json_line(run, tmp_path, capsys):
    page = tmp_path / "page.html"
    measured = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])

    *protocol, line = outputs(capsys, ["eval", "--workdir", run, "--report", page]).splitlines()
    protocol, table = protocol[:4], protocol[4:]

    assert protocol == [
        "shapes, split test: 6 videos, 30 captions (5 a video); not official: no published"
        " protocol has this split",
        "trained on shapes, split train: 24 videos, 120 captions (5 a video); no published"
        " protocol has this split",
        "checkpoint: step 6, the last, not chosen by any score; ties: average;"
        " post-processing: none",
        "arithmetic: features float32; scores float32 at the highest precision",
    ]
    assert [row[:13].strip() for row in table[:3]] == ["", "text to video", "video to text"]
    assert json.loads(line) | {"step": 6} == measured
    written = page.read_text(encoding="utf-8")
    assert all(row in written for row in [*protocol, *table]) and "Worst failures" in written


def test_eval_adds_dual_softmax_by_its_name_where_asked_for(run, capsys):
    *rows, line = outputs(capsys, ["eval", "--workdir", run, "--dual-softmax"]).splitlines()

    plain, scores = outputs(capsys, ["eval", "--workdir", run]).splitlines()[-1], json.loads(line)
    added = {name for name in scores if name not in json.loads(plain)}
    assert {name.split("/")[0] for name in added} == {"dual_softmax"} and len(added) == 10
    assert sum(row.startswith("text to video (dual_softmax)") for row in rows) == 1
    assert any("post-processing: none, but for the rows (dual_softmax)" in row for row in rows)


def test_eval_takes_another_split_without_its_twins(run, capsys):
    line = outputs(capsys, ["eval", "--workdir", run, "--split", "twins"]).splitlines()[-1]

    scores = json.loads(line)
    assert scores["protocol"]["split"] == "twins" and "t2v/r1" in scores
    assert not any(name.startswith("twins/") for name in scores)


def test_a_page_that_cannot_be_written_is_refused_before_the_evaluation(run, tmp_path, capsys):
    for bad in ("page.txt", tmp_path / "no folder" / "page.html"):
        said = fails(capsys, ["eval", "--workdir", run, "--report", bad])

        assert f"--report {bad}: expected" in said


def test_search_prints_the_best_clips_of_each_query(run, shapes, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(run, workdir)
    videos = tmp_path / "my clips"
    videos.mkdir()
    for path in sorted((shapes / "rendered" / "videos").glob("test-*.mp4"))[:4]:
        shutil.copy(path, videos)

    text = outputs(
        capsys,
        ["search", "a circle", "a red one", "-k", 3, "--videos", videos, "--workdir", workdir],
    )

    blocks = [block.splitlines() for block in text.strip().split("\n\n")]
    assert [query for query, *_ in blocks] == ["a circle", "a red one"]
    for _, *answers in blocks:
        found = [
            re.fullmatch(r" +(\d)\. +(-?[\d.]+)  (.*\.mp4)", line).groups() for line in answers
        ]
        ranks, scores, paths = zip(*found, strict=True)
        assert ranks == ("1", "2", "3")
        assert list(map(float, scores)) == sorted(map(float, scores), reverse=True)
        assert len(set(paths)) == 3 and all(path.startswith(str(videos)) for path in paths)
    assert len(list(workdir.glob("index-my clips-*"))) == 1


@pytest.fixture
def listed(tmp_path):
    """A list of three clips, and the beginning of the command that builds shards of it."""
    (tmp_path / "videos").mkdir()
    entries = [
        {"video": "one.mp4", "captions": ["first"], "split": "train"},
        {"video": "two.mp4", "captions": ["second", "the second"], "split": "train"},
        {"video": "three.mp4", "captions": ["third"], "split": "val"},
    ]
    for seconds, entry in enumerate(entries, 2):
        rendered.render(tmp_path / "videos" / entry["video"], 5 * seconds, fps=5)
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, entries)))
    return (
        f"build jsonl --captions {tmp_path}/list.jsonl --videos {tmp_path}/videos"
        f" --out {tmp_path}/shards --workers 1"
    ).split()


def test_a_build_of_missing_clips_ends_with_how_many_and_what_to_do(listed, tmp_path, capsys):
    shutil.rmtree(tmp_path / "videos")
    (tmp_path / "videos").mkdir()

    with pytest.raises(SystemExit):
        cli.main(listed)

    *named, last = capsys.readouterr().err.splitlines()
    assert sum("skipped" in line and "missing" in line for line in named) == 3
    assert re.match("xclip-jax: 3 of 3 clips cannot be used, .*: missing.* --allow-missing", last)


def test_build_jsonl_makes_shards_of_a_list(listed, tmp_path, capsys):
    text = outputs(capsys, [*listed, "--short-side", 32, "--rate", 2])

    assert "train: 2 of 2 videos, 3 captions" in text and "val: 1 of 1 videos, 1 captions" in text
    assert "0 skipped" in text
    shards = Shards(tmp_path / "shards", "train")
    records = [shards[i] for i in range(len(shards))]
    assert [record.video_id for record in records] == ["one", "two"]
    assert records[1].captions == ["second", "the second"]
    assert [len(record.frames) for record in records] == [2 * 2, 2 * 3]
    assert decode_jpeg(records[0].frames[0]).height == 32


def test_build_jsonl_puts_all_clips_into_the_split_asked_for(listed, tmp_path, capsys):
    text = outputs(capsys, [*listed, "--split", "mine"])

    assert "mine: 3 of 3 videos, 4 captions" in text
    assert list(Shards(tmp_path / "shards", "mine").manifest["splits"]) == ["mine"]
