"""BertAdam is SPEC 8 exactly; AdamW is optax's; both treat the groups of parameters as stated."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from spec17 import grid

from xclip_jax import bertadam, convert, models, optimizer
from xclip_jax.models.clip import ARCHS

SETTINGS = {
    "total_steps": 20,
    "learning_rate": 0.01,
    "clip_multiplier": 1.0,
    "warmup_fraction": 0.1,
    "weight_decay": 0.2,
    "freeze_layers": -1,
    "encoder_gradient_scale": 1.0,
}
ALWAYS = re.compile(r"clip\.(ln_final|text_projection|logit_scale|visual\.ln_post|visual\.proj)")


def create(name="bertadam", **changes) -> optimizer.Optimizer:
    return optimizer.create(name, **SETTINGS | changes)


def follow(transformation, params, gradients) -> list[dict]:
    """Returns the parameters after each gradient."""

    @jax.jit
    def step(params, state, grads):
        updates, state = transformation.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state, after = jax.jit(transformation.init)(params), []
    for grads in gradients:
        params, state = step(params, state, grads)
        after.append(params)
    return after


def drawn(seed: int) -> dict:
    """Returns gradients for the tiny model, in NumPy."""
    return jax.tree.map(np.asarray, tiny.params(seed=seed))


def named(tree, model) -> dict[str, np.ndarray]:
    """Returns a tree of parameters, or of what belongs to each, by the references' names."""
    whole = jax.tree.map(lambda value, leaf: np.broadcast_to(value, leaf.shape), tree, model[1])
    return convert.to_torch(whole, model)


def trains(name: str, freeze_layers: int) -> bool:
    """SPEC 7.3, told by the references' names."""
    if freeze_layers < 0 or not name.startswith("clip.") or ALWAYS.match(name):
        return True
    block = re.search(r"resblocks\.(\d+)\.", name)
    return bool(block) and int(block.group(1)) >= freeze_layers


def test_bertadam_gives_the_golden_values():
    """SPEC 17 E, printed with nine digits; float32 keeps seven."""
    gradients = [{"p": jnp.asarray(grid((3,), i, 1.5 if i % 2 else 0.05))} for i in range(6)]

    got = follow(create().transformation, {"p": jnp.array([0.5, -1.0, 2.0])}, gradients)

    expected = [
        (0.5, -1, 2),
        (0.49596451, -1.00268288, 1.99414588),
        (0.488195663, -1.00747557, 1.98361351),
        (0.479945182, -1.00645313, 1.98306535),
        (0.473139469, -1.00500596, 1.98251627),
        (0.474566727, -1.00040367, 1.98106775),
    ]
    np.testing.assert_allclose([params["p"] for params in got], expected, rtol=3e-7)


@pytest.mark.parametrize(
    "progress, factor", [(0, 0), (0.05, 0.5), (0.1, 0.97553), (0.5, 0.5), (0.9, 0.02447)]
)
def test_the_schedule_warms_up_and_then_follows_a_cosine_from_zero(progress, factor):
    assert float(bertadam.warmup_cosine(progress, 0.1)) == pytest.approx(factor, abs=1e-5)
    rate = create(total_steps=200, learning_rate=3.0).learning_rate(200 * progress)
    assert float(rate) == pytest.approx(3 * factor, abs=3e-5)


@pytest.mark.parametrize("name", ["bertadam", "adamw"])
def test_without_a_warm_up_the_cosine_begins_at_the_whole_rate(name):
    rate = create(name, total_steps=200, learning_rate=3.0, warmup_fraction=0.0).learning_rate

    for step in (0, 1, 50, 199):
        cosine = (1 + np.cos(np.pi * step / 200)) / 2
        assert float(rate(step)) == pytest.approx(3 * cosine, abs=1e-5)
    [after] = follow(
        create(name, warmup_fraction=0.0, weight_decay=0.0).transformation,
        {"p": jnp.float32(2)},
        [{"p": jnp.float32(0.5)}],
    )
    assert abs(float(after["p"]) - 2) > 1e-3  # the first update is one


def bertadam_by_name(params, gradients, *, multiplier, freeze_layers) -> dict[str, np.ndarray]:
    """SPEC 8 in float64, a loop over the references' own tensors."""
    params = {name: np.array(value, np.float64) for name, value in params.items()}
    mean = {name: np.zeros_like(value) for name, value in params.items()}
    square = {name: np.zeros_like(value) for name, value in params.items()}
    for k, grads in enumerate(gradients):
        on = [name for name in params if trains(name, freeze_layers)]
        norm = np.sqrt(sum((np.asarray(grads[name], np.float64) ** 2).sum() for name in on))
        for name in on:
            g = np.asarray(grads[name], np.float64) * min(1, 1 / (norm + 1e-6))
            g = g * min(1, 1 / (np.linalg.norm(g) + 1e-6))
            mean[name] = 0.9 * mean[name] + 0.1 * g
            square[name] = 0.98 * square[name] + 0.02 * g**2
            step = mean[name] / (np.sqrt(square[name]) + 1e-6)
            if "bias" not in name:
                step = step + 0.2 * params[name]
            x = k / 20
            rate = 0.01 * (x / 0.1 if x < 0.1 else (1 + np.cos(np.pi * x)) / 2)
            params[name] -= rate * (multiplier if name.startswith("clip.") else 1) * step
    return params


@pytest.mark.parametrize("freeze_layers", [-1, 0, 1])
def test_bertadam_matches_a_loop_over_the_references_tensors(freeze_layers):
    """With gradients of norms from far below one to far above, where they are clipped."""
    model, params = tiny.create(), tiny.params()
    gradients = [
        jax.tree.map(lambda g, size=size: np.float32(size) * (g - 1), drawn(1))
        for size in (1e-4, 2e-4, 1.0, -1e-4)
    ]
    chosen = {"clip_multiplier": 0.3, "freeze_layers": freeze_layers}

    got = named(follow(create(**chosen).transformation, params, gradients)[-1], model)

    expected = bertadam_by_name(
        named(params, model),
        [named(grads, model) for grads in gradients],
        multiplier=0.3,
        freeze_layers=freeze_layers,
    )
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_each_layer_of_a_stacked_tensor_is_clipped_alone():
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=(4, 5)) * size for size in (0.01, 3.0, 0.2)]

    got = bertadam._clip_tensor(jnp.asarray(layers, jnp.float32), stacked=True)
    whole = bertadam._clip_tensor(jnp.asarray(layers, jnp.float32), stacked=False)

    for layer, clipped in zip(layers, got, strict=True):
        norm = np.linalg.norm(layer)
        np.testing.assert_allclose(clipped, layer / max(norm, 1), rtol=1e-5)
    np.testing.assert_allclose(whole, layers / np.linalg.norm(layers), rtol=1e-5)


@pytest.mark.parametrize("freeze_layers", [-1, 0, 1, 12])
def test_the_frozen_parameters_are_the_references(freeze_layers):
    model = tiny.create(vision_layers=3, text_layers=2)

    masks = named(optimizer.trainable_masks(model[1], freeze_layers), model)

    for name, mask in masks.items():
        assert np.all(mask == trains(name, freeze_layers)), name


@pytest.mark.parametrize(
    "freeze_layers, count",
    [
        (-1, 151_277_313),
        (0, 123_540_993),  # SPEC 7.3: 123.54 M
        (1, 123_540_993 - 7_087_872 - 3_152_384),  # without a block of 768 and one of 512
        (12, 1024 + 512 * 512 + 1 + 1536 + 768 * 512),  # norms, projections and the scale
    ],
)
def test_the_number_of_trainable_clip_parameters_of_vit_b32(freeze_layers, count):
    sizes = {"max_words": 32, "max_frames": 12, "temporal_layers": 4, "head": "seqTransf"}
    _, params = models.create("xclip", **ARCHS["vit_b32"], **sizes)

    masks = optimizer.trainable_masks(params, freeze_layers)

    shares = jax.tree.map(
        lambda mask, leaf: int(mask.sum()) * (leaf.size // mask.size), masks, params
    )
    assert sum(jax.tree.leaves(shares["clip"])) == count
    others = [key for key in params if key != "clip"]
    assert all(np.all(mask == 1) for key in others for mask in jax.tree.leaves(masks[key]))


@pytest.mark.parametrize("name", ["bertadam", "adamw"])
def test_frozen_parameters_neither_move_nor_count_in_the_norm(name):
    model, params = tiny.create(), tiny.params()
    transformation = create(name, freeze_layers=1).transformation
    masks = optimizer.trainable_masks(params, 1)
    grads = drawn(1)
    huge = jax.tree.map(lambda g, mask: g + 1_000_000 * (1 - mask), grads, masks)

    got = named(follow(transformation, params, [grads] * 3)[-1], model)
    loud = named(follow(transformation, params, [huge] * 3)[-1], model)

    before = named(params, model)
    moved = {key for key in before if np.any(before[key] != got[key])}
    assert moved == {key for key in before if trains(key, 1)}
    for key, value in got.items():
        np.testing.assert_array_equal(loud[key], value, err_msg=key)


def test_bertadam_decays_all_but_biases_and_slows_clip():
    """With no gradient an update is the decay alone, at the parameter's own rate."""
    model, params = tiny.create(), tiny.params()
    transformation = create(clip_multiplier=0.25, warmup_fraction=0.0).transformation
    zeros = jax.tree.map(lambda p: np.zeros(p.shape, np.float32), params)

    [after] = follow(transformation, params, [zeros])

    before, after = named(params, model), named(after, model)
    for name in before:
        rate = 0.01 * (0.25 if name.startswith("clip.") else 1)
        decay = 0 if "bias" in name else 0.2
        expected = before[name] * (1 - rate * decay)
        np.testing.assert_allclose(after[name], expected, rtol=2e-7, err_msg=name)


def test_adamw_decays_matrices_only_and_slows_clip():
    model, params = tiny.create(), tiny.params()
    transformation = create("adamw", clip_multiplier=0.25).transformation
    zeros = jax.tree.map(lambda p: np.zeros(p.shape, np.float32), params)
    rate = create("adamw").learning_rate(1)
    matrix = re.compile(
        r"in_proj_weight|out_proj\.weight|c_fc\.weight|c_proj\.weight|conv1\.weight"
        r"|visual\.proj|text_projection"
    )

    first, second = follow(transformation, params, [zeros, zeros])

    before, after = named(first, model), named(second, model)
    assert sum(bool(matrix.search(name)) for name in before) == 4 * 4 + 3  # of 2 + 1 + 1 blocks
    for name in before:
        own = rate * (0.25 if name.startswith("clip.") else 1)
        expected = before[name] * (1 - own * (0.2 if matrix.search(name) else 0))
        np.testing.assert_allclose(after[name], expected, rtol=2e-7, err_msg=name)


def test_adamw_without_groups_is_optaxs():
    rng = np.random.default_rng(0)

    def draw(scale):
        shapes = {"kernel": (3, 4), "proj": (2, 5)}
        drawn = {name: scale * rng.normal(size=shape) for name, shape in shapes.items()}
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), drawn)

    params, gradients = draw(1), [draw(size) for size in (0.01, 0.02, 9.0, 0.01)]  # none clipped
    settings = create("adamw", total_steps=8)

    got = follow(settings.transformation, params, gradients)

    plain = optax.adamw(settings.learning_rate, weight_decay=0.2)
    for ours, theirs in zip(got, follow(plain, params, gradients), strict=True):
        for name in params:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6)


@pytest.mark.parametrize("total_steps", [1, 2, 50, 50.5])
def test_adamw_starts_and_ends_at_rate_zero(total_steps):
    rate = create("adamw", total_steps=total_steps).learning_rate

    rates = [float(rate(step)) for step in range(60)]

    assert rates[0] == 0 and max(rates) == pytest.approx(0.01)
    assert rates[51] == pytest.approx(0, abs=1e-9)
    assert rates.index(max(rates)) == (5 if total_steps > 2 else 1)


def test_the_scale_is_clamped_to_a_hundred_from_above_only():
    def clamped(scale):
        tree = {"clip": {"logit_scale": jnp.float32(scale), "x": 9.0}, "y": 8.0}
        return optimizer.clamp_logit_scale(tree)

    assert float(jnp.exp(clamped(4.7)["clip"]["logit_scale"])) == pytest.approx(100, rel=1e-5)
    assert float(clamped(-3.0)["clip"]["logit_scale"]) == -3
    assert clamped(4.7)["clip"]["x"] == 9 and clamped(4.7)["y"] == 8
    assert clamped(4.7)["clip"]["logit_scale"].dtype == jnp.float32


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"'sgd' is unknown: set config.optimizer.name"):
        create("sgd")
