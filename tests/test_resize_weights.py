"""Weights fit other sizes by Pillow's bicubic, Long-CLIP's stretch, PI-resize and identities.

Oracles: Pillow itself, loops over positions, images enlarged by Pillow.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from PIL import Image

from xclip_jax import resize_weights
from xclip_jax.models.clip import patchify
from xclip_jax.models.similarity import Text, Video


def by_pillow(plane: np.ndarray, side: int) -> np.ndarray:
    image = Image.fromarray(plane.astype(np.float32), mode="F")
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


def fit(params, *allow, **sizes):
    """Returns the tiny model's parameters in the shapes of another, and that model."""
    model = tiny.create(**sizes)
    fitted = resize_weights.fit(
        jax.tree.map(np.asarray, params), model[1], allow=allow, source="tiny.pt"
    )
    return fitted, model


@pytest.mark.parametrize("old, new", [(3, 5), (7, 14), (7, 4), (5, 2), (2, 9), (6, 6)])
def test_image_positions_are_resized_as_pillow_does(old, new):
    """float32 in Pillow, float64 here: seven digits of values about 1."""
    table = np.random.default_rng(0).normal(size=(1 + old * old, 3)).astype(np.float32)

    got = resize_weights.image_positions(table, 1 + new * new)

    assert got.shape == (1 + new * new, 3) and got.dtype == np.float32
    np.testing.assert_array_equal(got[0], table[0])
    for channel in range(3):
        expected = by_pillow(table[1:, channel].reshape(old, old), new)
        np.testing.assert_allclose(got[1:, channel].reshape(new, new), expected, atol=2e-6)


def stretched_by_four(table: np.ndarray) -> np.ndarray:
    """Long-CLIP, told as a loop: each gap between two positions gets three more, the last goes on
    with the step before it."""
    rows = list(table[:20])
    for i in range(20, len(table)):
        step = (table[i + 1] - table[i]) if i + 1 < len(table) else (table[i] - table[i - 1])
        rows += [table[i] + quarter * step / 4 for quarter in range(4)]
    return np.array(rows)


def test_longer_text_keeps_twenty_positions_and_stretches_the_others_by_four():
    table = np.random.default_rng(0).normal(size=(77, 5)).astype(np.float32)

    got = resize_weights.text_positions(table, 248)

    assert got.shape == (248, 5) and got.dtype == np.float32
    np.testing.assert_array_equal(got[:20], table[:20])
    np.testing.assert_allclose(got, stretched_by_four(table), atol=1e-6)


@pytest.mark.parametrize("length", [78, 100, 160])
def test_any_length_between_is_linear_interpolation(length):
    table = np.random.default_rng(0).normal(size=(77, 2))

    got = resize_weights.text_positions(table, length)

    at = 20 + np.arange(length - 20) * 57 / (length - 20)
    inside = at <= 76
    for column in range(2):
        expected = np.interp(at[inside], np.arange(77), table[:, column])
        np.testing.assert_allclose(got[20:][inside, column], expected, atol=1e-12)
    assert inside.sum() < len(at)


def test_shorter_text_drops_the_last_positions():
    table = np.arange(77 * 2).reshape(77, 2)

    np.testing.assert_array_equal(resize_weights.text_positions(table, 32), table[:32])


def test_frame_positions_stay_and_repeat_beyond_the_last():
    table = np.arange(4.0).reshape(4, 1)

    assert resize_weights.frame_positions(table, 6).ravel().tolist() == [0, 1, 2, 3, 3, 3]
    assert resize_weights.frame_positions(table, 3).ravel().tolist() == [0, 1, 2]


@pytest.mark.parametrize("old, new", [(4, 6), (4, 8), (3, 5)])
def test_a_larger_patch_sees_in_an_enlarged_image_what_the_old_one_saw(old, new):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3 * old * old, 7)).astype(np.float32)
    image = rng.normal(size=(old, old, 3))
    enlarged = np.stack([by_pillow(image[:, :, c], new) for c in range(3)], axis=-1)

    got = resize_weights.patches(kernel, 3 * new * new)

    assert got.shape == (3 * new * new, 7) and got.dtype == np.float32
    before = np.asarray(patchify(jax.numpy.asarray(image[None], "float32"), old))[0, 0] @ kernel
    after = np.asarray(patchify(jax.numpy.asarray(enlarged[None], "float32"), new))[0, 0] @ got
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_a_smaller_patch_is_the_least_squares_solution():
    """No other kernel answers shrunken unit images with a smaller error."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(2, 3 * 6 * 6, 1))
    shrink = np.array(
        [by_pillow(np.eye(36)[i].reshape(6, 6), 4).ravel() for i in range(36)]
    )  # [36 pixels, 16]

    got = resize_weights.patches(kernel, 3 * 4 * 4)

    for depth in range(2):
        for channel in range(3):
            wanted = kernel[depth, channel::3, 0]
            best, *_ = np.linalg.lstsq(shrink, wanted, rcond=None)
            np.testing.assert_allclose(got[depth, channel::3, 0], best, atol=1e-5)


@pytest.mark.parametrize("size", [2, 4, 6])
def test_a_matrix_is_cut_or_grows_by_the_identity(size):
    matrix = np.random.default_rng(0).normal(size=(4, 4))

    got = resize_weights.mixing(matrix, size)

    for i in range(size):
        for j in range(size):
            old = i < 4 and j < 4
            assert got[i, j] == (matrix[i, j] if old else float(i == j))


def test_equal_sizes_leave_every_weight_alone():
    fitted, _ = fit(tiny.params())

    for got, given in zip(jax.tree.leaves(fitted), jax.tree.leaves(tiny.params()), strict=True):
        np.testing.assert_array_equal(got, given)


SIZES = [
    ({"image_size": 20}, ["image_size"], 1),
    ({"patch_size": 6}, ["patch_size"], 2),
    ({"patch_size": 3, "linear_patch": "3d"}, ["patch_size"], 3),
    ({"context_length": 9}, ["context_length"], 2),
    ({"max_words": 9}, ["max_words"], 3),
    ({"max_frames": 5}, ["max_frames"], 3),
    ({"max_words": 5, "max_frames": 2, "image_size": 8}, ["image_size", "max_frames"], None),
]


@pytest.mark.parametrize("sizes, options, changed", SIZES)
def test_nothing_is_resized_unless_its_option_is_given(sizes, options, changed):
    patch = {key: value for key, value in sizes.items() if key == "linear_patch"}
    given = tiny.params(**patch)

    with pytest.raises(ValueError, match=r"tiny\.pt does not fit the model") as error:
        fit(given, **sizes)
    for option in options:
        assert f"add {option} to config.init.resize" in str(error.value)

    if changed is None:
        with pytest.raises(ValueError, match="add max_words to"):
            fit(given, *options, **sizes)
        return
    fitted, model = fit(given, *options, **sizes)
    shapes = [leaf.shape for leaf in jax.tree.leaves(model[1])]
    assert [leaf.shape for leaf in jax.tree.leaves(fitted)] == shapes
    before = jax.tree.leaves(given)
    assert sum(a.shape != s for a, s in zip(before, shapes, strict=True)) == changed


def test_a_model_with_more_words_and_frames_scores_short_texts_as_before():
    """Once padding takes no part, new words and frames change nothing for those that have none."""
    rng, given = np.random.default_rng(0), tiny.params(mask_padding=True)
    more = {"max_words": 9, "max_frames": 5}
    fitted, (graphdef, _) = fit(given, *more, **more, mask_padding=True)
    words, frames = rng.normal(size=(4, 7, 64)), rng.normal(size=(2, 3, 64))
    text = Text(rng.normal(size=(4, 64)), words, np.ones((4, 7), bool))
    video = Video(rng.normal(size=(2, 64)), frames, np.ones((2, 3), bool))

    def scores(graphdef, params, text, video):
        text, video = (
            type(x)(*(jnp.asarray(y, bool if y.dtype == bool else "float32") for y in x))
            for x in (text, video)
        )
        return jax.jit(lambda p: nnx.merge(graphdef, p).similarity(text, video))(params)

    before = scores(tiny.create(mask_padding=True)[0], given, text, video)
    after = scores(
        graphdef,
        fitted,
        Text(text[0], np.pad(words, ((0, 0), (0, 2), (0, 0))), np.pad(text.mask, ((0, 0), (0, 2)))),
        Video(
            video[0], np.pad(frames, ((0, 0), (0, 2), (0, 0))), np.pad(video.mask, ((0, 0), (0, 2)))
        ),
    )

    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_a_model_of_another_patch_and_image_has_all_shapes_from_pixels_to_scores():
    sizes = {"image_size": 30, "patch_size": 6}
    fitted, (graphdef, _) = fit(tiny.params(), *sizes, **sizes)
    batch = tiny.batch(3, 2)
    video = np.zeros((2, 3, 30, 30, 3), np.uint8)

    scores = jax.eval_shape(partial(tiny.scores, graphdef), fitted, batch | {"video": video})

    assert scores.shape == (3, 2)


def test_all_that_does_not_fit_is_said_at_once():
    with pytest.raises(ValueError) as error:
        fit(tiny.params(), "image_size", embed_dim=128, image_size=8)

    said = str(error.value)
    assert "clip/visual/proj is (128, 64) in the weights, (128, 128) in the model" in said
    assert "which no option changes" in said and "visual/positional" not in said


def test_a_table_that_is_wider_too_is_refused():
    with pytest.raises(
        ValueError, match=r"visual/positional_embedding is .* which no option changes"
    ):
        fit(tiny.params(), "image_size", image_size=8, vision_width=192)


def test_a_missing_parameter_and_an_unknown_option_are_errors():
    with pytest.raises(ValueError, match="word_mat_weight is only in the weights"):
        fit(tiny.params(), learned_mixing=False)
    with pytest.raises(ValueError, match="resize=frames is unknown"):
        fit(tiny.params(), "frames")


def test_what_the_weights_say_nothing_about_stays_empty():
    part = {"clip": jax.tree.map(np.asarray, tiny.params()["clip"]), "temporal": None}
    model = {"clip": tiny.create(image_size=8)[1]["clip"], "temporal": np.zeros(2)}

    got = resize_weights.fit(part, model, allow=["image_size"], source="clip.pt")

    assert got["temporal"] is None
    assert got["clip"]["visual"]["positional_embedding"].shape == (5, 128)


@pytest.mark.parametrize(
    "rows, length, said", [(77, 249, "at most 248"), (11, 14, "stretched from 22 or more")]
)
def test_texts_beyond_what_stretching_is_known_for_are_refused(rows, length, said):
    with pytest.raises(ValueError, match=said):
        resize_weights.text_positions(np.zeros((rows, 2)), length)


def test_a_grid_that_is_no_square_is_refused():
    with pytest.raises(ValueError, match="12 positions or pixels are no square"):
        resize_weights.image_positions(np.zeros((13, 2)), 10)
