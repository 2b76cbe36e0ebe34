"""A batch that the devices do not divide: its loss, gradient and run are the recipe's."""

import itertools
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from test_without_tensorflow import WITHOUT

from xclip_jax import config_loader, models, sharding, train, train_step
from xclip_jax.training import padded_batch


def config_of(name="shapes", **settings):
    words = [f"--config.{key.replace('__', '.')}={value}" for key, value in settings.items()]
    return config_loader.load(name, words)


@pytest.mark.parametrize("captions", [1, 3])
@pytest.mark.parametrize("devices", [1, 2, 3, 8, 64])
def test_the_size_is_the_smallest_of_which_every_device_has_as_many_videos(devices, captions):
    for pairs in (6, 30, 81, 192):
        config = config_of(batch_size=pairs, data__captions_per_video=captions)

        batch = padded_batch.pad(config, devices)

        shared = (n for n in itertools.count(pairs) if n % captions == n // captions % devices == 0)
        assert (batch.pairs, batch.size, batch.micro_batch) == (pairs, next(shared), 0)


@pytest.mark.parametrize("most", [1, 20, 48, 100, 300])
@pytest.mark.parametrize("devices", [1, 6, 8])
def test_parts_are_no_larger_than_asked_for_and_as_few_as_that_allows(devices, most):
    batch = padded_batch.pad(config_of(batch_size=300, micro_batch=most), devices)

    parts = batch.size // batch.micro_batch
    assert batch.size % batch.micro_batch == batch.micro_batch % devices == 0
    assert batch.micro_batch <= max(most, devices)
    assert batch.size >= 300 and (parts - 1) * max(most // devices * devices, devices) < 300
    assert batch.padding < parts * devices


def test_padding_is_told_and_where_it_is_much_batches_without_it():
    few = padded_batch.describe(padded_batch.pad(config_of("msrvtt"), 8), 8)
    many = padded_batch.describe(padded_batch.pad(config_of("msrvtt:arch=vit_b16"), 64), 64)

    assert few == "batch of 300 padded to 304 for 8 devices: 1.3% of the computation is padding"
    assert many.startswith("batch of 80 padded to 128 for 64 devices: 37.5%")
    assert many.endswith("to have none set config.batch_size to 64 or 128")
    assert padded_batch.describe(padded_batch.pad(config_of("msrvtt"), 4), 4) == ""


def test_what_padding_cannot_keep_is_refused():
    with pytest.raises(ValueError, match=r"batch_size=16 with .*=3 has no whole .* 15 or 18\."):
        padded_batch.pad(config_of(batch_size=16, data__captions_per_video=3), 1)
    release = config_of("msrvtt:model=clip2video", model__tiled_mask_bug=True, batch_size=12)
    with pytest.raises(ValueError, match=r"tiled_mask_bug=True .* set config.batch_size to 8 or"):
        padded_batch.pad(release, 8)
    assert padded_batch.pad(release, 4).size == 12


def test_padding_that_would_change_an_evaluations_scores_is_refused():
    release = config_of("msrvtt:model=clip2video", model__tiled_mask_bug=True, eval_batch_size=12)

    with pytest.raises(ValueError, match=r"padding config.eval_batch_size=12 for 8 devices"):
        padded_batch.check_evaluation(release, 8)

    padded_batch.check_evaluation(release, 6)
    release.model.tiled_mask_bug = False
    padded_batch.check_evaluation(release, 8)


def step_of(name: str, options: dict, batch: dict, *, devices: int, **layout) -> tuple:
    """Returns the loss, the norm of its gradient and the gradient, by one step of plain descent."""
    graphdef, abstract = models.create(name, **tiny.SIZES | options)
    mesh = jax.make_mesh(
        (devices, 1),
        ("data", "fsdp"),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
        devices=jax.devices()[:devices],
    )
    params, descend = tiny.draw(abstract, 0), optax.sgd(1.0)
    state = {"params": params, "opt_state": descend.init(params), "step": jnp.int32(5)}
    place = sharding.shard_params(jax.eval_shape(lambda: state), mesh)
    step = train_step.make(graphdef, descend, place, mesh, seed=3, **layout)
    before = jax.device_get(params)
    with jax.set_mesh(mesh):
        after, told = step(jax.device_put(state, place), sharding.to_global(batch, mesh))
    gradient = jax.tree.map(lambda x, y: x - np.asarray(y), before, after["params"])
    return float(told["train/loss"]), float(told["train/grad_norm"]), gradient


# What the last rows of a batch hold is not blank here: whatever it is, it must not show.
CASES = {
    "xclip": ("xclip", {"temperature": 1.0, "head": "meanP"}, 12),
    "transformer": ("xclip", {"aggregation": "transformer", "context_length": 13}, 12),
    "several captions in parts": ("xclip", {"temperature": 1.0, "head": "meanP"}, 24),
    "meanP": ("clip4clip", {"head": "meanP"}, 12),
    "tightTransf in groups": ("clip4clip", {"head": "tightTransf", "negative_groups": 3}, 12),
    "clip2video": ("clip2video", {"difference": "plain", "alignment": "TAB"}, 12),
}


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_of_a_padded_batch_is_that_of_its_pairs(case):
    name, options, texts = CASES[case]
    videos = 12
    whole = tiny.batch(texts // videos * 16, 16, seed=1)
    if texts > videos:  # the padding has the number of a real video, and must not hide it
        whole["video_ids"] = np.array([7, 1, 7, *range(20, 29), 1, 1, 7, 7], np.int32)
    alone = {key: x[: len(x) * videos // 16] for key, x in whole.items()}
    parts = {"micro_batch": 16} if texts > videos else {}

    expected_loss, expected_norm, expected = step_of(name, options, alone, devices=1)
    loss, norm, gradient = step_of(
        name, options, whole, devices=8, padding=texts // videos * 4, **parts
    )

    assert loss == pytest.approx(expected_loss, rel=2e-6)
    assert norm == pytest.approx(expected_norm, rel=2e-5) and math.isfinite(norm)
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(expected), strict=True
    ):
        # Of a leaf's rounding the largest gradient of all is the measure, not its own.
        np.testing.assert_allclose(
            one, other, rtol=1e-4, atol=1e-6 * expected_norm, err_msg=jax.tree_util.keystr(path)
        )


def first_devices(monkeypatch, count: int, every=sharding.make_mesh) -> None:
    """Makes the next run know no more than so many devices."""
    monkeypatch.setattr(sharding, "make_mesh", lambda fsdp: every(fsdp, jax.devices()[:count]))


def outcome(workdir) -> tuple[list[float], dict]:
    """Returns the loss of each step and the final metrics."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    metrics = json.loads((workdir / "finished").read_text())["metrics"]
    return [line["train/loss"] for line in lines if "train/loss" in line], metrics


def test_a_run_is_the_same_on_any_devices_and_goes_on_with_others(
    tiny_config, tmp_path, monkeypatch, capsys
):
    config = tiny_config
    config.batch_size, config.epochs, config.report_every_steps = 12, 0.6, 1
    config.model.head, config.model.image_size, config.data.max_frames = "meanP", 32, 3
    config.data.twin_split, config.optimizer.learning_rate = "", 1e-4

    for count in (3, 8):
        first_devices(monkeypatch, count)
        train.train_and_evaluate(config, tmp_path / str(count))
        told = "batch of 12 padded to 16 for 8 devices: 25.0%" in capsys.readouterr().out
        assert told == (count == 8)
    shutil.copytree(tmp_path / "8", tmp_path / "moved")
    (tmp_path / "moved" / "finished").unlink()
    shutil.rmtree(tmp_path / "moved" / "checkpoints" / "6")
    first_devices(monkeypatch, 5)
    train.train_and_evaluate(config, tmp_path / "moved")

    said = capsys.readouterr().out
    assert "goes on at step 4, 6 steps of 12 pairs" in said and "padded to 15 for 5" in said
    losses, metrics = outcome(tmp_path / "3")
    assert len(losses) == 6 and losses[0] != losses[-1]
    for other in ("8", "moved"):
        found, found_metrics = outcome(tmp_path / other)
        np.testing.assert_allclose(found, losses, rtol=0, atol=1e-6, err_msg=other)
        assert found_metrics == pytest.approx(metrics), other


# What each of two joined processes does: it trains on what the devices of both do not divide.
PROGRAM = (
    WITHOUT
    + """
import sys
import numpy as np
from xclip_jax import config_loader, sharding, train
from xclip_jax.processes import distributed
port, process, file, folder, *sizes = sys.argv[1:]
distributed.start(distributed.Place(f"127.0.0.1:{port}", 2, int(process)), peer_timeout=60)
make = sharding.make_mesh
def interleaved(fsdp):  # the hosts take turns, as in the torus of TPU v5p
    return make(fsdp, np.reshape(make(fsdp).devices, (2, 2)).T.ravel().tolist())
for size, sharding.make_mesh in zip(sizes, (interleaved, make)):
    config = config_loader.load(file, [f"--config.batch_size={size}"])
    train.train_and_evaluate(config, f"{folder}/{size}")
distributed.stop()
"""
)


# 6 pairs are 4 and 2 on two hosts; of 2 pairs the second has none, which takes as long again.
SIZES = (6,) if os.environ.get("XCLIP_JAX_KILLS", "1") == "1" else (6, 2)


def test_hosts_with_less_than_their_share_of_pairs_or_none_train_as_one(
    tiny_config, tmp_path, monkeypatch
):
    config = tiny_config
    config.epochs, config.report_every_steps, config.model.image_size = 0.1, 1, 32
    config.data.max_frames, config.data.twin_split = 3, ""
    config.model.head, config.optimizer.learning_rate = "meanP", 1e-4
    file = tmp_path / "tiny.py"
    file.write_text(
        "import json\nimport ml_collections\ndef get_config(arg):\n"
        f"    return ml_collections.ConfigDict(json.loads({config.to_json()!r})).lock()\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = re.sub(r"(device_count)=\d+", r"\1=2", os.environ["XLA_FLAGS"])
    pair = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", PROGRAM, str(port), str(process)),
                *(str(file), str(tmp_path / "two"), *map(str, SIZES)),
            ],
            env=os.environ | {"XLA_FLAGS": flags},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    first_devices(monkeypatch, 1)
    for size in SIZES:
        config.batch_size = size
        train.train_and_evaluate(config, tmp_path / "one" / str(size))
    complaints = [process.communicate()[1] for process in pair]

    assert [process.returncode for process in pair] == [0, 0], complaints
    for size in SIZES:
        losses, metrics = outcome(tmp_path / "one" / str(size))
        found, found_metrics = outcome(tmp_path / "two" / str(size))
        assert len(losses) == int(120 / size * 0.1)
        np.testing.assert_allclose(found, losses, rtol=0, atol=1e-6)
        assert found_metrics == pytest.approx(metrics)
