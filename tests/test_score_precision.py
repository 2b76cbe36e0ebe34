"""Scores are computed in float32, whatever arithmetic the towers have and the device prefers."""

import re

import jax
import numpy as np
import pytest
import tiny

from xclip_jax import evaluate, models

MODELS = {
    "xclip": ("xclip", {}),
    "clip4clip": ("clip4clip", {"head": "meanP"}),
    "tightTransf": ("clip4clip", {"head": "tightTransf"}),
    "clip2video": ("clip2video", {}),
}


def verbs(name: str, **options) -> tuple:
    """Returns the encoders and parameters of a model, and its features of 8 texts and 16 videos."""
    name, own = MODELS[name]
    graphdef, abstract = models.create(name, **tiny.SIZES | own | options)
    encoders, params, batch = (
        evaluate.make_encoders(graphdef),
        tiny.draw(abstract, 0),
        tiny.batch(8, 16),
    )
    text = encoders.text.trace(params, batch["tokens"], batch["token_mask"])
    video = encoders.video.trace(params, batch["video"], batch["frame_mask"])
    return encoders, params, text, video


def precisions(traced) -> set[str]:
    """Returns how precise the products of a traced function are asked to be."""
    products = re.findall(r"stablehlo\.dot_general[^\n]*", traced.lower().as_text())
    assert products
    return {re.search(r"precision = \[(\w+), \w+\]", one)[1] for one in products}


@pytest.mark.parametrize("name", MODELS)
def test_products_of_scores_are_asked_for_in_float32_and_those_of_towers_left_as_they_are(name):
    encoders, params, text, video = verbs(name)

    scores = encoders.similarity.trace(params, text.out_info, video.out_info, columns=2)

    assert precisions(scores) == {"HIGHEST"}
    assert precisions(text) == precisions(video) == {"DEFAULT"}


@pytest.mark.parametrize("name", MODELS)
def test_a_bfloat16_model_hands_over_float32_features(name):
    encoders, params, text, video = verbs(name, dtype="bfloat16")

    scores = encoders.similarity.trace(params, text.out_info, video.out_info, columns=2)

    kinds = {
        leaf.dtype for leaf in jax.tree.leaves((text.out_info, video.out_info, scores.out_info))
    }
    assert kinds == {np.dtype(np.float32), np.dtype(bool)}
