"""CLIP4Clip goes through the same commands as X-CLIP: train, go on, evaluate, search."""

import json
import shutil

import jax
import numpy as np
import pytest

from xclip_jax import checkpoint, cli, config_loader, train, workdir

HEADS = ("seqLSTM", "tightTransf")  # one vector a video, and a pass through a transformer a pair


def config_of(shapes, head: str):
    sizes = ("embed_dim", "vision_width", "text_width")
    layers = ("vision_layers", "text_layers", "temporal_layers")
    return config_loader.load(
        f"shapes:model=clip4clip,head={head},smoke",
        [
            f"--config.data.dir={shapes / 'shards'}",
            *(f"--config.model.{key}=64" for key in sizes),
            *(f"--config.model.{key}=1" for key in layers),
            "--config.epochs=0.2",
            "--config.save_every_steps=2",
            "--config.eval_every_steps=1000",
        ],
    )


@pytest.fixture(scope="module", params=HEADS)
def finished(request, shapes, tmp_path_factory):
    """The workdir of a finished run of three steps, and its scores."""
    folder = tmp_path_factory.mktemp(request.param)
    return folder, train.train_and_evaluate(config_of(shapes, request.param), folder)


def leaves(folder) -> list[np.ndarray]:
    params, step = checkpoint.load_params(folder, "last")
    assert step == 3
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def test_a_run_ends_with_scores_and_a_finite_loss(finished):
    folder, scores = finished
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    assert {"t2v/r1", "v2t/r1", "twins/accuracy"} <= scores.keys()
    assert all(np.isfinite(line["train/loss"]) for line in lines if "train/loss" in line)
    assert workdir.load(folder).config.model.name == "clip4clip"


def test_a_run_that_goes_on_draws_the_same_dropout(finished, shapes, tmp_path):
    folder, scores = finished
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "3")  # as if killed after step 2
    head = workdir.load(folder).config.model.head

    again = train.train_and_evaluate(config_of(shapes, head), tmp_path / "run")

    assert again == scores
    for one, other in zip(leaves(folder), leaves(tmp_path / "run"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_search_answers_from_its_index_as_it_did_at_first(finished, shapes, capsys):
    folder, _ = finished
    clips = shapes / "rendered" / "videos"
    command = ["search", "--workdir", str(folder), "--videos", str(clips), "-k", "3", "a circle"]

    outputs = []
    for _ in range(2):
        cli.main(command)
        outputs.append(capsys.readouterr().out)

    assert outputs[0] == outputs[1] and outputs[0].count(".mp4") == 3
