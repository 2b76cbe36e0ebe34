"""What a score stands for: splits, how much of them is there, and which checkpoint was chosen."""

import json
import shutil

import jax
import numpy as np
import pytest

from xclip_jax import checkpoint, cli, holdout, protocol, train, workdir
from xclip_jax.records import Shards

HELD_OUT, STEPS, EVERY = 4, 6, 2


@pytest.fixture
def folder(shapes, tmp_path):
    """A copy of the shards whose manifest a test may change."""
    return shutil.copytree(shapes / "shards", tmp_path / "shards")


def publish(folder, **splits) -> None:
    """Writes into the manifest what is published of each split, and whether it is all there."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    for split, (published, complete) in splits.items():
        manifest["splits"][split] |= {"official": published, "complete": complete}
    file.write_text(json.dumps(manifest))


def config_of(tiny_config, **changes):
    """Returns the config with `changes`, "data__held_out" for config.data.held_out."""
    for name, value in changes.items():
        *path, leaf = name.split("__")
        node = tiny_config
        for key in path:
            node = node[key]
        node[leaf] = value
    return tiny_config


def ids(shards) -> list[str]:
    return [shards[i].video_id for i in range(len(shards))]


def test_videos_are_held_out_by_their_ids_and_the_seed(shapes):
    shards = Shards(shapes / "shards", "train")
    everything = ids(shards)

    kept, out = holdout.hold_out(shards, 5, seed=1)
    again = holdout.hold_out(Shards(shapes / "shards", "train"), 5, seed=1)[1]
    other = holdout.hold_out(shards, 5, seed=2)[1]

    assert len(out) == 5 and len(kept) == len(everything) - 5
    assert ids(out) == ids(again) == list(out.video_ids) != ids(other)
    assert ids(kept) == [video for video in everything if video not in ids(out)]
    for part in (kept, out):
        counts = [len(part[i].captions) for i in range(len(part))]
        assert counts == part.captions_per_video.tolist()


def test_a_missing_video_moves_no_more_than_one_other(shapes):
    shards = Shards(shapes / "shards", "train")
    _, out = holdout.hold_out(shards, 5, seed=3)
    for missing in (0, 7, len(shards) - 1):
        there = np.delete(np.arange(len(shards)), missing)

        _, less = holdout.hold_out(holdout.Part(shards, there, "train"), 5, seed=3)

        assert len(set(less.video_ids) - set(out.video_ids)) <= 1


@pytest.mark.parametrize("count", [-1, 24, 100])
def test_all_of_the_training_videos_cannot_be_held_out(tiny_config, count):
    config = config_of(tiny_config, select_on="val", data__held_out=count)

    with pytest.raises(ValueError, match=f"held_out={count}: expected .*less than the 24 videos"):
        protocol.open_data(config)


@pytest.mark.parametrize(
    "changes, messages",
    [
        ({"select_on": "best"}, ["config.select_on='best': expected last or val or test"]),
        ({"select_on": "val"}, ["config.data.val_split", "neither is given, give one"]),
        (
            {"select_on": "val", "data__val_split": "twins", "data__held_out": 3},
            ["config.data.held_out=N", "both are given, give one"],
        ),
        (
            {"select_on": "dev", "data__held_out": 3},
            ["config.select_on='dev'", "config.data.held_out=3 is for config.select_on=val"],
        ),
        ({"select_on": "val", "data__val_split": "dev"}, ["has no split 'dev', only"]),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused_in_one_line(tiny_config, changes, messages):
    with pytest.raises(ValueError) as error:
        protocol.open_data(config_of(tiny_config, **changes))

    assert "\n" not in str(error.value)
    assert [message for message in messages if message not in str(error.value)] == []


@pytest.mark.parametrize(
    "train_split, test_split, official, says",
    [
        (([24, 120], True), ([6, 30], True), True, "(5 a video); official"),
        (([24, 120], True), ([7, 35], False), False, "not official: 6 of 7 videos, 30 of 35 cap"),
        (([30, 150], False), ([6, 30], True), False, "the training split was not complete"),
        ((None, False), (None, False), False, "not official: no published protocol has"),
    ],
)
def test_a_run_is_official_only_where_all_of_both_splits_is_there(
    folder, tiny_config, train_split, test_split, official, says
):
    publish(folder, train=train_split, test=test_split)
    data = protocol.open_data(config_of(tiny_config, data__dir=str(folder)))

    stands_for = evaluated(data.test, protocol.training(data))

    assert stands_for["official"] is official and stands_for["videos_trained_on"] == 0
    text = protocol.lines(stands_for)
    assert says in text.splitlines()[0]
    assert text.startswith("shapes, split test: 6 videos, 30 captions")
    assert "step 6, the last; ties: reference; post-processing: none\n" in text
    assert text.endswith("\narithmetic: in head")


def evaluated(shards, trained_on: dict) -> dict:
    return protocol.evaluation(
        shards, trained_on, step=6, chosen="the last", ties="reference", arithmetic="in head"
    )


def test_of_weights_from_elsewhere_it_is_not_known_what_was_trained_on(folder):
    publish(folder, test=([6, 30], True))

    stands_for = evaluated(Shards(folder, "test"), {})

    assert stands_for["official"] is None and stands_for["videos_trained_on"] is None
    text = protocol.lines(stands_for)
    assert "; official only if none of its videos was trained on, which is not known\n" in text
    assert "\ntrained on videos that are not known\n" in text


@pytest.mark.parametrize("kept", [23, 17])
def test_a_split_whose_videos_were_trained_on_is_not_official(folder, tiny_config, kept):
    """As MSR-VTT's test_full after train_9k: both whole, one in the other."""
    publish(folder, train=([24, 120], True), test=([6, 30], True))
    everything = Shards(folder, "train")
    held_out = holdout.Part(everything, np.arange(kept, 24), "held out")
    data = protocol.Data(
        holdout.Part(everything, np.arange(kept), "train"), held_out, everything, None
    )

    trained_on = json.loads(json.dumps(protocol.training(data)))  # as config.json keeps it
    stands_for = evaluated(everything, trained_on)

    assert stands_for["official"] is False and stands_for["videos_trained_on"] == kept
    assert not any("video_ids" in part for part in (stands_for, stands_for["trained_on"]))
    text = protocol.lines(stands_for)
    assert "; not official: videos of it were trained on\n" in text
    assert f"\n{kept} of the 24 videos of train are trained on too\n" in text
    assert evaluated(held_out, trained_on)["videos_trained_on"] == 0
    assert evaluated(Shards(folder, "test"), trained_on)["official"] is True


def test_a_run_on_what_it_is_tested_on_says_so_before_it_starts(folder, tiny_config):
    config = config_of(tiny_config, data__dir=str(folder), data__train_split="test")

    plan = protocol.plan(config, protocol.open_data(config), total=6, epoch=15, every=15)

    assert "\n            6 of the 6 videos of test are trained on too\n" in plan


def test_of_a_run_of_an_earlier_version_the_overlap_is_not_known(folder, tiny_config):
    publish(folder, train=([24, 120], True), test=([6, 30], True))
    data = protocol.open_data(config_of(tiny_config, data__dir=str(folder)))
    trained_on = protocol.training(data)
    del trained_on["video_ids"]

    assert evaluated(data.test, trained_on)["official"] is None
    other = trained_on | {"data_set": "another"}
    assert evaluated(data.test, other)["official"] is True  # whose ids are its own


class Device:
    """What the arithmetic depends on."""

    def __init__(self, platform: str, kind: str, capability: str = ""):
        self.platform, self.device_kind = platform, kind
        self.compute_capability = capability


@pytest.mark.parametrize(
    ("device", "dtype", "precision", "says"),
    [
        (Device("cpu", "cpu"), "float32", None, "features float32; scores float32 at the h"),
        (
            Device("gpu", "NVIDIA H100 80GB HBM3", "9.0"),
            *("float32", None, "float32, multiplied in tensorfloat32 (NVIDIA H100 80GB HBM3); s"),
        ),
        (Device("gpu", "Tesla T4", "7.5"), "float32", None, "features float32; scores float32"),
        (Device("gpu", "NVIDIA A100", "8.0"), "float32", "highest", "features float32; scores"),
        (Device("gpu", "NVIDIA A100", "8.0"), "bfloat16", None, "features bfloat16; scores float"),
        (Device("tpu", "TPU v5e"), "float32", None, "float32, multiplied in bfloat16 (TPU v5e); s"),
        (Device("tpu", "TPU v5e"), "float32", "high", "multiplied in bfloat16_3x (TPU v5e); s"),
    ],
)
def test_the_protocol_names_the_arithmetic(
    tiny_config, monkeypatch, device, dtype, precision, says
):
    tiny_config.model.dtype = dtype
    monkeypatch.setattr(jax, "devices", lambda: [device])

    with jax.default_matmul_precision(precision):
        assert says in protocol.arithmetic(tiny_config)


def test_a_cross_encoder_in_bfloat16_has_no_float32_scores(tiny_config):
    tiny_config.model.dtype, tiny_config.model.head = "bfloat16", "tightTransf"

    assert protocol.arithmetic(tiny_config).endswith("; scores bfloat16, of the cross encoder")


def test_a_manifest_that_says_nothing_of_completeness_is_not_official(folder):
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["splits"]["test"].pop("complete", None)
    file.write_text(json.dumps(manifest))

    assert protocol.facts(Shards(folder, "test"))["complete"] is False


def test_videos_that_are_chosen_on_and_tested_on_are_counted(folder, tiny_config):
    changes = {"select_on": "val", "data__val_split": "test", "data__dir": str(folder)}
    data = protocol.open_data(config_of(tiny_config, **changes))

    text = protocol.plan(tiny_config, data, total=6, epoch=15, every=15)

    assert "6 videos of test are tested on too" in text


def test_the_plan_says_what_will_be_trained_chosen_and_tested(folder, tiny_config):
    publish(folder, train=([24, 120], True), test=([6, 30], True))
    changes = {"select_on": "val", "data__held_out": HELD_OUT, "data__dir": str(folder)}
    config = config_of(tiny_config, **changes)
    config.optimizer.warmup_fraction = 0.1
    data = protocol.open_data(config)

    plan = protocol.plan(config, data, total=7030, epoch=1406, every=1406)

    assert plan.splitlines() == [
        f"data        shapes in {folder}",
        "trained on  split train: 20 videos, 100 captions (5 a video), 4 more held out; complete",
        "chosen on   split 4 held out of train: 4 videos, 20 captions (5 a video); no published"
        " protocol has this split",
        "tested on   split test: 6 videos, 30 captions (5 a video); complete",
        "schedule    8 pairs a step, 1,406 steps an epoch, 0.4 epochs: 7,030 steps, 703 of them"
        " warm-up",
        "checkpoint  the best t2v/r1 on 4 videos held out of train; 4 held out of train is"
        " evaluated every 1,406 steps",
        "weights     random",
    ]


@pytest.fixture(scope="module")
def selected(shapes, tmp_path_factory):
    """The workdir of a run that chose on held-out videos, its scores and its config."""
    from conftest import _tiny_config

    changes = {"select_on": "val", "data__held_out": HELD_OUT, "eval_every_steps": EVERY}
    config = config_of(_tiny_config(shapes), keep_checkpoints=3, epochs=0.5, **changes)
    folder = tmp_path_factory.mktemp("selected")
    return folder, train.train_and_evaluate(config, folder), config


@pytest.fixture(scope="module")
def overtrained(selected, tmp_path_factory):
    """The same run, had its best evaluation been the one before the last."""
    old, _, config = selected
    folder = tmp_path_factory.mktemp("overtrained") / "run"
    shutil.copytree(old, folder, ignore=shutil.ignore_patterns("checkpoints"))
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with (
        checkpoint.open_folder(old, keep=3) as source,
        checkpoint.open_folder(folder, keep=1) as target,
    ):
        for step, r1 in ((2, 30.0), (4, 90.0), (6, 60.0)):
            abstract = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
                source.metadata(step).metadata,
            )
            state = checkpoint.restore(source, abstract, step)
            checkpoint.save(target, state, metrics={"t2v/r1": r1})
    return folder, train.train_and_evaluate(config, folder)


def read_lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def evaluate_again(folder, capsys, *arguments: str) -> tuple[str, dict]:
    """Returns what `xclip-jax eval` prints, and its JSON line."""
    cli.main(["eval", "--workdir", str(folder), *arguments])
    printed = capsys.readouterr().out
    return printed, json.loads(printed.splitlines()[-1])


def test_the_result_is_that_of_the_checkpoint_best_on_the_held_out(selected, capsys):
    folder, scores, _ = selected
    lines = read_lines(folder)
    watched = [line for line in lines if "t2v/r1" in line]
    best = max((line["t2v/r1"], line["step"]) for line in watched)[1]

    printed, evaluated = evaluate_again(folder, capsys)

    assert [line["step"] for line in watched] == [2, 4, STEPS]
    assert all(line["protocol"]["split"] == "4 held out of train" for line in watched)
    assert f"\ncheckpoint: step {best}, the best t2v/r1 on 4 videos held out of train;" in printed
    assert {name: evaluated[name] for name in scores} == scores
    assert evaluated["protocol"] == lines[-1]["protocol"]
    assert {name: lines[-1][f"selected/{name}"] for name in scores} == scores
    assert lines[-1]["protocol"]["split"] == "test" and lines[-1]["protocol"]["step"] == best
    assert lines[-1]["protocol"]["trained_on"]["held_out"] == HELD_OUT
    assert lines[-1]["protocol"]["videos_trained_on"] == 0
    kept = set(json.loads((folder / "config.json").read_text())["trained_on"]["video_ids"])
    assert len(kept) == 24 - HELD_OUT


def test_an_earlier_checkpoint_that_was_better_gives_the_result(overtrained, capsys):
    folder, scores = overtrained

    _, evaluated = evaluate_again(folder, capsys, "--checkpoint", "4")

    assert {name: evaluated[name] for name in scores} == scores
    assert read_lines(folder)[-1]["protocol"]["step"] == 4
    assert workdir.load(folder).step == 4 and workdir.load(folder, "last").step == STEPS


def test_a_finished_run_comes_to_the_same_result_again(selected, tmp_path):
    folder, scores, config = selected
    again = shutil.copytree(folder, tmp_path / "again")

    assert train.train_and_evaluate(config, again) == scores


def test_a_run_says_how_its_checkpoint_was_chosen(selected):
    folder, _, _ = selected

    assert workdir.load(folder, "last").chosen == "the last, not chosen by any score"
    assert workdir.load(folder, "6").chosen == "asked for by its step"
