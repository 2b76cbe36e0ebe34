"""Training in bfloat16: gradients near float32's, and one step the same on one device and on eight.

bfloat16 has 8 bits, so one product is off by up to 2^-9 of itself; the bounds below are what a few
layers make of that, as a share of the gradient's length.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from jax.sharding import PartitionSpec as P
from test_sharding import mesh_of

from xclip_jax import models, sharding, train_step

PAIRS = 16
# What of a gradient may be rounding. X-CLIP's softmax at a temperature of 0.01 makes most of its
# own: 0.09 were measured, of the others 0.015 and 0.018.
ROUNDING = {"xclip": 0.15, "clip4clip": 0.03, "clip2video": 0.03}


@functools.cache
def step(name: str, dtype: str, *, data: int, fsdp: int) -> tuple[dict, dict]:
    """Returns the metrics of a train step on a mesh, and the gradient that it took: plain descent
    at rate 1 subtracts just that."""
    graphdef, abstract = models.create(name, **tiny.SIZES | {"vision_layers": 1, "dtype": dtype})
    before, mesh = jax.device_get(tiny.draw(abstract, 2)), mesh_of(data, fsdp)
    descent = optax.sgd(1.0)
    state = {"params": before, "opt_state": descent.init(before), "step": jnp.int32(0)}
    layout = sharding.shard_params(jax.eval_shape(lambda: state), mesh)
    split = [place for place in jax.tree.leaves(layout["params"]) if place.spec != P()]
    assert len(split) > 30 if fsdp > 1 else not split
    with jax.set_mesh(mesh):
        run = train_step.make(graphdef, descent, layout, mesh, seed=3)
        batch = sharding.to_global(tiny.batch(PAIRS, PAIRS), mesh)
        after, metrics = run(jax.device_put(state, layout), batch)
    after, metrics = jax.device_get((after["params"], metrics))
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {np.dtype(np.float32)}
    return metrics, jax.tree.map(np.subtract, before, after)


def apart(found: dict, expected: dict) -> float:
    """Returns the length of the difference of two gradients as a share of the second's."""
    found, expected = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (found, expected)
    )
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("name", ROUNDING)
def test_the_gradients_of_a_bfloat16_model_are_those_of_float32_but_for_rounding(name):
    wide, expected = step(name, "float32", data=1, fsdp=1)
    narrow, found = step(name, "bfloat16", data=1, fsdp=1)

    assert narrow["train/loss"] == pytest.approx(wide["train/loss"], rel=2e-3)
    assert 1e-3 < apart(found, expected) < ROUNDING[name]
    for part in expected:  # of which some are small beside CLIP's
        assert apart(found[part], expected[part]) < 2 * ROUNDING[name], part


@pytest.mark.parametrize("name", ROUNDING)
def test_a_bfloat16_step_on_eight_devices_is_that_of_one(name, monkeypatch):
    """Sums of bfloat16 products over devices are rounded once more, in another order: they differ
    by less than rounding itself makes, and are no further from float32."""
    monkeypatch.setattr(sharding, "MIN_SHARDED", 8)
    _, exact = step(name, "float32", data=1, fsdp=1)
    alone, expected = step(name, "bfloat16", data=1, fsdp=1)

    together, found = step(name, "bfloat16", data=4, fsdp=2)

    assert together["train/loss"] == pytest.approx(alone["train/loss"], rel=1e-4)
    assert together["train/grad_norm"] == pytest.approx(alone["train/grad_norm"], rel=5e-3)
    assert apart(found, expected) < 0.015
    assert apart(found, exact) < 1.1 * apart(expected, exact)
