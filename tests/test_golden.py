"""X-CLIP and CLIP4Clip compute what the released PyTorch code computes (golden/README.md).

The bounds are the README's: they leave room for another order of float32 sums and no more.
"""

import json
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from xclip_jax import convert, models, optimizer

GOLDEN = Path(__file__).parent / "golden"
MATRICES = ("_logit_weight", "_mat_weight", "_mat_weight2")
FEATURES = ("out_sentence", "out_words", "out_frames")
SYSTEMS = ("xclip", "clip4clip")
WHOLE = [f"{system}_{head}" for system in SYSTEMS for head in ("meanP", "seqTransf", "seqLSTM")]
WITH_STEPS = ["xclip_seqTransf", "clip4clip_meanP", "clip4clip_seqTransf"]
INPUTS = ("token_ids", "token_mask", "frames", "frame_mask")


class Case(NamedTuple):
    """One golden file, our model with its parameters, and what the model makes of its inputs."""

    arrays: dict
    meta: dict
    model: tuple
    params: dict
    gradient: object
    got: dict
    grads: dict


def parameter(name: str, shape, seed: int) -> np.ndarray:
    """Returns the value that the formula of golden/README.md gives to a parameter."""
    z = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32).standard_normal(shape)
    last = name.split(".")[-1]
    if last == "logit_scale":
        value = np.log(20)
    elif last.endswith(MATRICES):
        value = np.eye(len(z)) + 0.05 * z
    elif len(shape) == 1 and last == "weight":
        value = 1 + 0.1 * z
    elif "bias" in last:
        value = 0.05 * z
    else:
        value = 0.08 * z
    return np.asarray(value, np.float32)


def projections(name: str, array: np.ndarray, seed: int) -> np.ndarray:
    """Returns three random inner products of an array, and its norm."""
    flat = array.astype(np.float64).ravel()
    seeds = [(zlib.crc32(name.encode()) + seed + 7919 * (k + 1)) % 2**32 for k in range(3)]
    products = [np.random.RandomState(s).standard_normal(flat.size) @ flat for s in seeds]
    return np.array([*products, np.linalg.norm(flat)])


def load(name: str) -> tuple[dict, dict, tuple, dict]:
    """Returns a golden file's arrays and meta, our model of its sizes and its parameters."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = dict(file)
    meta = json.loads(bytes(arrays["meta"]))
    sizes = {key: value for key, value in meta["config"].items() if key != "optimizer"}
    model = models.create(meta["system"], **sizes)
    state_dict = {
        name: parameter(name, shape, meta["seed"]) for name, shape in meta["parameters"].items()
    }
    return arrays, meta, model, jax.tree.map(jnp.asarray, convert.from_torch(state_dict, model))


def forward(merged: nnx.Module, arrays: dict, **options) -> tuple:
    """Returns the features of text and video, and CLIP's features and the scores by their names."""
    tokens, token_mask, frames, frame_mask = (jnp.asarray(arrays[name]) for name in INPUTS)
    images = jnp.moveaxis(frames, 2, -1)
    text = merged.encode_text(tokens.astype(jnp.int32), token_mask.astype(bool))
    video = merged.encode_video(images, frame_mask.astype(bool))
    seen = jnp.ones(images.shape[:2], bool)
    found = [*merged.clip.text(tokens), merged.clip.visual(images, seen)]
    scores = merged.similarity(text, video, **options)
    return text, video, dict(zip(FEATURES, found, strict=True)) | {"out_logits": scores}


@pytest.fixture(scope="module", params=[*WHOLE, "clip4clip_meanP_3d"])
def case(request) -> Case:
    arrays, meta, model, params = load(request.param)

    def loss_of(params):
        merged = nnx.merge(model[0], params)
        text, video, got = forward(merged, arrays)
        return merged.loss(text, video, jax.random.key(0)), got

    gradient = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
    with jax.default_matmul_precision("highest"):
        (loss, got), grads = gradient(params)
    return Case(arrays, meta, model, params, gradient, got | {"out_loss": loss}, grads)


def test_features_scores_and_loss_are_the_references(case):
    measured = [name for name in (*FEATURES, "out_logits", "out_loss") if name in case.arrays]

    assert len(measured) >= 4
    for name in measured:
        np.testing.assert_allclose(
            case.got[name], case.arrays[name], rtol=0, atol=1e-4, err_msg=name
        )


@pytest.mark.parametrize("columns", [None, 3])
def test_scores_of_the_cross_encoder_are_the_references(columns):
    """Its loss and gradients were measured with dropout, so only what has none is compared."""
    arrays, _, model, params = load("clip4clip_tightTransf")
    run = jax.jit(lambda params: forward(nnx.merge(model[0], params), arrays, columns=columns)[2])

    with jax.default_matmul_precision("highest"):
        got = run(params)

    for name in ("out_sentence", "out_frames", "out_logits"):
        np.testing.assert_allclose(got[name], arrays[name], rtol=0, atol=1e-4, err_msg=name)


def test_gradients_are_the_references(case):
    grads = convert.to_torch(case.grads, case.model)

    expected = dict(zip(case.meta["grad_names"], case.arrays["out_grad_projections"], strict=True))

    for name, row in expected.items():
        got = projections(name, grads[name], case.meta["seed"])
        assert np.abs(got - row).max() <= 1e-3 * row[3], name


# With the 3d patch the references freeze nothing, by accident (SPEC 16 row 7).
@pytest.mark.parametrize("case", WHOLE, indirect=True)
def test_what_the_references_freeze_is_frozen(case):
    masks = optimizer.trainable_masks(case.model[1], 0)

    whole = jax.tree.map(lambda mask, leaf: np.broadcast_to(mask, leaf.shape), masks, case.model[1])
    trained = {name for name, mask in convert.to_torch(whole, case.model).items() if mask.all()}

    assert trained == set(case.meta["grad_names"])


@pytest.mark.parametrize("case", WITH_STEPS, indirect=True)
def test_six_steps_of_the_optimizer_are_the_references(case):
    given = case.meta["config"]["optimizer"]
    transformation = optimizer.create(
        "bertadam",
        total_steps=given["total_steps"],
        learning_rate=given["lr"],
        clip_multiplier=given["coef_lr"],
        warmup_fraction=given["warmup_proportion"],
        weight_decay=given["weight_decay"],
        freeze_layers=given["freeze_layer_num"],
        encoder_gradient_scale=1.0,
    ).transformation

    @jax.jit
    def step(params, state, grads):
        updates, state = transformation.update(grads, state, params)
        return optimizer.clamp_logit_scale(optax.apply_updates(params, updates)), state

    params, state, got = case.params, transformation.init(case.params), []
    with jax.default_matmul_precision("highest"):
        for _ in range(given["steps"]):
            (loss, _), grads = case.gradient(params)
            params, state = step(params, state, grads)
            got.append(loss)

    # The losses fall to 0.02, as differences of logits of tens: float32 has 1e-6 of those.
    np.testing.assert_allclose(got, case.arrays["out_step_losses"], rtol=1e-5, atol=1e-6)
    state_dict = convert.to_torch(params, case.model)
    rows = zip(case.meta["step_names"], case.arrays["out_step_projections"], strict=True)
    for name, row in rows:
        error = np.abs(projections(name, state_dict[name], case.meta["seed"]) - row).max()
        assert error <= 1e-5 * row[3], name
