"""CLIP2Video trains: its loss and gradients, its options, its parameters by name and number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from test_clip2video import COMBINATIONS, FRAMES, SIZES, WIDTH, create, params, weights

from xclip_jax import convert, losses, models
from xclip_jax.models import ARCHS


@functools.cache
def batch_of(count: int) -> dict:
    """Returns `count` texts and as many videos as bytes."""
    rng = np.random.default_rng(0)
    size = SIZES["image_size"]
    frame_mask = np.arange(FRAMES) < 2 + np.arange(count)[:, None] % 4
    video = rng.integers(0, 256, (count, FRAMES, size, size, 3)).astype(np.uint8)
    texts = tiny.batch(count, count)
    return {
        "tokens": texts["tokens"],
        "token_mask": texts["token_mask"],
        "video": video * frame_mask[:, :, None, None, None],
        "frame_mask": frame_mask,
    }


def whole(batch, **options):
    """Returns the loss, its gradient, the scores and both features of a batch."""
    graphdef, _ = create(**options)

    @jax.jit
    def run(params, batch):
        def loss_of(params):
            model = nnx.merge(graphdef, params)
            text = model.encode_text(batch["tokens"], batch["token_mask"])
            video = model.encode_video(batch["video"], batch["frame_mask"])
            scores = model.similarity(text, video)
            return model.loss(text, video, jax.random.key(0)), (scores, text, video)

        return jax.value_and_grad(loss_of, has_aux=True)(params)

    (loss, rest), grads = run(params(**options), batch)
    return loss, grads, *rest


def test_the_loss_is_the_weighted_sum_of_two_losses_and_not_the_loss_of_the_score():
    loss, _, scores, text, video = whole(batch_of(4))

    scale = np.exp(weights()["clip.logit_scale"])
    one, other = (
        float(losses.symmetric(jnp.asarray(scale * a @ b.T)))
        for a, b in ((text.sentence, video.video), (text.aligned, video.aligned))
    )
    assert float(loss) == pytest.approx(0.3 * one + 0.7 * other, rel=1e-5)
    assert abs(float(loss) - float(losses.symmetric(scores))) > 1e-3


def test_without_alignment_the_model_trains_on_its_score():
    """There the release crashes (SPEC 5.5)."""
    loss, grads, scores, text, video = whole(batch_of(4), alignment="none")

    assert text.aligned.shape == (4, 0) and video.aligned.shape == (4, 0)
    assert float(loss) == pytest.approx(float(losses.symmetric(scores)), rel=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("head, difference, alignment", COMBINATIONS[:6])
def test_every_parameter_takes_part(head, difference, alignment):
    named = {"head": head, "difference": difference, "alignment": alignment}

    _, grads, *_ = whole(batch_of(4), **named)

    for path, gradient in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(gradient).all(), jax.tree_util.keystr(path)
        assert np.any(gradient), jax.tree_util.keystr(path)


@pytest.mark.parametrize("bug", [False, True])
def test_videos_without_frames_or_with_one_leave_loss_and_gradients_finite(bug):
    batch = dict(batch_of(4))
    batch["frame_mask"] = np.arange(FRAMES) < np.array([0, 1, 2, 5])[:, None]
    batch["video"] = batch["video"] * batch["frame_mask"][:, :, None, None, None]

    loss, grads, _, _, video = whole(batch, tiled_mask_bug=bug)

    assert np.isfinite(loss)
    assert not video.video[0].any()
    for path, gradient in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(gradient).all(), jax.tree_util.keystr(path)


def test_bfloat16_stays_close_to_float32():
    """bfloat16 has 8 bits: a feature is off by about 1 %, a score of |cosine| <= 1 by a few."""
    wide, narrow = (
        jax.jit(functools.partial(tiny.scores, create(dtype=dtype)[0]))(params(), batch_of(4))
        for dtype in ("float32", "bfloat16")
    )

    scale = np.exp(weights()["clip.logit_scale"])
    assert narrow.dtype == jnp.float32
    assert 1e-5 < np.abs(wide - narrow).max() / scale < 0.05


def test_wrong_options_are_reported_together():
    with pytest.raises(ValueError) as error:
        models.create(
            "clip2video",
            **SIZES | {"head": "seqLSTM", "difference": "tanh", "alignment": "TDB", "centers": 0},
        )

    message = str(error.value)
    for given in ("head='seqLSTM'", "difference='tanh'", "alignment='TDB'", "centers=0"):
        assert given in message


def test_differences_that_are_switched_off_cannot_be_aligned():
    with pytest.raises(ValueError, match="alignment='TAB_TDB' needs a difference other than"):
        create(difference="none")


@pytest.mark.parametrize("head, difference, alignment", COMBINATIONS)
def test_a_round_trip_from_torch_is_bit_equal(head, difference, alignment):
    named = {"head": head, "difference": difference, "alignment": alignment}
    model, given = create(**named), weights(**named)

    back = convert.to_torch(convert.from_torch(given, model), model)

    assert back.keys() == given.keys()
    for name in given:
        np.testing.assert_array_equal(back[name], given[name], err_msg=name)


def test_the_norm_that_the_references_always_have_may_be_there_unused():
    model, given = create(difference="plain"), weights(difference="plain")
    unused = {"trans_layernorm.weight": np.ones(WIDTH), "trans_layernorm.bias": np.zeros(WIDTH)}

    back = convert.to_torch(convert.from_torch(given | unused, model), model)

    assert back.keys() == given.keys()


@pytest.mark.parametrize(
    "arch, options, count",
    [
        ("vit_b32", {}, 170_238_209),
        ("vit_b16", {}, 168_581_633),
        ("vit_l14", {}, 470_213_633),
        ("vit_b32", {"centers": 7}, 170_240_257),  # VATEX
        ("vit_b32", {"alignment": "none"}, 167_080_705),
        ("vit_b32", {"difference": "sigmoid_mlp"}, 167_347_969),
        ("vit_b32", {"difference": "none", "alignment": "none"}, 163_926_273),  # CLIP4Clip's
    ],
)
def test_parameter_counts_are_the_released_models(arch, options, count):
    sizes = {"max_words": 32, "max_frames": 12, "temporal_layers": 4, "head": "seqTransf"}
    _, abstract = models.create("clip2video", **ARCHS[arch], **sizes, **options)

    assert sum(leaf.size for leaf in jax.tree.leaves(abstract)) == count
