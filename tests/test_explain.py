"""Why this score: parts and attention that add up to what the model itself computes."""

import jax
import numpy as np
import pytest
import tiny
from flax import nnx
from test_xclip import features, score, unit

from xclip_jax import models
from xclip_jax.explain import explain
from xclip_jax.models.similarity import CONTRASTS, Text, Video

OPTIONS = {
    "released": {},
    "masked": {"mask_padding": True},
    "mean, then max": {"aggregation": "mean_max"},
    "max, then mean, masked": {"aggregation": "max_mean", "mask_padding": True},
    "without matrices, warmer": {"learned_mixing": False, "temperature": 0.05},
    "two contrasts": {"contrasts": ("video_word", "frame_word")},
}


def row(features, i: int):
    return jax.tree.map(lambda x: np.asarray(x)[i], features)


def unit_like(abstract, seed: int):
    """Returns random unit features of these shapes, without padding."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: np.ones(x.shape, bool) if x.dtype == bool else unit(rng, *x.shape), abstract
    )


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_parts_add_up_to_the_score_of_the_model(options):
    text, video = features()
    graphdef, params = tiny.create(**options)[0], tiny.params(**options)
    expected = score(text, video, **options)

    for t, v in ((0, 0), (1, 1), (3, 2)):
        got = explain(graphdef, params, row(text, t), row(video, v))

        # The logit scale is about 7, so similarities agree to 1e-6 and scores to 1e-5.
        assert got.score == pytest.approx(expected[t, v], abs=1e-5)
        assert sum(got.points().values()) == pytest.approx(got.score, abs=1e-9)
        assert np.mean([part.similarity for part in got.parts.values()]) == pytest.approx(
            got.score / got.scale, abs=1e-9
        )


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_attention_times_similarity_adds_up_to_frame_word(options):
    text, video = features()
    graphdef, params = tiny.create(**options)[0], tiny.params(**options)
    alone = score(text, video, params=params, **options | {"contrasts": ("frame_word",)})

    got = explain(graphdef, params, row(text, 2), row(video, 1))

    assert got.attention.shape == got.similarity.shape == (7, 3)
    total = (got.attention * got.similarity).sum()
    assert got.scale * total == pytest.approx(alone[2, 1], abs=1e-5)
    assert got.parts["frame_word"].similarity == pytest.approx(total)


def test_without_matrices_each_attention_is_a_distribution_over_what_is_not_padding():
    options = {"learned_mixing": False, "mask_padding": True}
    text, video = features()

    got = explain(tiny.create(**options)[0], tiny.params(**options), row(text, 1), row(video, 2))

    for weights in (got.attention, got.word_attention, got.frame_attention):
        assert weights.min() >= 0 and weights.sum() == pytest.approx(1)
    assert not got.attention[3:].any() and not got.attention[:, 2:].any()
    assert not got.word_attention[3:].any() and not got.frame_attention[2:].any()


def test_what_an_ablation_lacks_is_said_in_a_line():
    options = OPTIONS["two contrasts"]
    text, video = features()

    got = explain(tiny.create(**options)[0], tiny.params(**options), row(text, 0), row(video, 0))

    assert set(got.parts) == {"video_word", "frame_word"} and got.frame_attention is None
    assert got.absent == "this model was trained without video-sentence, sentence-frame."
    whole = explain(tiny.create()[0], tiny.params(), row(text, 0), row(video, 0))
    assert tuple(whole.parts) == CONTRASTS and whole.absent == ""


@pytest.mark.parametrize(
    ("name", "options", "parts", "said"),
    [
        ("clip4clip", {}, {"video_sentence"}, "one vector of the text"),
        ("clip4clip", {"head": "tightTransf"}, set(), "the cross encoder"),
        ("clip2video", {}, {"video_sentence", "centers"}, "around centers"),
        ("clip2video", {"alignment": "none"}, {"video_sentence"}, "whole texts and videos"),
    ],
    ids=["clip4clip", "tightTransf", "clip2video", "clip2video without centers"],
)
def test_other_models_give_what_they_have_and_say_what_they_lack(name, options, parts, said):
    graphdef, abstract = models.create(name, **tiny.SIZES | options)
    params = tiny.draw(abstract, 0)
    model, batch = nnx.merge(graphdef, params), tiny.batch(2, 3)
    text = unit_like(jax.eval_shape(model.encode_text, batch["tokens"], batch["token_mask"]), 0)
    pixels = (batch["video"], batch["frame_mask"])
    video = unit_like(jax.eval_shape(model.encode_video, *pixels), 1)
    expected = np.asarray(jax.jit(model.similarity)(text, video))

    got = explain(graphdef, params, row(text, 1), row(video, 2))

    assert got.score == pytest.approx(expected[1, 2], abs=1e-5)
    assert set(got.parts) == parts and got.attention is None
    assert said in got.absent and "\n" not in got.absent
    if parts:
        assert sum(got.points().values()) == pytest.approx(got.score)


def test_more_than_one_text_is_refused():
    text, video = features()

    with pytest.raises(ValueError, match="expected one row of each"):
        explain(tiny.create()[0], tiny.params(), text, row(video, 0))
    assert isinstance(text, Text) and isinstance(video, Video)
