"""A run that is no longer finite: nothing poisoned is gone on from, or updates are skipped.

AdamW's rate is 0 at the first update and the config's at the second, so a huge one makes huge
parameters at step 2.
"""

import json
import math
import re

import jax
import numpy as np
import pytest
from test_train import batches_and_step

from xclip_jax import checkpoint, sharding, train
from xclip_jax.training import divergence

FINE = {"train/loss": 2.0, "train/grad_norm": 3.0, "train/param_norm": 4.0}


def leaves(tree) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def saved(folder) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


@pytest.fixture
def diverging(tiny_config):
    """Six steps of which the second makes parameters of 1e30 and more."""
    tiny_config.optimizer.learning_rate = 1e38
    tiny_config.save_every_steps = 1
    return tiny_config


def test_parameters_that_have_blown_up_are_not_saved(diverging, tmp_path):
    expected = (
        r"the update of step 2 makes the norm of the parameters (inf|nan); the last good checkpoint"
        r" is of step 1\. The same settings would .* --config\.skip_nonfinite_updates=N"
    )

    with pytest.raises(FloatingPointError, match=expected):
        train.train_and_evaluate(diverging, tmp_path)

    assert saved(tmp_path) == [1]
    assert all(np.abs(x).max() < 10 for x in leaves(checkpoint.load_params(tmp_path)[0]))


def test_what_fails_only_in_its_own_forward_pass_is_not_gone_on_from(diverging, tmp_path, capsys):
    diverging.optimizer.learning_rate = 1e16  # too small for the norm, too large for a forward pass
    diverging.eval_every_steps = 2
    with pytest.raises(
        FloatingPointError, match=r"evaluation of step 2 failed: NaN in row .*; the"
    ):
        train.train_and_evaluate(diverging, tmp_path)
    assert saved(tmp_path) == [1]  # for it is evaluated before it is saved
    diverging.eval_every_steps = 1000
    aside = tmp_path / "diverged-2"

    with pytest.raises(
        FloatingPointError,
        match=r"the loss became (nan|inf) at step 3; the last good checkpoint is of step 1, and the"
        rf" later one, of those parameters, is now {aside}\. ",
    ):
        train.train_and_evaluate(diverging, tmp_path)

    assert saved(tmp_path) == [1] and aside.is_dir()
    assert "goes on at step 1" in capsys.readouterr().out


def test_skipped_updates_are_counted_and_leave_the_parameters_until_there_are_too_many(
    diverging, tmp_path, capsys
):
    diverging.skip_nonfinite_updates = 3
    with pytest.raises(
        FloatingPointError, match=r"step 5 .* the last of 4 updates in a row that were not finite"
    ):
        train.train_and_evaluate(diverging, tmp_path)
    first, step = checkpoint.load_params(tmp_path)
    assert step == 1  # those of the steps that were skipped are the same
    diverging.skip_nonfinite_updates = 5  # which may change: it is the same run

    train.train_and_evaluate(diverging, tmp_path)

    said = capsys.readouterr().out
    assert "goes on at step 1" in said and re.search(r"step 6/6  loss \d\.\d+  skipped 1  ", said)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    counts = {x["step"]: x["train/skipped_updates"] for x in lines if "train/skipped_updates" in x}
    assert sum(counts.values()) == 5
    assert all(math.isfinite(value) for x in lines for value in x.values() if type(value) is float)
    for one, other in zip(leaves(first), leaves(checkpoint.load_params(tmp_path)[0]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_skipped_updates_are_not_saved_in_the_place_of_good_ones(diverging, tmp_path):
    diverging.optimizer.learning_rate = 1e16  # the state of step 2 fails in its own forward pass
    diverging.skip_nonfinite_updates = 2

    with pytest.raises(
        FloatingPointError, match=r"at step 5, .*the last good .* is of step 1, and"
    ):
        train.train_and_evaluate(diverging, tmp_path)

    assert saved(tmp_path) == [1] and (tmp_path / "diverged-2").is_dir()


def test_a_step_skips_an_update_that_is_not_finite_and_makes_all_others(tiny_config):
    losses = []
    for skip in (False, True):
        state, batches, step, mesh = batches_and_step(tiny_config, 2, 1, skip_nonfinite=skip)
        with jax.set_mesh(mesh):
            for _ in range(3):
                batch = sharding.to_global(next(batches), mesh)
                state, measured = step(state, batch)
                losses.append(float(measured["train/loss"]))
    np.testing.assert_allclose(losses[:3], losses[3:], atol=1e-5)  # two programs round apart

    state["params"]["clip"]["logit_scale"] *= np.nan
    before = leaves(state)
    with jax.set_mesh(mesh):
        state, measured = step(state, batch)

    assert np.isnan(measured["train/loss"]) and state["step"] == 4
    for one, other in zip(leaves(state | {"step": 3}), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", FINE)
def test_each_number_that_is_not_finite_ends_a_run(name):
    guard = divergence.Guard(0)
    assert guard.passes(6, FINE)

    with pytest.raises(divergence.Diverged, match="step 7") as caught:
        guard.passes(7, FINE | {name: math.inf})

    # A loss is of the parameters that the step before made, a gradient may be of good ones.
    assert caught.value.state == (6 if name == "train/loss" else None)
    assert "step 7" in str(caught.value) and "inf" in str(caught.value)


def test_only_updates_in_a_row_count_against_what_may_be_skipped():
    guard = divergence.Guard(2)
    bad = FINE | {"train/loss": math.nan}
    told = [guard.passes(step, values) for step, values in enumerate([bad, bad, FINE, bad, bad], 1)]
    assert told == [False, False, True, False, False]

    with pytest.raises(
        divergence.Diverged, match="the loss became nan at step 6, the last of 3"
    ) as at:
        guard.passes(6, bad)

    assert at.value.state == 3  # the last update that was made


def test_a_number_of_updates_to_skip_is_not_negative():
    with pytest.raises(ValueError, match="skip_nonfinite_updates=-1: expected 0 or more"):
        divergence.Guard(-1)
