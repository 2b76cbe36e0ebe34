"""The gradient of micro-batches is the whole batch's, in the memory of one of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from jax.sharding import AxisType

from xclip_jax import gradient_cache, models, parameter_groups, sharding
from xclip_jax.models import similarity

BATCH = 24


def mesh_of(devices: int, fsdp: int):
    kinds = (AxisType.Auto,) * 2
    shape = devices // fsdp, fsdp
    return jax.make_mesh(shape, ("data", "fsdp"), axis_types=kinds, devices=jax.devices()[:devices])


def batch_of(size: int, sizes=tiny.SIZES) -> dict:
    rng = np.random.default_rng(3)
    words, frames, side = sizes["max_words"], sizes["max_frames"], sizes["image_size"]
    tokens = rng.integers(1, tiny.END, (size, words)).astype(np.int32)
    tokens[np.arange(size), rng.integers(1, words, size)] = tiny.END
    return {
        "video": rng.integers(0, 256, (size, frames, side, side, 3), np.uint8),
        "frame_mask": np.arange(frames) < rng.integers(1, frames + 1, (size, 1)),
        "tokens": tokens,
        "token_mask": np.cumsum(tokens == tiny.END, axis=1) - (tokens == tiny.END) == 0,
    }


def functions(graphdef):
    def encode(params, batch):
        model = nnx.merge(graphdef, params)
        text = model.encode_text(batch["tokens"], batch["token_mask"])
        return text, model.encode_video(batch["video"], batch["frame_mask"])

    def loss(params, features):
        return nnx.merge(graphdef, params).loss(*features, jax.random.key(5))

    return encode, loss


def value_and_grad(graphdef, micro_batch: int):
    """Returns (params, batch) -> (loss, gradient), by caching where there is a micro-batch."""
    encode, loss = functions(graphdef)
    if micro_batch:
        cached = gradient_cache.value_and_grad
        return functools.partial(cached, encode, loss, micro_batch=micro_batch)
    return lambda params, batch: jax.value_and_grad(lambda p: loss(p, encode(p, batch)))(params)


def gradients(graphdef, params, *, micro_batch, devices, fsdp=1):
    """Returns loss and gradient of the batch."""
    run, mesh = value_and_grad(graphdef, micro_batch), mesh_of(devices, fsdp)
    with jax.set_mesh(mesh):
        params = jax.device_put(params, sharding.shard_params(params, mesh))
        batch = sharding.to_global(batch_of(BATCH), mesh)
        return jax.device_get(jax.jit(run)(params, batch))


def assert_close(found, expected, tolerance):
    """Compares each number, and all as a vector: float32's sums go another way, and the softmax of
    X-CLIP at 0.01 makes a hundred times their rounding."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    apart = np.concatenate([np.ravel(x - y) for x, y in pairs])
    length = np.linalg.norm(np.concatenate([np.ravel(y) for y in jax.tree.leaves(expected)]))
    assert length > 0.1 and np.linalg.norm(apart) < tolerance * length
    assert np.abs(apart).max() < 1e-6 * length


def test_the_gradient_is_that_of_one_pass_to_the_last_digits():
    rng = np.random.default_rng(0)
    batch = {"a": rng.normal(size=(BATCH, 5)), "b": rng.normal(size=(BATCH, 7))}
    params = {"a": rng.normal(size=(5, 3)), "b": rng.normal(size=(7, 3)), "scale": np.float64(2)}

    def encode(params, batch):
        return {name: (jnp.tanh(x @ params[name]), x > 0) for name, x in batch.items()}

    def loss(params, features):
        (a, _), (b, on) = features["a"], features["b"]
        scores = params["scale"] * (a @ b.T) + on.sum(1)  # losses.py is for float32
        return -jnp.trace(jax.nn.log_softmax(scores, 0) + jax.nn.log_softmax(scores, 1))

    with jax.enable_x64(True):
        expected = jax.value_and_grad(lambda p: loss(p, encode(p, batch)))(params)
        found = gradient_cache.value_and_grad(encode, loss, params, batch, micro_batch=6)

    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("model", ["xclip", "clip4clip", "tightTransf", "clip2video"])
def test_the_gradient_of_every_model_is_that_of_one_pass(model):
    name = "clip4clip" if model == "tightTransf" else model
    options = {"tightTransf": {"head": model}, "xclip": {"temperature": 1.0}}
    graphdef, abstract = models.create(name, **tiny.SIZES | options.get(model, {}))
    params = tiny.draw(abstract, 0)

    expected_loss, expected = gradients(graphdef, params, micro_batch=0, devices=1)
    found_loss, found = gradients(graphdef, params, micro_batch=8, devices=1)

    assert np.isclose(found_loss, expected_loss, rtol=1e-6, atol=0)
    assert_close(found, expected, 5e-6)


@pytest.mark.parametrize("fsdp", [1, 2])
def test_devices_change_nothing(fsdp):
    graphdef, params = tiny.create()[0], tiny.params()

    expected_loss, expected = gradients(graphdef, params, micro_batch=0, devices=1)
    found_loss, found = gradients(graphdef, params, micro_batch=8, devices=4, fsdp=fsdp)

    assert np.isclose(found_loss, expected_loss, rtol=1e-6, atol=0)
    assert_close(found, expected, 3e-5)


def test_float16_gradients_are_rounded_once_however_many_parts_there_are():
    """Against the float32 gradient of the same weights, as a vector: float16 has 11 bits, so one
    rounding is 2^-12 of a number on average, and numbers near its smallest add a little."""
    graphdef, params = tiny.create(temperature=1.0)[0], tiny.params(temperature=1.0)
    stored = parameter_groups.halve(params)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), stored)

    _, expected = gradients(graphdef, wide, micro_batch=0, devices=1)
    _, found = gradients(graphdef, stored, micro_batch=1, devices=1)

    halves = [
        (np.float32(one), other)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
        if one.dtype == np.float16
    ]
    assert len(halves) > 10
    apart, length = (
        np.linalg.norm(np.concatenate([np.ravel(x) for x in parts]))
        for parts in ([one - other for one, other in halves], [other for _, other in halves])
    )
    assert apart < 2.5e-4 * length


def test_gradients_of_micro_batches_on_their_own_are_something_else():
    graphdef, params = tiny.create()[0], tiny.params()
    encode, loss = functions(graphdef)
    batch = batch_of(BATCH)

    _, whole = gradients(graphdef, params, micro_batch=8, devices=1)
    parts = [jax.tree.map(lambda x, i=i: x[i : i + 8], batch) for i in range(0, BATCH, 8)]
    alone = jax.jit(jax.grad(lambda p, part: loss(p, encode(p, part))))
    summed = jax.tree.map(lambda *x: sum(x) / len(parts), *[alone(params, part) for part in parts])

    one, other = whole["clip"]["logit_scale"], summed["clip"]["logit_scale"]
    assert abs(one - other) > 0.01 * abs(one)


@pytest.mark.parametrize("micro_batch", [5, 48, 4])
def test_a_part_that_does_not_fit_is_refused(micro_batch):
    encode, loss = functions(tiny.create()[0])

    with jax.set_mesh(mesh_of(8, 1)), pytest.raises(ValueError, match="a multiple of 8 that"):
        gradient_cache.value_and_grad(
            encode, loss, tiny.params(), batch_of(BATCH), micro_batch=micro_batch
        )


# Of the proportions of a real model: what an encoder needs is most of it.
SIZES = tiny.SIZES | {
    "image_size": 64,
    "patch_size": 8,
    "vision_width": 256,
    "vision_layers": 3,
    "max_frames": 6,
}


def temporaries(batch: int, micro_batch: int) -> int:
    """Returns the bytes of temporaries a device of eight needs for the gradient."""
    graphdef, abstract = models.create("xclip", **SIZES)
    run, mesh = value_and_grad(graphdef, micro_batch), mesh_of(8, 1)
    with jax.set_mesh(mesh):
        spread = jax.sharding.NamedSharding(mesh, sharding.BATCH)
        inputs = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype, sharding=spread),
            batch_of(8, SIZES),
        )
        compiled = jax.jit(run).lower(abstract, inputs).compile()
        return compiled.memory_analysis().temp_size_in_bytes


def test_memory_is_that_of_a_micro_batch_and_the_features(monkeypatch):
    # A tile in proportion to this model; that of a real one is hidden by its encoders.
    monkeypatch.setattr(similarity, "TRAINING_FLOATS", 2**20)
    batch, part, devices = 4096, 64, 8
    words, frames, embed = (SIZES[key] for key in ("max_words", "max_frames", "embed_dim"))
    # Those of the videos are whole on each device, those of the texts a share; so are gradients.
    features = 2 * 4 * embed * batch * ((1 + frames) + (2 + words + frames) / devices)

    small, large = temporaries(part, 0), temporaries(batch, part)

    assert large <= 1.3 * (small + features)
