"""CLIP's towers compute SPEC 1.2 to 1.4 and have the released models' exact sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from spec17 import block, fill, grid

from xclip_jax import convert, models
from xclip_jax.models import clip
from xclip_jax.models.clip import ARCHS, ImageTower, TextTower, normalize_pixels, patchify

XCLIP = {"max_words": 32, "max_frames": 12, "temporal_layers": 4}
VISUAL = {
    "clip.visual.class_embedding": (8,),
    "clip.visual.positional_embedding": (5, 8),
    "clip.visual.proj": (8, 4),
    "clip.visual.conv1.weight": (8, 3, 2, 2),
    "clip.visual.ln_pre.weight": (8,),
    "clip.visual.ln_pre.bias": (8,),
    **block("clip.visual.transformer"),
    "clip.visual.ln_post.weight": (8,),
    "clip.visual.ln_post.bias": (8,),
}
TEXT = {
    "clip.positional_embedding": (6, 8),
    "clip.text_projection": (8, 4),
    "clip.logit_scale": (),
    **block("clip.transformer"),
    "clip.token_embedding.weight": (50, 8),
    "clip.ln_final.weight": (8,),
    "clip.ln_final.bias": (8,),
}


def image_tower(linear_patch="2d", **changes) -> ImageTower:
    sizes = {"image_size": 4, "patch_size": 2, "width": 8, "layers": 1, "heads": 2, "embed_dim": 4}
    options = sizes | changes | {"linear_patch": linear_patch}
    return tiny.module(lambda: ImageTower(**options, rngs=nnx.Rngs(0)))


def text_tower() -> TextTower:
    sizes = {"context_length": 6, "vocab_size": 50, "width": 8, "layers": 1, "heads": 2}
    return tiny.module(lambda: TextTower(**sizes, embed_dim=4, rngs=nnx.Rngs(0)))


def filled(tower, name: str, state_dict: dict):
    """Returns the tower with parameters from a state dict in the references' names."""
    graphdef, state = nnx.split(tower)
    params = {"clip": {name: nnx.to_pure_dict(state)}}
    return nnx.merge(graphdef, convert.from_torch(state_dict, (None, params))["clip"][name])


def numbers(text: str) -> np.ndarray:
    return np.array([[float(x) for x in row.split()] for row in text.split("|")])


def test_the_image_tower_gives_the_golden_values():
    """SPEC 17 C, printed with nine digits; two images are two clips of one frame."""
    tower = filled(image_tower(), "visual", fill(VISUAL, 1.0))
    images = np.moveaxis(grid((2, 3, 4, 4), 0.5, 1), 1, -1)

    got = tiny.call(tower, images[:, None], np.ones((2, 1), bool))

    expected = numbers(
        "0.00199886519 -0.962676973 -1.47459079 -1.29298152"
        "| -0.00422067694 -0.973189879 -1.48445267 -1.29755418"
    )
    np.testing.assert_allclose(got[:, 0], expected, atol=1e-5, rtol=0)


def test_the_3d_patch_gives_the_golden_values():
    """SPEC 17 C: the same two images are one clip of two frames."""
    state_dict = fill(VISUAL, 1.0) | {"clip.visual.conv2.weight": grid((8, 3, 3, 2, 2), 2.2, 0.3)}
    tower = filled(image_tower("3d"), "visual", state_dict)
    images = np.moveaxis(grid((2, 3, 4, 4), 0.5, 1), 1, -1)

    got = tiny.call(tower, images[None], np.ones((1, 2), bool))

    expected = numbers(
        "-0.0559517671 -1.00518514 -1.48166423 -1.26129349"
        "| -0.0596536493 -1.01651349 -1.49529115 -1.27081002"
    )
    np.testing.assert_allclose(got[0], expected, atol=1e-5, rtol=0)


def test_a_fresh_3d_patch_is_the_2d_patch_of_the_middle_frame():
    sizes = {"image_size": 4, "patch_size": 2, "width": 6, "layers": 1, "heads": 2, "embed_dim": 4}

    tower = ImageTower(**sizes, linear_patch="3d", rngs=nnx.Rngs(0))

    before, middle, after = tower.conv2[...]
    np.testing.assert_array_equal(middle, tower.conv1.kernel[...])
    assert not before.any() and not after.any()


def test_a_3d_patch_of_the_middle_frame_alone_is_a_2d_patch():
    video = grid((2, 3, 4, 4, 3), 0.1, 1)
    state_dict = fill(VISUAL, 1.0)
    conv1 = state_dict["clip.visual.conv1.weight"]
    conv2 = np.stack([0 * conv1, conv1, 0 * conv1], axis=2)

    seen = np.ones((2, 3), bool)
    flat = tiny.call(filled(image_tower("2d"), "visual", state_dict), video, seen)
    state_dict["clip.visual.conv2.weight"] = conv2
    deep = tiny.call(filled(image_tower("3d"), "visual", state_dict), video, seen)

    np.testing.assert_allclose(flat, deep, atol=1e-6)


def test_the_text_tower_gives_the_golden_values():
    """SPEC 17 D, printed with nine digits."""
    tower = filled(text_tower(), "text", select_text(fill(TEXT, 2.0)))
    tokens = np.array([[48, 3, 7, 49, 0, 0], [48, 5, 49, 0, 0, 0]])

    sentence, words = tiny.call(tower, tokens)

    expected = numbers(
        "0.613804738 -0.0757754733 -0.729717296 -1.04046167"
        "| 0.670389133 -0.00698376853 -0.681072094 -1.03484157"
    )
    padding = numbers("-1.58391435 -1.51726049 -0.73701531 0.389859686")[0]
    np.testing.assert_allclose(sentence, expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(words[0, 5], padding, atol=1e-5, rtol=0)


def select_text(state_dict: dict) -> dict:
    """The logit scale, filled in between in SPEC 17, is no parameter of the text tower."""
    return {name: value for name, value in state_dict.items() if name != "clip.logit_scale"}


def test_the_sentence_is_the_word_at_the_first_largest_id():
    tower = filled(text_tower(), "text", select_text(fill(TEXT, 2.0)))
    tokens = np.array([[48, 49, 3, 49], [1, 2, 3, 49], [49, 0, 0, 0]])

    sentence, words = tiny.call(tower, tokens)

    for i, end in enumerate([1, 3, 0]):
        np.testing.assert_array_equal(sentence[i], words[i, end])


def test_what_follows_the_end_of_a_text_does_not_change_its_sentence():
    tower = filled(text_tower(), "text", select_text(fill(TEXT, 2.0)))

    sentence, words = tiny.call(tower, np.array([[48, 5, 49, 0, 0], [48, 5, 49, 7, 31]]))

    np.testing.assert_array_equal(sentence[0], sentence[1])
    assert np.abs(words[0, 3:] - words[1, 3:]).max() > 0.01


def test_patches_are_cut_row_by_row():
    images = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3).astype(np.float32)

    got = np.asarray(patchify(jnp.asarray(images), 2))

    assert got.shape == (2, 6, 12)
    for i in range(2):
        for row in range(2):
            for column in range(3):
                patch = images[i, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                np.testing.assert_array_equal(got[i, 3 * row + column], patch.ravel())


def test_bytes_are_whitened_and_padded_frames_are_zero_after_it():
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (2, 3, 4, 5, 3)).astype(np.uint8)
    mask = np.array([[True, True, False], [True, False, False]])

    got = normalize_pixels(jnp.asarray(video), jnp.asarray(mask))

    # The mean and deviation of CLIP's own training pixels, as OpenAI publishes them.
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    for b, f in np.ndindex(2, 3):
        expected = (video[b, f] / 255 - mean) / std if mask[b, f] else np.zeros((4, 5, 3))
        np.testing.assert_allclose(got[b, f], expected, atol=1e-5)


def test_floats_are_taken_as_whitened_already():
    video = jnp.asarray(grid((2, 3, 4, 5, 3), 0.2, 3))

    got = normalize_pixels(video, jnp.zeros((2, 3), bool))

    np.testing.assert_array_equal(got, video)


@pytest.mark.parametrize(
    "arch, head, part, count",
    [
        ("vit_b32", "meanP", "clip", 151_277_313),
        ("vit_b16", "meanP", "clip", 149_620_737),
        ("vit_l14", "meanP", "clip", 427_616_513),
        ("vit_b32", "seqTransf", "all", 164_454_065),
    ],
)
def test_parameter_counts_are_the_released_models(arch, head, part, count):
    _, params = models.create("xclip", **ARCHS[arch], **XCLIP, head=head)

    counted = params["clip"] if part == "clip" else params

    assert sum(leaf.size for leaf in jax.tree.leaves(counted)) == count


def test_the_fresh_scale_is_float32_and_not_weakly_typed():
    """A weak type would compile the train step twice."""
    scale = clip.CLIP(visual=image_tower(), text=text_tower()).logit_scale[...]

    assert scale.dtype == jnp.float32 and not scale.weak_type
    assert float(scale) == pytest.approx(np.log(1 / 0.07), rel=1e-6)


def test_an_image_that_patches_do_not_tile_is_refused():
    with pytest.raises(ValueError, match="image_size=7 is not a multiple of patch_size=2"):
        image_tower(image_size=7)
