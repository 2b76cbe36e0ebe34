"""The training loop: determinism, one compilation, devices, resuming, and bad losses."""

import json

import jax
import numpy as np
import pytest

from xclip_jax import (
    checkpoint,
    input,
    models,
    optimizer,
    sharding,
    tokenizer,
    train,
    train_step,
    workdir,
)
from xclip_jax.records import Shards


def leaves(folder, which="last"):
    params, step = checkpoint.load_params(folder, which)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)], step


def test_a_run_writes_its_config_vocabulary_metrics_and_checkpoint(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    facts = json.loads((run / "config.json").read_text())

    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2, 4, 6]
    assert {"t2v/r1", "v2t/r1", "twins/accuracy"} <= lines[-1].keys()
    assert facts["config"]["batch_size"] == 8 and facts["frame_policy"]["name"] == "clip4clip_1fps"
    assert (run / "vocab.txt").exists()
    assert leaves(run)[1] == 6


def test_the_same_seed_gives_the_same_bits(run, tiny_config, tmp_path):
    train.train_and_evaluate(tiny_config, tmp_path)

    for one, other in zip(leaves(run)[0], leaves(tmp_path)[0], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_finished_run_is_only_evaluated_again(run, capsys):
    config = workdir.load(run).config
    before = leaves(run)

    train.train_and_evaluate(config, run)

    assert "goes on at step 6" in capsys.readouterr().out
    for one, other in zip(before[0], leaves(run)[0], strict=True):
        np.testing.assert_array_equal(one, other)


def batches_and_step(config, devices: int, fsdp: int, **options):
    """Returns what a step needs, laid out on the first `devices` devices."""
    words = tokenizer.load(tokenizer.find_vocab(beside=config.data.dir))
    sizes = workdir.model_sizes(config, words.vocab_size)
    mesh = jax.make_mesh(
        (devices // fsdp, fsdp),
        ("data", "fsdp"),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
        devices=jax.devices()[:devices],
    )
    adam = optimizer.create(**config.optimizer, total_steps=4).transformation
    params = models.init(jax.random.key(0), config.model.name, **sizes)
    state = {"params": params, "opt_state": adam.init(params), "step": np.int32(0)}
    layout = sharding.shard_params(jax.eval_shape(lambda: state), mesh)
    graphdef, _ = models.create(config.model.name, **sizes)
    batches = input.train(
        Shards(config.data.dir, "train"),
        words,
        workdir.intake(config, sizes),
        batch_size=8,
        seed=0,
        first=0,
    )
    step = train_step.make(graphdef, adam, layout, mesh, seed=config.seed, **options)
    return jax.device_put(state, layout), batches, step, mesh


def test_one_and_eight_devices_agree_and_the_step_compiles_once(tiny_config):
    final = []
    for devices, fsdp in ((1, 1), (8, 2)):
        state, batches, step, mesh = batches_and_step(tiny_config, devices, fsdp)
        with jax.set_mesh(mesh):
            for _ in range(3):
                state, measured = step(state, sharding.to_global(next(batches), mesh))
        assert step._cache_size() == 1
        final.append((jax.tree.map(np.asarray, state["params"]), float(measured["train/loss"])))

    assert final[0][1] == pytest.approx(final[1][1], abs=1e-5)
    one, many = (dict(jax.tree_util.tree_leaves_with_path(params)) for params, _ in final)
    for path, value in one.items():
        value, other = np.array(value), np.array(many[path])
        if jax.tree_util.keystr(path).endswith("['in_proj']['bias']"):
            # A bias of all keys cancels in the softmax: its gradient is rounding noise, which
            # Adam scales up to a step. It changes no output.
            _, keys, _ = np.split(np.arange(value.shape[-1]), 3)
            value[..., keys] = other[..., keys] = 0
        np.testing.assert_allclose(value, other, atol=1e-5, err_msg=jax.tree_util.keystr(path))


def test_more_pairs_a_batch_than_there_are_is_an_error(tiny_config, tmp_path):
    tiny_config.batch_size = 256

    with pytest.raises(ValueError, match=r"has 120 .* pairs, fewer than one batch of 256"):
        train.train_and_evaluate(tiny_config, tmp_path)


def test_several_captions_a_video_and_micro_batches_train_alike(tiny_config, tmp_path):
    losses = []
    for micro_batch in (0, 16):
        config = tiny_config.copy_and_resolve_references()
        config.batch_size, config.micro_batch, config.epochs = 32, micro_batch, 1.0
        config.data.captions_per_video = 2
        train.train_and_evaluate(config, tmp_path / str(micro_batch))
        lines = (tmp_path / str(micro_batch) / "metrics.jsonl").read_text().splitlines()
        losses.append([x["train/loss"] for x in map(json.loads, lines) if "train/loss" in x])

    assert len(losses[0]) > 1
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
