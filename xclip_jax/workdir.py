"""What a run's folder holds: config, vocabulary, frame policy and checkpoints travel together.

config.json     the whole config, the frame policy of the shards, the version, what was trained on
                with the ids of its videos
vocab.*         the vocabulary the model was trained with
checkpoints/    one folder a step
metrics.jsonl   one line a report or evaluation
finished        the final step and metrics, once the run is done

All of it may lie in a bucket.
"""

import json
from pathlib import Path
from typing import NamedTuple

import ml_collections
from jax.sharding import Mesh

from xclip_jax import checkpoint, models, protocol, remote, tokenizer
from xclip_jax.input import Intake
from xclip_jax.version import __version__

# May differ between a run and its continuation; anything else would make it another run.
_FREE = {"eval_batch_size", "eval_every_steps", "save_every_steps", "report_every_steps"} | {
    "data.dir",
    "data.vocab",
    "init.clip",
    "init.resize",
    "keep_checkpoints",
    "skip_nonfinite_updates",
    "deterministic",
    "fsdp",
    "micro_batch",
    "model.remat",
    "data.encoded_frames",
}


class Trained(NamedTuple):
    """A trained model and all it takes to use it.

    `trained_on` are `protocol.training`'s facts, empty for converted weights; `chosen` says in
    words how this checkpoint was chosen.
    """

    graphdef: object
    params: dict
    step: int
    intake: Intake
    config: ml_collections.ConfigDict
    tokenizer: tokenizer.Tokenizer
    frame_policy: dict
    trained_on: dict
    chosen: str


def model_sizes(config: ml_collections.ConfigDict, vocab_size: int) -> dict:
    """Returns the keyword arguments of `models.create` that a config asks for.

    Raises ValueError where the vocabulary is not the one that the model was made for, or its
    videos cannot be encoded in parts as `micro_batch` asks.
    """
    sizes = {
        key: value
        for key, value in config.model.items()
        if value is not None and key not in ("name", "arch")
    }
    if config.get("micro_batch") and sizes.get("tiled_mask_bug"):
        raise ValueError(
            f"config.micro_batch={config.micro_batch} beside config.model.tiled_mask_bug=True, with"
            " which a video's features depend on its place in the batch: set one of them to 0 or"
            " False."
        )
    if isinstance(sizes.get("remat"), bool):  # of runs of earlier versions
        sizes["remat"] = "full" if sizes["remat"] else "dots"
    if config.model.arch in models.ARCHS:
        sizes = models.ARCHS[config.model.arch] | sizes
    elif config.model.arch != "custom":
        raise ValueError(
            f"config.model.arch={config.model.arch!r} is unknown: expected custom or one of"
            f" {', '.join(models.ARCHS)}."
        )
    else:
        sizes = {"vocab_size": vocab_size} | sizes
        needed = set(models.ARCHS["vit_b32"]) - set(sizes)
        if needed:
            raise ValueError(
                f"config.model.arch is custom, so set {', '.join(sorted(needed))} too."
            )
    if sizes["vocab_size"] != vocab_size:
        raise ValueError(
            f"the vocabulary has {vocab_size} entries, the model {sizes['vocab_size']}: give the"
            " vocabulary that the model was trained with as --config.data.vocab=FILE."
        )
    return sizes | {"max_words": config.data.max_words, "max_frames": config.data.max_frames}


def intake(config: ml_collections.ConfigDict, sizes: dict) -> Intake:
    """Returns what the model of these sizes takes in."""
    return Intake(
        sizes["max_words"],
        sizes["max_frames"],
        sizes["image_size"],
        config.data.slice_position,
        # Runs of earlier versions have none of these.
        frame_policy=config.data.get("frame_policy", ""),
        frame_divisor=config.data.get("frame_divisor", 1),
        frame_jitter=config.data.get("frame_jitter", False),
        train_frame_order=config.data.get("train_frame_order", 0),
        eval_frame_order=config.data.get("eval_frame_order", 0),
        frame_seed=config.seed,
        encoded_frames=config.data.get("encoded_frames") or 0,
    )


def write(
    workdir: "Path | remote.RemotePath",
    config: ml_collections.ConfigDict,
    *,
    vocab: Path,
    frame_policy: dict,
    goes_on: bool,
    trained_on: dict | None = None,
) -> None:
    """Writes config.json and a copy of the vocabulary, or checks them where the run goes on.

    Raises ValueError naming every setting that differs from the run that `workdir` holds.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    file = workdir / "config.json"
    facts = {
        "config": json.loads(config.to_json()),
        "frame_policy": frame_policy,
        "version": __version__,
        "trained_on": trained_on or {},  # the last: it holds the id of every video
    }
    if goes_on and file.is_file():
        before = json.loads(file.read_text())
        # Runs of earlier versions have no best_metric.
        old = {"best_metric": checkpoint.BEST} | _flatten(before["config"])
        new = _flatten(facts["config"])
        differing = [
            f"{key}: {old.get(key)!r} before, {new.get(key)!r} now"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key) and key not in _FREE
        ]
        if before["frame_policy"] != frame_policy:
            differing.append(f"shards: {before['frame_policy']} before, {frame_policy} now")
        own = vocabulary(workdir)
        if own.read_bytes() != vocab.read_bytes():
            differing.append(f"data.vocab: {vocab} differs from this run's own, {own}")
        if differing:
            raise ValueError(
                f"{workdir} holds a run with other settings; choose a new --workdir or repeat"
                " them:\n  " + "\n  ".join(differing)
            )
        return
    name = "vocab" + "".join(vocab.suffixes[-2:] if vocab.suffix == ".gz" else [vocab.suffix])
    content = vocab.read_bytes()
    for old in remote.names(workdir):  # of a start that saved nothing
        if old.startswith("vocab"):
            (workdir / old).unlink()
    with remote.written(workdir / name) as written:
        written.write_bytes(content)
    with remote.written(file) as written:
        written.write_text(json.dumps(facts, indent=1))


def finish(workdir: "Path | remote.RemotePath", step: int, metrics: dict[str, float]) -> None:
    """Writes the file that tells a run that is done from one that was stopped."""
    with remote.written(workdir / "finished") as file:
        file.write_text(json.dumps({"step": step, "metrics": metrics}) + "\n")


def load(
    workdir: Path | str,
    which: str = "selected",
    *,
    only_text: bool = False,
    mesh: Mesh | None = None,
) -> Trained:
    """Returns the model of a run at checkpoint `which`: "last", "best" or a step, or "selected",
    which of the two the run's `select_on` means.

    With `only_text` the image tower, more than half of CLIP, is not read: it is zeros.
    The parameters are whole on every device of the mesh: on those of this process unless given.
    """
    workdir = remote.place(workdir)
    file = workdir / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{workdir} is not a run: expected {file}, which `xclip-jax train --workdir` writes."
        )
    facts = json.loads(file.read_text())
    config = ml_collections.ConfigDict(facts["config"])
    with remote.local(vocabulary(workdir)) as file:
        words = tokenizer.load(file)
    sizes = model_sizes(config, words.vocab_size)
    graphdef, abstract = models.create(config.model.name, **sizes)
    if which == "selected":
        which = "last" if config.get("select_on", "last") == "last" else "best"
    metric = config.get("best_metric", checkpoint.BEST)
    without = [("clip", "visual")] if only_text else []
    params, step = checkpoint.load_params(workdir, which, metric=metric, without=without, mesh=mesh)
    check_shapes(params, abstract, workdir)
    taken = intake(config, sizes)
    if not taken.frame_policy:  # trained on all that was stored: so it is to be evaluated
        taken = taken._replace(frame_policy=facts["frame_policy"]["name"])
    return Trained(
        graphdef,
        params,
        step,
        taken,
        config,
        words,
        facts["frame_policy"],
        facts.get("trained_on", {}),
        protocol.chosen(config, which),
    )


def vocabulary(workdir: "Path | remote.RemotePath") -> "Path | remote.RemotePath":
    """Returns the file of the vocabulary that a run's model was trained with."""
    for name in sorted(remote.names(workdir)):
        if name.startswith("vocab"):
            return workdir / name
    raise FileNotFoundError(
        f"{workdir} has lost its vocabulary: copy the file that the model was trained with there,"
        " named vocab.txt, vocab.json or vocab.txt.gz."
    )


def check_shapes(params: dict, abstract: dict, source: Path | str) -> None:
    """Raises one ValueError naming what of a checkpoint does not fit the model."""
    old, new = _flatten(params), _flatten(abstract)
    problems = [
        f"{key}: {getattr(old.get(key), 'shape', 'missing')} in the checkpoint,"
        f" {getattr(new.get(key), 'shape', 'missing')} in the model"
        for key in sorted(old.keys() | new.keys())
        if getattr(old.get(key), "shape", None) != getattr(new.get(key), "shape", None)
    ]
    if problems:
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(
            f"the checkpoint in {source} is of another model:\n  "
            + "\n  ".join(problems[:10])
            + more
        )


def _flatten(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else key
        flat |= _flatten(value, name) if isinstance(value, dict) else {name: value}
    return flat
