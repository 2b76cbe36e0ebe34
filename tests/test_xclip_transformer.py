"""X-CLIP with a transformer in place of AOSM: its scores, its start from CLIP, its config."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from test_clip4clip import pair_score

from xclip_jax import config_loader, convert, losses, models, workdir
from xclip_jax.models import similarity

TEXTS, VIDEOS, WORDS, FRAMES, WIDTH = 5, 4, 6, 3, 64
OPTIONS = {"aggregation": "transformer", "max_words": WORDS}  # 2 + 6 + 3 tokens, 11 positions


@functools.cache
def create() -> tuple:
    return tiny.create(**OPTIONS)


@functools.cache
def params() -> dict:
    return tiny.params(**OPTIONS)


def features(texts: int = TEXTS, videos: int = VIDEOS):
    """Returns unit features with padding, of texts and of videos."""
    rng = np.random.default_rng(0)

    def unit(*shape: int):
        x = rng.normal(size=(*shape, WIDTH))
        return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), jnp.float32)

    words = np.arange(WORDS) < (3 + np.arange(texts) % (WORDS - 2))[:, None]
    frames = np.arange(FRAMES) < (1 + np.arange(videos) % FRAMES)[:, None]
    return (
        similarity.Text(unit(texts), unit(texts, WORDS), jnp.asarray(words)),
        similarity.Video(unit(videos), unit(videos, FRAMES), jnp.asarray(frames)),
    )


def scores(text, video, columns: int | None = None) -> np.ndarray:
    graphdef, _ = create()
    run = jax.jit(lambda p, *pair: nnx.merge(graphdef, p).similarity(*pair, columns=columns))
    return np.asarray(run(params(), text, video))


def loss(text, video, same=None):
    """Returns the training loss and its gradient by parameters and features."""
    graphdef, _ = create()

    def of(params, text, video):
        return nnx.merge(graphdef, params).loss(text, video, jax.random.key(1), same)

    grads = jax.value_and_grad(of, argnums=(0, 1, 2), allow_int=True)
    return jax.jit(grads)(params(), text, video)


def test_the_scores_match_loops_over_pairs_and_tokens():
    text, video = features()
    p, text64, video64 = jax.tree.map(lambda x: np.asarray(x, np.float64), (params(), text, video))

    got = scores(text, video)

    places = np.arange(2 + WORDS + FRAMES)
    for t, v in np.ndindex(TEXTS, VIDEOS):
        seen = np.concatenate([[True], text.mask[t], [True], video.mask[v]])
        tokens = [text64.sentence[t], *text64.words[t], video64.video[v], *video64.frames[v]]
        kept = [8 * tokens[place] for place in places[seen]]  # the root of the width
        assert got[t, v] == pytest.approx(pair_score(p, kept, places[seen]), abs=1e-4)


@pytest.mark.parametrize("columns", [1, 3])
def test_scores_do_not_depend_on_tiles(columns):
    text, video = features()

    np.testing.assert_allclose(scores(text, video, columns), scores(text, video), atol=1e-5)


def test_loss_and_gradients_do_not_depend_on_tiles(monkeypatch):
    text, video = features(texts=6, videos=6)
    expected = loss(text, video)
    floats = (2 + WORDS + FRAMES) * 4 * WIDTH
    monkeypatch.setattr(similarity, "TRAINING_FLOATS", 2 * 6 * floats)  # two columns

    got = loss(text, video)

    assert all(np.any(leaf) for leaf in jax.tree.leaves(expected[1][0]["cross"]))
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        if one.dtype == jnp.float32:
            np.testing.assert_allclose(one, other, atol=2e-5)


def test_the_loss_is_symmetric_over_all_pairs_and_drops_out_in_training(monkeypatch):
    text, video = features(texts=6, videos=3)  # two texts of each
    same = jnp.zeros((6, 3), bool)

    dropped, _ = loss(text, video, same)
    monkeypatch.setattr("xclip_jax.models.cross.DROPOUT", 0.0)
    whole, _ = loss(text, video, same)

    expected = losses.symmetric(jnp.asarray(scores(text, video)), same)
    assert float(whole) == pytest.approx(float(expected), abs=1e-5)
    assert abs(float(dropped) - float(whole)) > 1e-3


def test_it_starts_from_clip_as_the_released_cross_encoder_does():
    """With CLIP's text tower as wide as the embedding and as deep as it is."""
    sizes = {"text_width": 64, "text_layers": 3}
    model = tiny.create(**OPTIONS, **sizes)
    given = tiny.params(**OPTIONS, **sizes)
    clip = {
        name: value
        for name, value in convert.to_torch(given, model).items()
        if name.startswith("clip.")
    }

    started = convert.from_clip(clip, model)

    cross, tower = started["cross"], started["clip"]["text"]
    np.testing.assert_array_equal(cross["position_embeddings"], tower["positional_embedding"])
    for one, other in zip(
        jax.tree.leaves(cross["transformer"]), jax.tree.leaves(tower["transformer"]), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert started["similarity_dense"] == {"kernel": None, "bias": None}


def test_a_config_switch_makes_it_with_three_layers_and_no_matrices():
    config = config_loader.load("msrvtt", ["--config.model.aggregation=transformer"])

    _, abstract = models.create("xclip", **workdir.model_sizes(config, 49408))

    layers = abstract["cross"]["transformer"]["blocks"]["in_proj"]["kernel"].shape[0]
    assert layers == 3 and abstract["cross"]["position_embeddings"].shape == (77, 512)
    assert set(abstract) == {"clip", "temporal", "cross", "similarity_dense"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contrasts": ("video_word",)}, "beside aggregation='transformer', which reads all"),
        ({"max_words": 7}, "reads 12 tokens, more than context_length=11: lower data.max_words"),
    ],
)
def test_what_it_cannot_read_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny.create(**OPTIONS | options)
