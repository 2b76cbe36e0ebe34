"""CLIP2Video computes what the released PyTorch code computes, mask bug and all, and what it
would compute without the bug (golden/README.md)."""

import functools
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_golden import GOLDEN, INPUTS, parameter, projections

from xclip_jax import convert, models


class Case(NamedTuple):
    """The golden file, our model with its parameters in both modes, and what each computes."""

    arrays: dict
    meta: dict
    model: tuple
    params: dict
    inputs: tuple
    released: dict
    fixed: dict


def model_of(meta: dict, **options) -> tuple:
    sizes = {key: value for key, value in meta["config"].items() if key != "optimizer"}
    return models.create("clip2video", **sizes, **options)


def forward(model, params, tokens, token_mask, video, frame_mask):
    """Returns the training loss; features and scores."""
    merged = nnx.merge(model[0], params)
    text = merged.encode_text(tokens, token_mask)
    clips = merged.encode_video(video, frame_mask)
    sentence, words = merged.clip.text(tokens)
    return merged.loss(text, clips, jax.random.key(0)), {
        "out_sentence": sentence,
        "out_words": words,
        "out_frames": merged.clip.visual(video, jnp.ones(video.shape[:2], bool)),
        "out_logits": merged.similarity(text, clips),
    }


def compute(model, params, inputs, *, gradient=False) -> dict:
    """Returns what `forward` does, in one dict; with the loss's gradient if asked for."""
    run = functools.partial(forward, model)
    with jax.default_matmul_precision("highest"):
        if not gradient:
            loss, got = jax.jit(run)(params, *inputs)
            return got | {"out_loss": loss}
        (loss, got), grads = jax.jit(jax.value_and_grad(run, has_aux=True))(params, *inputs)
    return got | {"out_loss": loss, "grads": grads}


@pytest.fixture(scope="module")
def case() -> Case:
    with np.load(GOLDEN / "clip2video_TAB_TDB.npz") as file:
        arrays = dict(file)
    meta = json.loads(bytes(arrays["meta"]))
    model = model_of(meta, tiled_mask_bug=True)
    state_dict = {
        name: parameter(name, shape, meta["seed"]) for name, shape in meta["parameters"].items()
    }
    params = jax.tree.map(jnp.asarray, convert.from_torch(state_dict, model))
    tokens, token_mask, frames, frame_mask = (jnp.asarray(arrays[name]) for name in INPUTS)
    inputs = (
        tokens.astype(jnp.int32),
        token_mask.astype(bool),
        jnp.moveaxis(frames, 2, -1),
        frame_mask.astype(bool),
    )
    released = compute(model, params, inputs, gradient=True)
    fixed = compute(model_of(meta), params, inputs)
    return Case(arrays, meta, model, params, inputs, released, fixed)


@pytest.mark.parametrize(
    "name", ["out_sentence", "out_words", "out_frames", "out_logits", "out_loss"]
)
def test_features_scores_and_loss_are_the_references(case, name):
    np.testing.assert_allclose(case.released[name], case.arrays[name], rtol=0, atol=1e-4)


def test_gradients_are_the_references(case):
    grads = convert.to_torch(case.released["grads"], case.model)

    names = case.meta["grad_names"]
    for name, row in zip(names, case.arrays["out_grad_projections"], strict=True):
        got = projections(name, grads[name], case.meta["seed"])
        assert np.abs(got - row).max() <= 1e-3 * row[3], name


def test_names_and_shapes_are_the_references(case):
    ours = convert.to_torch(case.params, case.model)

    expected = {name: tuple(shape) for name, shape in case.meta["parameters"].items()}
    assert {name: value.shape for name, value in ours.items()} == expected


def test_without_the_bug_the_videos_it_did_not_touch_score_as_the_references(case):
    """With 4 videos and 2 heads, video n was given the masks of videos 2n and 2n + 1 mod 4. Only
    video 2 is short: its mask went to a head of 1 and of 3, and video 0 was as without the bug."""
    got, released = case.fixed["out_logits"], case.arrays["out_logits"]

    np.testing.assert_allclose(got[:, 0], released[:, 0], rtol=0, atol=1e-4)
    for video in (1, 2, 3):
        assert np.abs(got[:, video] - released[:, video]).max() > 1e-3
    for name in ("out_sentence", "out_words", "out_frames"):
        np.testing.assert_allclose(case.fixed[name], case.arrays[name], rtol=0, atol=1e-4)


def test_with_full_clips_both_modes_agree(case):
    tokens, token_mask, video, _ = case.inputs
    whole = tokens, token_mask, video, jnp.ones(video.shape[:2], bool)

    one, other = (
        compute(model_of(case.meta, tiled_mask_bug=bug), case.params, whole)
        for bug in (True, False)
    )

    np.testing.assert_allclose(one["out_logits"], other["out_logits"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(one["out_loss"], other["out_loss"], rtol=1e-6)
