"""X-CLIP's scores are SPEC 3.3's, with the released matrices and with every option beside them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from spec17 import MASK, grid

from xclip_jax import losses, models
from xclip_jax.models import temporal
from xclip_jax.models.similarity import AGGREGATIONS, CONTRASTS, Text, Video

MATRICES = {
    "global_mat_weight": 1,
    "local_mat_weight": 2,
    "word_logit_weight": 3,
    "frame_logit_weight": 4,
    "word_mat_weight": 5,
    "frame_mat_weight": 6,
    "word_mat_weight2": 7,
    "frame_mat_weight2": 8,
}
TEXTS, VIDEOS = 5, 4
WORDS, FRAMES, WIDTH = (tiny.SIZES[key] for key in ("max_words", "max_frames", "embed_dim"))


def unit(rng, *shape) -> np.ndarray:
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def features(seed: int = 0) -> tuple[Text, Video]:
    """Returns random unit features; half of the words and frames are padded."""
    rng = np.random.default_rng(seed)
    token_mask = np.arange(WORDS) < np.array([7, 3, 4, 1, 6])[:, None]
    frame_mask = np.arange(FRAMES) < np.array([3, 1, 2, 3])[:, None]
    text = Text(unit(rng, TEXTS, WIDTH), unit(rng, TEXTS, WORDS, WIDTH), token_mask)
    video = Video(unit(rng, VIDEOS, WIDTH), unit(rng, VIDEOS, FRAMES, WIDTH), frame_mask)
    return jax.tree.map(jnp.asarray, (text, video))


def score(text: Text, video: Video, *, params=None, **options) -> np.ndarray:
    """Returns the scores of features by a model with these options."""
    graphdef, _ = tiny.create(**options)
    params = tiny.params(**options) if params is None else params
    run = jax.jit(lambda params, text, video: nnx.merge(graphdef, params).similarity(text, video))
    return np.asarray(run(params, text, video))


def oracle(text, video, params, *, contrasts, aggregation="aosm", masked=False, temperature=0.01):
    """SPEC 3.3 for one pair at a time, in float64."""
    p = {name: np.asarray(params[name], np.float64) for name in MATRICES}
    first, second = aggregation.split("_") if "_" in aggregation else ("aosm", "aosm")

    def over(kind, values, matrix, on):
        values = values[on]
        if kind == "mean":
            return values.mean()
        if kind == "max":
            return values.max()
        weights = np.exp((values - values.max()) / temperature)
        return weights / weights.sum() @ p[matrix][np.ix_(on, on)] @ values

    result = np.zeros((len(text.sentence), len(video.video)))
    for t, v in np.ndindex(result.shape):
        s, q = (np.asarray(x[t], np.float64) for x in (text.sentence, text.words))
        whole, r = (np.asarray(x[v], np.float64) for x in (video.video, video.frames))
        words = np.flatnonzero(text.mask[t]) if masked else np.arange(len(q))
        frames = np.flatnonzero(video.mask[v]) if masked else np.arange(len(r))
        fine = q @ p["local_mat_weight"] @ r.T
        by_word = np.array([over(first, row, "frame_mat_weight", frames) for row in fine])
        by_frame = np.array([over(first, row, "word_mat_weight", words) for row in fine.T])
        value = {
            "video_sentence": s @ p["global_mat_weight"] @ whole,
            "video_word": over(first, q @ whole, "word_logit_weight", words),
            "sentence_frame": over(first, r @ s, "frame_logit_weight", frames),
            "frame_word": over(second, by_word, "word_mat_weight2", words) / 2
            + over(second, by_frame, "frame_mat_weight2", frames) / 2,
        }
        result[t, v] = np.mean([value[name] for name in contrasts])
    return np.exp(float(params["clip"]["logit_scale"])) * result


def spec_scores(*contrasts: str) -> np.ndarray:
    """Returns the scores of SPEC 17 A's features by a model with its matrices."""
    text = {"context_length": 4, "vocab_size": 5, "width": 8, "layers": 1, "heads": 2}
    image = {"image_size": 4, "patch_size": 2, "width": 8, "layers": 1, "heads": 2}
    options = {"aggregation": "aosm", "temperature": 0.01, "learned_mixing": True}

    def make():
        rngs = nnx.Rngs(0)
        return models.xclip.XCLIP(
            models.clip.CLIP(
                visual=models.clip.ImageTower(**image, embed_dim=8, rngs=rngs),
                text=models.clip.TextTower(**text, embed_dim=8, rngs=rngs),
            ),
            temporal.MeanP(),
            embed_dim=8,
            max_words=4,
            max_frames=3,
            contrasts=contrasts,
            mask_padding=False,
            **options,
        )

    model = tiny.module(make)
    model.clip.logit_scale = nnx.Param(jnp.log(jnp.float32(20)))
    for name, k in MATRICES.items():
        n = len(getattr(model, name)[...])
        setattr(model, name, nnx.Param(np.eye(n, dtype=np.float32) + grid((n, n), k, 0.1)))
    sentence, words, frames = (
        jnp.asarray(grid(shape, k, 1))
        for shape, k in (((3, 8), 0.1), ((3, 4, 8), 0.2), ((2, 3, 8), 0.3))
    )
    normal = temporal.normalize
    mask = jnp.asarray(MASK)
    text = Text(normal(sentence), normal(words), jnp.ones((3, 4), bool))
    video = Video(temporal.pool(frames, mask), normal(frames), mask)
    graphdef, state = nnx.split(model)
    run = jax.jit(lambda state, text, video: nnx.merge(graphdef, state).similarity(text, video))
    return np.asarray(run(state, text, video))


@pytest.mark.parametrize(
    "contrasts, expected",
    [
        (
            ["video_sentence"],
            "25.4419988 -15.4852408 25.168972 3.15979616 11.4936573 21.4455944",
        ),
        (["video_word"], "20.6972386 22.8053782 -7.55590417 19.9917718 17.9276682 12.7997295"),
        (
            ["sentence_frame"],
            "15.9055445 -3.85519308 21.8719738 7.48182284 19.5758694 15.6437409",
        ),
        (["frame_word"], "23.9488414 28.2169806 7.12619729 36.5893521 36.8900942 14.2305056"),
        (CONTRASTS, "21.4984058 7.92048123 11.6528097 16.8056857 21.4718223 16.0298926"),
    ],
)
def test_scores_are_the_golden_values(contrasts, expected):
    """SPEC 17 A, printed with nine digits; the sharp softmax multiplies float32's error by 100."""
    got = spec_scores(*contrasts)

    np.testing.assert_allclose(got.ravel(), [float(x) for x in expected.split()], atol=2e-4, rtol=0)


def test_the_loss_is_the_golden_value():
    scores = spec_scores(*CONTRASTS)

    loss = losses.symmetric(jnp.asarray(scores[:2]))

    assert float(loss) == pytest.approx(0.00148968818, abs=1e-6)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_each_contrast_and_aggregation_matches_loops_over_pairs(aggregation):
    text, video = features()
    options = [{"contrasts": (name,), "aggregation": aggregation} for name in CONTRASTS]

    @jax.jit
    def run(params, text, video):
        models = [nnx.merge(tiny.create(**option)[0], params) for option in options]
        return [model.similarity(text, video) for model in models]

    scores = run(tiny.params(), text, video)

    for option, got in zip(options, scores, strict=True):
        expected = oracle(text, video, tiny.params(), **option)
        np.testing.assert_allclose(got, expected, atol=1e-4, err_msg=str(option))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_without_padding_every_aggregation_matches_loops_over_what_is_valid(aggregation):
    text, video = features()
    options = {"contrasts": CONTRASTS, "aggregation": aggregation}

    got = score(text, video, mask_padding=True, **options)

    expected = oracle(text, video, tiny.params(), masked=True, **options)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_a_text_scores_alone_as_among_others():
    """Of one text the words are fewer than the frames, of all texts more: another product."""
    text, video = features()
    alone = Text(*(x[2:3] for x in text))

    got = score(alone, video)

    expected = oracle(alone, video, tiny.params(), contrasts=CONTRASTS)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    np.testing.assert_allclose(got, score(text, video)[2:3], atol=1e-4)


def test_two_contrasts_are_their_mean():
    text, video = features()
    both = ("video_word", "sentence_frame")

    got = score(text, video, contrasts=both)

    one, other = (oracle(text, video, tiny.params(), contrasts=(name,)) for name in both)
    np.testing.assert_allclose(got, (one + other) / 2, atol=1e-4)


@pytest.mark.parametrize("temperature", [1e-3, 0.1, 10.0])
def test_the_temperature_goes_from_the_maximum_to_the_mean(temperature):
    text, video = features()
    options = {"contrasts": CONTRASTS, "temperature": temperature}

    got = score(text, video, **options)

    np.testing.assert_allclose(got, oracle(text, video, tiny.params(), **options), atol=3e-4)


def test_without_learned_matrices_the_scores_are_those_of_identities():
    text, video = features()
    params = tiny.params()
    identities = {name: np.eye(len(params[name]), dtype=np.float32) for name in MATRICES}
    without = {name: value for name, value in params.items() if name not in MATRICES}

    got = score(text, video, params=without, learned_mixing=False)

    _, abstract = tiny.create(learned_mixing=False)
    assert abstract.keys() == without.keys()
    expected = score(text, video, params=params | identities)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_fresh_matrices_are_identities():
    params = jax.jit(lambda key: models.init(key, "xclip", **tiny.SIZES))(jax.random.key(0))

    for name in MATRICES:
        size = {"g": WIDTH, "l": WIDTH, "w": WORDS, "f": FRAMES}[name[0]]
        assert params[name].dtype == jnp.float32
        np.testing.assert_array_equal(params[name], np.eye(size))


def padded_twice() -> tuple[dict, dict]:
    """Returns two batches that differ in nothing but what is padded."""
    batch = tiny.batch(TEXTS, VIDEOS)
    rng = np.random.default_rng(1)
    words = rng.integers(1, tiny.END, batch["tokens"].shape)
    video = rng.normal(size=batch["video"].shape)
    noise = rng.normal(size=batch["video"].shape)
    seen = batch["frame_mask"][:, :, None, None, None]
    one = batch | {"video": (video * seen).astype(np.float32)}
    other = batch | {
        "tokens": np.where(batch["token_mask"], batch["tokens"], words).astype(np.int32),
        "video": np.where(seen, video, noise).astype(np.float32),
    }
    return jax.tree.map(jnp.asarray, (one, other))


def whole(batch, *, params=None, **options):
    """Returns the scores of a batch by the three verbs."""
    graphdef, _ = tiny.create(**options)
    params = tiny.params(**options) if params is None else params
    return jax.jit(lambda params, batch: tiny.scores(graphdef, params, batch))(params, batch)


def test_with_padding_masked_its_content_does_not_matter():
    one, other = padded_twice()

    before, after = (whole(batch, mask_padding=True) for batch in (one, other))

    np.testing.assert_allclose(before, after, atol=1e-4)


def test_as_released_the_content_of_padding_matters():
    one, other = padded_twice()

    before, after = (whole(batch) for batch in (one, other))

    assert np.abs(before - after).max() > 0.01  # parity, SPEC 16 row 8


def test_the_verbs_return_unit_features_of_every_word_and_frame():
    graphdef, _ = tiny.create()

    @jax.jit
    def encode(params, batch):
        model = nnx.merge(graphdef, params)
        return (
            model.encode_text(batch["tokens"], batch["token_mask"]),
            model.encode_video(batch["video"], batch["frame_mask"]),
            model.clip.visual(batch["video"], batch["frame_mask"]),
        )

    text, video, raw = encode(tiny.params(), tiny.batch(TEXTS, VIDEOS))

    assert text.sentence.shape == (TEXTS, WIDTH) and text.words.shape == (TEXTS, WORDS, WIDTH)
    assert video.video.shape == (VIDEOS, WIDTH) and video.frames.shape == (VIDEOS, FRAMES, WIDTH)
    for x in (text.sentence, text.words, video.video, video.frames):
        assert x.dtype == jnp.float32
        np.testing.assert_allclose(np.linalg.norm(x, axis=-1), 1, atol=1e-5)
    # Frames are CLIP's own, from before the temporal encoder (parity, SPEC 3.2).
    raw = raw / np.linalg.norm(raw, axis=-1, keepdims=True)
    np.testing.assert_allclose(video.frames, raw, atol=1e-5)


@pytest.mark.parametrize("mask_padding", [False, True])
def test_a_video_without_frames_leaves_loss_and_gradients_finite(mask_padding):
    graphdef, _ = tiny.create(mask_padding=mask_padding)
    batch = tiny.batch(3, 3)
    batch["frame_mask"][1] = False
    batch["video"][1] = 0

    loss, grads = jax.jit(
        jax.value_and_grad(lambda params, batch: tiny.loss(graphdef, params, batch))
    )(tiny.params(), batch)

    assert np.isfinite(loss)
    for path, gradient in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(gradient).all(), jax.tree_util.keystr(path)


@pytest.mark.parametrize("head", temporal.HEADS)
def test_bfloat16_stays_close_to_float32(head):
    """bfloat16 has 8 bits: a feature is off by about 1 %, a score of |cosine| <= 1 by a few."""
    batch = tiny.batch(TEXTS, VIDEOS)
    params = tiny.params(head=head)
    scale = np.exp(float(params["clip"]["logit_scale"]))

    wide, narrow = (
        whole(batch, params=params, head=head, dtype=dtype) for dtype in ("float32", "bfloat16")
    )

    assert narrow.dtype == jnp.float32
    assert 1e-5 < np.abs(wide - narrow).max() / scale < 0.05


def test_in_bfloat16_softmaxes_norms_and_the_loss_are_float32():
    graphdef, abstract = tiny.create(dtype="bfloat16")
    batch = jax.tree.map(jnp.asarray, tiny.batch(3, 3))

    jaxpr = jax.make_jaxpr(lambda params: tiny.loss(graphdef, params, batch))(abstract)

    assert {leaf.dtype for leaf in jax.tree.leaves(abstract)} == {jnp.dtype("float32")}
    types = operand_types(jaxpr.jaxpr)
    for name in ("exp", "log", "rsqrt"):
        assert types[name] == {"float32"}, name
    assert "bfloat16" in types["dot_general"] and "bfloat16" in types["logistic"]


def operand_types(jaxpr) -> dict[str, set[str]]:
    """Returns the dtypes of the first operand of each primitive, inner jaxprs included."""
    found: dict[str, set[str]] = {}
    for equation in jaxpr.eqns:
        if equation.invars:
            kind = str(equation.invars[0].aval.dtype)
            found.setdefault(equation.primitive.name, set()).add(kind)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr):
            if is_jaxpr(inner):
                for name, kinds in operand_types(getattr(inner, "jaxpr", inner)).items():
                    found.setdefault(name, set()).update(kinds)
    return found


def is_jaxpr(x) -> bool:
    return hasattr(x, "eqns") or hasattr(x, "jaxpr")


def test_features_of_another_size_are_refused_with_the_keys_to_change():
    text, video = features()

    with pytest.raises(ValueError, match=r"7 words .* built for 9: set data.max_words"):
        score(text, video, params=None, max_words=9)
    with pytest.raises(ValueError, match=r"3 words or frames .* built for 2.*data.max_frames"):
        score(text, video, max_frames=2)


def test_everything_wrong_with_a_models_sizes_is_said_at_once():
    wrong = {
        "head": "mean",
        "linear_patch": "4d",
        "contrasts": ("video_frame",),
        "aggregation": "max",
        "dtype": "float16",
        "temperature": 0.0,
        "max_words": 12,
        "max_frames": 13,
        "text_width": 100,
    }

    with pytest.raises(ValueError) as error:
        tiny.create(**wrong)

    for key, value in wrong.items():
        assert f"{key}={value!r}" in str(error.value)


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match=r"'clap' is unknown: set config.model.name .*xclip"):
        models.create("clap", **tiny.SIZES)


def test_no_contrast_is_refused():
    with pytest.raises(ValueError, match=r"contrasts=\(\) are not some of"):
        tiny.create(contrasts=())


@pytest.mark.parametrize(
    ("head", "learned_mixing", "blind"),
    [("meanP", False, True), ("meanP", True, False), ("seqTransf", False, False)],
)
def test_only_meanp_without_learned_matrices_is_blind_to_the_order_of_frames(
    head, learned_mixing, blind
):
    """The matrices over frames are indexed by position, so they see the order too."""
    options = {"head": head, "learned_mixing": learned_mixing}
    batch = tiny.batch(TEXTS, VIDEOS) | {
        "frame_mask": np.ones((VIDEOS, tiny.SIZES["max_frames"]), bool)
    }
    backwards = batch | {"video": batch["video"][:, ::-1]}
    graphdef, params = tiny.create(**options)[0], tiny.params(**options)

    scores = jax.jit(lambda params, batch: tiny.scores(graphdef, params, batch))
    difference = np.abs(scores(params, batch) - scores(params, backwards)).max()

    # Float32 sums in another order differ by about 1e-6 at this scale; order itself by over 0.001.
    assert difference < 1e-4 if blind else difference > 1e-3


@pytest.mark.parametrize("linear_patch", ["2d", "3d"])
def test_padding_of_all_videos_may_be_left_out(linear_patch):
    graphdef, _ = tiny.create(linear_patch=linear_patch)
    batch = tiny.batch(TEXTS, VIDEOS)
    mask = batch["frame_mask"].copy()
    mask[:, FRAMES - 1] = False

    @jax.jit
    def encode(params, pixels):
        return nnx.merge(graphdef, params).encode_video(pixels, jnp.asarray(mask))

    params = tiny.params(linear_patch=linear_patch)
    whole, less = (encode(params, batch["video"][:, :given]) for given in (FRAMES, FRAMES - 1))

    assert mask[:, : FRAMES - 1].any()
    np.testing.assert_allclose(less.frames, whole.frames, atol=1e-5)
    np.testing.assert_allclose(less.video, whole.video, atol=1e-5)
