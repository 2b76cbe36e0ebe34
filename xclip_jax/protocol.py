"""What a score means: which data, how much of the published split is there, which checkpoint.

A number without these cannot be compared, so every evaluation prints and writes them.
"""

import math
from typing import NamedTuple

import jax
import numpy as np

from xclip_jax import chips, metrics
from xclip_jax.holdout import Part, hold_out
from xclip_jax.records import Shards

SELECT_ON = ("last", "val", "test")


class Data(NamedTuple):
    """The splits that a run reads; `val` and `twins` are None where it has none."""

    train: Shards | Part
    val: Shards | Part | None
    test: Shards
    twins: Shards | None

    @property
    def monitored(self) -> Shards | Part:
        """What is evaluated while training goes on, and what the best checkpoint is best on."""
        return self.val or self.test


def open_data(config) -> Data:
    """Returns the splits that a config names; raises one ValueError for all that is wrong in it."""
    data, on_val = config.data, config.select_on == "val"
    problems = []
    if config.select_on not in SELECT_ON:
        problems.append(f"config.select_on={config.select_on!r}: expected {' or '.join(SELECT_ON)}")
    if on_val and bool(data.val_split) == bool(data.held_out):
        given = "both are" if data.held_out else "neither is"
        problems.append(
            "config.select_on=val chooses on config.data.val_split, or on the"
            f" config.data.held_out=N videos held out of training: {given} given, give one"
        )
    if data.held_out and not on_val:
        problems.append(
            f"config.data.held_out={data.held_out} is for config.select_on=val, not"
            f" {config.select_on}"
        )
    known = [f"{way}/{name}" for way in metrics.DIRECTIONS for name in metrics.COLUMNS]
    if config.best_metric not in known:
        problems.append(
            f"config.best_metric={config.best_metric!r}: expected one of {', '.join(known)}"
        )
    if problems:
        raise ValueError("; ".join(problems) + ".")
    train, val = Shards(data.dir, data.train_split), None
    if on_val and data.val_split:
        val = Shards(data.dir, data.val_split)
    elif on_val:
        train, val = hold_out(train, data.held_out, seed=config.seed)
    twins = Shards(data.dir, data.twin_split) if data.twin_split else None
    return Data(train, val, Shards(data.dir, data.eval_split), twins)


def facts(shards: Shards | Part) -> dict:
    """Returns what is there of a split, and what its published protocol has of it."""
    known = shards.manifest["splits"].get(shards.split, {})
    counts = shards.captions_per_video
    published = known.get("official")
    return {
        "data_set": shards.manifest["name"],
        "split": shards.split,
        "videos": len(shards),
        "captions": int(counts.sum()),
        "captions_per_video": [int(counts.min()), int(counts.max())],
        "published": published,  # videos and captions, None where nobody published any
        "complete": known.get("complete") is True,
    }


def training(data: Data) -> dict:
    """Returns the facts of what a run trains and chooses on, for all its later evaluations.

    They hold the ids of the videos that are trained on, for `trained_too`.
    """
    chosen_on = {}
    if data.val:
        tested = np.isin(data.val.video_ids, data.test.video_ids)
        chosen_on = {"val": facts(data.val) | {"videos_tested_on": int(tested.sum())}}
    held_out = len(data.val) if isinstance(data.val, Part) else 0
    ids = {"video_ids": data.train.video_ids.tolist()}
    return facts(data.train) | {"held_out": held_out} | chosen_on | ids


def trained_too(shards: Shards | Part, trained_on: dict) -> int | None:
    """Returns how many videos of a split were trained on, by their ids in a data set of one name.

    None where that is not known: converted weights, and runs of earlier versions on this data set.
    """
    if not trained_on:
        return None
    if trained_on["data_set"] != shards.manifest["name"]:
        return 0
    if "video_ids" not in trained_on:
        return None
    return int(np.isin(shards.video_ids, trained_on["video_ids"]).sum())


def arithmetic(config) -> str:
    """Returns in words what an evaluation's features and scores are computed in."""
    model, device = config.model, jax.devices()[0]
    dtype = model.get("dtype", "float32")  # runs of earlier versions have none
    products = chips.arithmetic(device, dtype, jax.config.jax_default_matmul_precision)
    features = f"features {dtype}"
    if products != dtype:
        features += f", multiplied in {products} ({device.device_kind})"
    crossed = model.head == "tightTransf" or model.get("aggregation") == "transformer"
    if crossed and dtype != "float32":
        return f"{features}; scores {dtype}, of the cross encoder"
    return f"{features}; scores float32 at the highest precision"


def evaluation(
    shards: Shards | Part,
    trained_on: dict,
    *,
    step: int,
    chosen: str,
    ties: str,
    arithmetic: str,
    post_processing: str = "none",
) -> dict:
    """Returns all that an evaluation's numbers stand for, for its JSON line and `lines`.

    It is official where the whole split is there, all of the training split of that data set was,
    and none of its videos was trained on. `official` is None where only the last is not known, as
    `videos_trained_on` then is.
    """
    split, overlap = facts(shards), trained_too(shards, trained_on)
    same = trained_on.get("data_set") == split["data_set"]
    official = split["complete"] and not (same and not trained_on["complete"]) and not overlap
    return split | {
        "official": None if official and overlap is None else official,
        "videos_trained_on": overlap,
        "trained_on": {name: fact for name, fact in trained_on.items() if name != "video_ids"},
        "step": step,
        "chosen": chosen,
        "ties": ties,
        "arithmetic": arithmetic,
        "post_processing": post_processing,
    }


def chosen(config, which: str) -> str:
    """Returns how the checkpoint "last", "best" or a step was chosen, in words."""
    if which not in ("last", "best"):
        return "asked for by its step"
    if which == "last":
        return "the last, not chosen by any score"
    data, metric = config.data, config.get("best_metric", "t2v/r1")
    if config.get("select_on") != "val":
        return f"the best {metric} on {data.eval_split}, which is the split to test on"
    on = f"{data.held_out} videos held out of {data.train_split}"
    return f"the best {metric} on {data.val_split or on}"


def lines(protocol: dict) -> str:
    """Returns an evaluation's protocol for the screen."""
    trained_on = protocol["trained_on"]
    if protocol["official"]:
        standing = "official"
    elif protocol["official"] is None:
        standing = "official only if none of its videos was trained on, which is not known"
    elif protocol["videos_trained_on"]:
        standing = "not official: videos of it were trained on"
    elif protocol["complete"]:
        standing = "not official: the training split was not complete"
    else:
        standing = f"not official: {_missing(protocol)}"
    text = [f"{protocol['data_set']}, {_size(protocol)}; {standing}"]
    if trained_on:
        text.append(f"trained on {trained_on['data_set']}, {describe(trained_on)}")
        text += _tested_too(trained_on)
    else:
        text.append("trained on videos that are not known")
    text += _trained_too(protocol["videos_trained_on"], protocol)
    return "\n".join(
        [
            *text,
            f"checkpoint: step {protocol['step']}, {protocol['chosen']}; ties: {protocol['ties']};"
            f" post-processing: {protocol['post_processing']}",
            f"arithmetic: {protocol['arithmetic']}",
        ]
    )


def describe(split: dict) -> str:
    """Returns a split's size, and whether it is all of the published one."""
    standing = "complete" if split["complete"] else f"not complete: {_missing(split)}"
    return f"{_size(split)}; {standing if split['published'] else _missing(split)}"


def plan(config, data: Data, *, total: int, epoch: int, every: int) -> str:
    """Returns what is about to be trained, evaluated and chosen, for the screen."""
    warmup = math.ceil(round(config.optimizer.warmup_fraction * total, 6))
    trained_on, tested = training(data), facts(data.test)
    choice = chosen(config, "last" if config.select_on == "last" else "best")
    rows = [
        ("data", f"{trained_on['data_set']} in {config.data.dir}"),
        ("trained on", describe(trained_on)),
        *([("chosen on", describe(trained_on["val"]))] if data.val else []),
        *(("", line) for line in _tested_too(trained_on)),
        ("tested on", describe(tested)),
        *(("", line) for line in _trained_too(trained_too(data.test, trained_on), tested)),
        (
            "schedule",
            f"{config.batch_size} pairs a step, {epoch:,} steps an epoch, {config.epochs:g} epochs:"
            f" {total:,} steps, {warmup:,} of them warm-up",
        ),
        ("checkpoint", f"{choice}; {data.monitored.split} is evaluated every {every:,} steps"),
        ("weights", f"from {config.init.clip}" if config.init.clip else "random"),
    ]
    return "\n".join(f"{name:<12}{text}" for name, text in rows)


def _size(split: dict) -> str:
    least, most = split["captions_per_video"]
    each = f"{least}" if least == most else f"{least} to {most}"
    held_out = f", {split['held_out']:,} more held out" if split.get("held_out") else ""
    return (
        f"split {split['split']}: {split['videos']:,} videos, {split['captions']:,} captions"
        f" ({each} a video){held_out}"
    )


def _missing(split: dict) -> str:
    if not split["published"]:
        return "no published protocol has this split"
    videos, captions = split["published"]
    held_out = split.get("held_out", 0)
    rest = "" if held_out else f", {split['captions']:,} of {captions:,} captions"
    return f"{split['videos'] + held_out:,} of {videos:,} videos{rest}"


def _trained_too(count: int | None, split: dict) -> list[str]:
    if not count:
        return []
    return [f"{count:,} of the {split['videos']:,} videos of {split['split']} are trained on too"]


def _tested_too(trained_on: dict) -> list[str]:
    val = trained_on.get("val", {})
    if not val.get("videos_tested_on"):
        return []
    return [f"{val['videos_tested_on']:,} videos of {val['split']} are tested on too"]
