"""Checkpoints: what is kept, what comes back on another layout, what is no checkpoint."""

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from xclip_jax import checkpoint

R1 = {1: 10.0, 2: 90.0, 3: 30.0, 4: None, 5: 20.0}  # None: saved without an evaluation


def state_at(step: int) -> dict:
    """Returns a train state whose every array tells its step."""
    params = {
        "kernel": jnp.arange(8 * 4, dtype=jnp.float32).reshape(8, 4) / 3 + step,
        "nested": {"scale": jnp.float32(0.1) * step},
    }
    moments = jax.tree.map(lambda p: p * p, params)
    return {"params": params, "opt_state": {"mean": moments}, "step": jnp.int32(step)}


def abstract(state, place) -> dict:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place if leaf.ndim else NamedSharding(place.mesh, P())
        ),
        state,
    )


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run that saved five times, keeping two."""
    folder = tmp_path_factory.mktemp("run")
    with checkpoint.open_folder(folder, keep=2) as checkpointer:
        for step, r1 in R1.items():
            metrics = None if r1 is None else {"t2v/r1": r1, "v2t/r1": 100 - r1}
            checkpoint.save(checkpointer, state_at(step), metrics=metrics)
    return folder


def test_the_latest_two_and_the_best_are_kept(saved):
    kept = {path.name for path in (saved / "checkpoints").iterdir()}

    assert kept == {"2", "4", "5"}


@pytest.mark.parametrize("which, step", [("last", 5), ("best", 2), ("4", 4)])
def test_parameters_are_loaded_by_age_rank_or_step(saved, which, step):
    params, found = checkpoint.load_params(saved, which)

    assert found == step
    assert_same(params, state_at(step)["params"])
    for leaf in jax.tree.leaves(params):
        assert leaf.devices() == set(jax.local_devices()) and leaf.is_fully_replicated


def test_of_two_equally_good_the_later_one_is_best(tmp_path):
    with checkpoint.open_folder(tmp_path, keep=3) as checkpointer:
        for step in (1, 2):
            checkpoint.save(checkpointer, state_at(step), metrics={"t2v/r1": 50.0})

    assert checkpoint.load_params(tmp_path, "best")[1] == 2


def test_of_equally_good_ones_the_later_is_kept_and_chosen(tmp_path):
    with checkpoint.open_folder(tmp_path, keep=1) as checkpointer:
        assert checkpoint.best_step(checkpointer) is None
        for step, r1 in enumerate((50.0, 50.0, 40.0, None), 1):
            metrics = None if r1 is None else {"t2v/r1": r1}
            checkpoint.save(checkpointer, state_at(step), metrics=metrics)

        assert checkpoint.best_step(checkpointer) == 2
        place = jax.sharding.NamedSharding(jax.make_mesh((8,), ("x",)), P())
        state = checkpoint.restore(checkpointer, abstract(state_at(2), place), 2)

    assert_same(state, state_at(2))
    assert checkpoint.load_params(tmp_path, "best")[1] == 2


@pytest.mark.parametrize("which", ["3", "6", "first", "-1", "4.0"])
def test_a_step_that_is_not_there_is_refused_with_those_that_are(saved, which):
    with pytest.raises(ValueError, match=rf"{re.escape(repr(which))} .* one of \[2, 4, 5\]"):
        checkpoint.load_params(saved, which)


def test_the_best_of_none_evaluated_is_refused(tmp_path):
    with checkpoint.open_folder(tmp_path, keep=1) as checkpointer:
        checkpoint.save(checkpointer, state_at(3), metrics=None)

    with pytest.raises(ValueError, match=r"no checkpoint in .* was evaluated: choose 'last'"):
        checkpoint.load_params(tmp_path, "best")


def test_a_folder_without_checkpoints_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"expected the folder {tmp_path / 'checkpoints'}"):
        checkpoint.load_params(tmp_path)

    with checkpoint.open_folder(tmp_path, keep=1):
        pass

    with pytest.raises(FileNotFoundError, match="holds no finished checkpoint yet"):
        checkpoint.load_params(tmp_path)


def test_a_state_comes_back_on_another_layout_bit_for_bit(tmp_path):
    kinds = (AxisType.Auto,) * 2
    split = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=kinds)
    other = jax.make_mesh((8, 1), ("data", "fsdp"), axis_types=kinds)
    state = state_at(7)
    rows = NamedSharding(split, P("fsdp"))
    state["params"]["kernel"] = jax.device_put(state["params"]["kernel"], rows)
    whole = NamedSharding(other, P())
    columns = NamedSharding(split, P(None, "fsdp"))

    with checkpoint.open_folder(tmp_path, keep=1) as checkpointer:
        assert checkpoint.restore(checkpointer, abstract(state, whole)) is None
        checkpoint.save(checkpointer, state, metrics=None)
    with checkpoint.open_folder(tmp_path, keep=1) as checkpointer:
        on_other = checkpoint.restore(checkpointer, abstract(state, whole))
        on_columns = checkpoint.restore(checkpointer, abstract(state, columns))

    assert_same(on_other, state)
    assert_same(on_columns, state)
    kernel = on_columns["params"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(8, 1)}


@pytest.mark.parametrize("suffix", [".orbax-checkpoint-tmp", ".orbax-checkpoint-tmp-1700000000"])
def test_what_an_interrupted_save_leaves_is_not_taken_for_a_checkpoint(tmp_path, suffix):
    with checkpoint.open_folder(tmp_path, keep=3) as checkpointer:
        checkpoint.save(checkpointer, state_at(1), metrics=None)
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "1", folder / f"2{suffix}")
    shutil.rmtree(folder / f"2{suffix}" / "pytree", ignore_errors=True)

    params, step = checkpoint.load_params(tmp_path)
    with checkpoint.open_folder(tmp_path, keep=3) as checkpointer:
        place = jax.sharding.NamedSharding(jax.make_mesh((8,), ("x",)), P())
        state = checkpoint.restore(checkpointer, abstract(state_at(1), place))
        checkpoint.save(checkpointer, state_at(2), metrics=None)

    assert step == 1 and int(state["step"]) == 1
    assert_same(params, state_at(1)["params"])
    assert {path.name for path in folder.iterdir()} == {"1", "2"}
    assert checkpoint.load_params(tmp_path)[1] == 2


def test_weights_without_an_optimizer_are_loaded_but_not_trained_on(tmp_path):
    params = {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}
    checkpoint.save_weights(tmp_path, params)

    assert_same(checkpoint.load_params(tmp_path)[0], params)
    with (
        checkpoint.open_folder(tmp_path, keep=1) as checkpointer,
        pytest.raises(ValueError, match="has no opt_state: converted weights can be evaluated"),
    ):
        checkpoint.restore(checkpointer, {"params": params, "opt_state": {}, "step": 0})
