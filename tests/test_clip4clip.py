"""CLIP4Clip's scores and losses are SPEC 4's for all four heads, whatever the tiles and devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from spec17 import block, fill, grid
from test_golden import GOLDEN, load
from test_sharding import mesh_of

from xclip_jax import convert, evaluate, losses, models, scoring, sharding
from xclip_jax.models import clip4clip, cross
from xclip_jax.models.similarity import Text, Video

SIZES = tiny.SIZES | {"embed_dim": 128, "temporal_layers": 2}
TEXTS, VIDEOS, FRAMES, WORDS, WIDTH = 5, 4, 3, 7, 128
HEADS = ("meanP", "seqTransf", "seqLSTM", "tightTransf")


@functools.cache
def create(head: str, **options) -> tuple:
    return models.create("clip4clip", **SIZES | {"head": head} | options)


@functools.cache
def params(head: str) -> dict:
    return tiny.draw(create(head)[1], seed=0)


def scores(head: str, batch: dict, **options) -> np.ndarray:
    """Returns the scores of a batch by the three verbs."""
    graphdef, _ = create(head, **options)
    return np.asarray(jax.jit(functools.partial(tiny.scores, graphdef))(params(head), batch))


def tight_features(videos: int = VIDEOS, texts: int = TEXTS) -> tuple[Text, Video]:
    """Returns random features as CLIP gives them; some frames are padded."""
    rng = np.random.default_rng(0)
    sizes = (texts, WIDTH), (texts, WORDS, WIDTH), (videos, WIDTH), (videos, FRAMES, WIDTH)
    sentence, words, video, frames = (rng.normal(size=s).astype(np.float32) for s in sizes)
    frame_mask = np.arange(FRAMES) < (1 + np.arange(videos) % FRAMES)[:, None]
    text = Text(sentence, words, np.ones((texts, WORDS), bool))
    return jax.tree.map(jnp.asarray, (text, Video(video, frames, frame_mask)))


def tight_scores(text: Text, video: Video, columns: int | None = None) -> np.ndarray:
    graphdef, _ = create("tightTransf")
    run = jax.jit(lambda p, t, v: nnx.merge(graphdef, p).similarity(t, v, columns=columns))
    return np.asarray(run(params("tightTransf"), text, video))


def tight_loss(text: Text, video: Video, seed: int = 1, **options):
    """Returns the training loss and its gradient in the parameters and features."""
    graphdef, _ = create("tightTransf", **options)

    def loss(params, text, video):
        return nnx.merge(graphdef, params).loss(text, video, jax.random.key(seed))

    grads = jax.value_and_grad(loss, argnums=(0, 1, 2), allow_int=True)
    return jax.jit(grads)(params("tightTransf"), text, video)


def assert_close(one, other, tolerance: float):
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
    ):
        if x.dtype == jnp.float32:
            name = jax.tree_util.keystr(path)
            np.testing.assert_allclose(x, y, atol=tolerance, rtol=0, err_msg=name)


def test_the_pooled_output_is_the_golden_value():
    """SPEC 17 F: width 8, two heads, one layer, six positions; printed with nine digits."""
    sizes = {"positions": 6, "layers": 1, "heads": 2}
    graphdef, state = nnx.split(
        nnx.eval_shape(lambda: cross.CrossEncoder(8, **sizes, rngs=nnx.Rngs(0)))
    )
    pooler = {"ln_pool.weight": (8,), "ln_pool.bias": (8,), "dense.weight": (8, 8)}
    names = {
        "cross.embeddings.position_embeddings.weight": (6, 8),
        **block("cross.transformer"),
        **{f"cross.pooler.{name}": shape for name, shape in pooler.items()},
        "cross.pooler.dense.bias": (8,),
    }
    given = convert.from_torch(fill(names, 0.4), (None, {"cross": nnx.to_pure_dict(state)}))
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool)

    got = tiny.call(nnx.merge(graphdef, given["cross"]), grid((2, 4, 8), 0.6, 1), mask)

    expected = """0.568919775 0.821509511 0.617817628 0.142074823 -0.13588482 -0.16146548
    -0.158595855 -0.15709427 0.358188445 -0.0675840508 -0.163609918 -0.153587754 -0.163055597
    -0.0947822288 0.302193876 0.766482214"""
    np.testing.assert_allclose(got.ravel(), [float(x) for x in expected.split()], atol=1e-5)


@pytest.mark.parametrize("name", ["meanP", "meanP_3d", "seqTransf", "seqLSTM", "tightTransf"])
def test_names_and_shapes_are_the_references(name):
    assert (GOLDEN / f"clip4clip_{name}.npz").exists()
    _, meta, model, given = load(f"clip4clip_{name}")

    state_dict = convert.to_torch(given, model)

    expected = {name: tuple(shape) for name, shape in meta["parameters"].items()}
    if name == "seqLSTM":
        del expected["frame_position_embeddings.weight"]  # made there, read by nothing
    assert {name: value.shape for name, value in state_dict.items()} == expected
    back = convert.from_torch(state_dict, model)
    for one, other in zip(jax.tree.leaves(back), jax.tree.leaves(given), strict=True):
        np.testing.assert_array_equal(one, other)


def test_meanp_scores_are_scaled_cosines_with_the_mean_of_valid_unit_frames():
    batch = jax.tree.map(jnp.asarray, tiny.batch(TEXTS, VIDEOS))
    clip = nnx.merge(create("meanP")[0], params("meanP")).clip
    sentence, _ = jax.jit(clip.text)(batch["tokens"])
    frames = np.asarray(jax.jit(clip.visual)(batch["video"], batch["frame_mask"]), np.float64)

    got = scores("meanP", batch)

    def unit(x):
        return x / np.linalg.norm(x)

    scale = np.exp(float(params("meanP")["clip"]["logit_scale"]))
    for t, v in np.ndindex(got.shape):
        valid = [unit(frames[v, f]) for f in range(FRAMES) if batch["frame_mask"][v, f]]
        expected = scale * unit(np.asarray(sentence[t])) @ unit(sum(valid) / len(valid))
        assert got[t, v] == pytest.approx(expected, abs=1e-4)


def pair_score(p: dict, tokens: list[np.ndarray], places: list[int]) -> float:
    """SPEC 4.4 for one pair in float64, a token at a time: those that are not padding, and their
    places in the sequence."""

    def norm(x, scale, bias):
        return (x - x.mean()) / np.sqrt(x.var() + 1e-12) * scale + bias

    def quick_gelu(x):
        return x / (1 + np.exp(-1.702 * x))

    x = np.stack(tokens) + p["cross"]["position_embeddings"][places]
    width = x.shape[1]
    for i in range(len(p["cross"]["transformer"]["blocks"]["ln_1"]["scale"])):
        b = jax.tree.map(lambda leaf, i=i: leaf[i], p["cross"]["transformer"]["blocks"])

        def linear(name, h, b=b):
            return h @ b[name]["kernel"] + b[name]["bias"]

        q, k, v = np.split(
            np.stack([linear("in_proj", norm(token, **b["ln_1"])) for token in x]), 3, axis=1
        )
        attended = np.zeros_like(x)
        for head in range(width // 64):
            on = slice(64 * head, 64 * head + 64)
            for t in range(len(x)):
                weights = np.exp(k[:, on] @ q[t, on] / 8)
                attended[t, on] = weights / weights.sum() @ v[:, on]
        x = x + linear("out_proj", attended)
        hidden = np.stack([linear("c_fc", norm(token, **b["ln_2"])) for token in x])
        x = x + linear("c_proj", quick_gelu(hidden))
    pooled = norm(x[0], **p["cross"]["ln_pool"]) @ p["cross"]["dense"]["kernel"]
    pooled = quick_gelu(pooled + p["cross"]["dense"]["bias"])
    last = p["similarity_dense"]
    return (pooled @ last["kernel"] + last["bias"]).item()


def test_the_cross_encoder_matches_loops_over_pairs_and_tokens():
    text, video = tight_features()
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params("tightTransf"))

    got = tight_scores(text, video)

    for t, v in np.ndindex(TEXTS, VIDEOS):
        frames = np.asarray(video.frames[v], np.float64)[np.asarray(video.mask[v])]
        tokens = [np.asarray(text.sentence[t], np.float64), *frames]
        expected = pair_score(p, tokens, list(range(len(tokens))))
        assert got[t, v] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("columns", [1, 3, 4, 9])
def test_scores_of_the_cross_encoder_do_not_depend_on_tiles(columns):
    text, video = tight_features()

    got = tight_scores(text, video, columns)

    np.testing.assert_allclose(got, tight_scores(text, video), atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_the_content_of_padded_frames_does_not_matter(head):
    one = tiny.batch(TEXTS, VIDEOS)
    seen = one["frame_mask"][:, :, None, None, None]
    rng = np.random.default_rng(1)
    video, noise = (rng.normal(size=one["video"].shape).astype(np.float32) for _ in range(2))
    one["video"] = video * seen
    other = one | {"video": np.where(seen, video, noise)}

    np.testing.assert_allclose(scores(head, one), scores(head, other), atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_a_video_without_frames_leaves_loss_and_gradients_finite(head):
    graphdef, _ = create(head)
    batch = tiny.batch(3, 3)
    batch["frame_mask"][1] = False
    batch["video"][1] = 0

    def loss(params, batch):
        model = nnx.merge(graphdef, params)
        text = model.encode_text(batch["tokens"], batch["token_mask"])
        video = model.encode_video(batch["video"], batch["frame_mask"])
        return model.loss(text, video, jax.random.key(0))

    value, grads = jax.jit(jax.value_and_grad(loss))(params(head), batch)

    assert np.isfinite(value)
    for path, gradient in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(gradient).all(), jax.tree_util.keystr(path)


@pytest.mark.parametrize("head", HEADS)
def test_bfloat16_stays_close_to_float32(head):
    """bfloat16 has 8 bits; the score of the cross encoder is of order one and has no scale."""
    batch = tiny.batch(TEXTS, VIDEOS)
    scale = 1.0 if head == "tightTransf" else np.exp(float(params(head)["clip"]["logit_scale"]))

    wide, narrow = (scores(head, batch, dtype=dtype) for dtype in ("float32", "bfloat16"))

    assert narrow.dtype == np.float32
    assert 1e-5 < np.abs(wide - narrow).max() / scale < 0.05


@pytest.mark.parametrize("groups", [1, 3])
def test_the_loss_contrasts_within_groups(monkeypatch, groups):
    monkeypatch.setattr(cross, "DROPOUT", 0.0)
    text, video = tight_features(texts=6, videos=6)
    whole = jnp.asarray(tight_scores(text, video))

    loss, _ = tight_loss(text, video, negative_groups=groups)

    size = 6 // groups
    parts = [whole[i : i + size, i : i + size] for i in range(0, 6, size)]
    expected = np.mean([losses.symmetric(part) for part in parts])
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("pairs", [1, 15])  # of a tile: 15 are two columns of one group or four
def test_loss_and_gradients_do_not_depend_on_tiles(monkeypatch, pairs, groups):
    text, video = tight_features(texts=6, videos=6)
    expected = tight_loss(text, video, negative_groups=groups)
    floats = pairs * (1 + FRAMES) * 4 * WIDTH
    monkeypatch.setattr(clip4clip, "TRAINING_FLOATS", floats)

    got = tight_loss(text, video, negative_groups=groups)

    assert_close(got, expected, 1e-5)


def test_loss_and_gradients_do_not_depend_on_devices():
    text, video = tight_features(texts=8, videos=8)
    expected = tight_loss(text, video, negative_groups=2)
    mesh = mesh_of(4, 2)

    with jax.set_mesh(mesh):
        layout = jax.NamedSharding(mesh, sharding.BATCH)
        got = tight_loss(*jax.device_put((text, video), layout), negative_groups=2)

    assert_close(got, expected, 1e-5)


def test_dropout_zeroes_a_tenth_and_scales_the_rest():
    encoder = nnx.merge(create("tightTransf")[0], params("tightTransf")).cross
    x, mask = np.asarray(tight_features()[1].frames), np.ones((VIDEOS, FRAMES), bool)
    keep = np.random.default_rng(2).random(x.shape) < 0.9

    got = tiny.call(encoder, x, mask, keep)

    positions = np.asarray(encoder.position_embeddings[...])[:FRAMES]
    dropped = np.where(keep, (x + positions) / 0.9, 0).astype(np.float32)
    np.testing.assert_allclose(got, tiny.call(encoder, dropped - positions, mask), atol=1e-5)


def test_what_is_dropped_differs_from_pair_to_pair_and_step_to_step():
    keys = jax.random.split(jax.random.key(0), 6)

    kept = np.asarray(cross.draw_kept(keys, (5, 4, WIDTH)))  # videos, texts, tokens, features

    assert kept.mean() == pytest.approx(0.9, abs=0.01)  # of 15,360: four deviations
    rows = kept.reshape(-1, WIDTH)
    assert len(np.unique(rows, axis=0)) == len(rows)
    np.testing.assert_array_equal(cross.draw_kept(keys[2:4], (5, 4, WIDTH)), kept[2:4])
    text, video = tight_features(texts=4)
    (one, _), (same, _), (other, _) = (tight_loss(text, video, seed=s) for s in (1, 1, 2))
    assert one == same != other


def test_dropout_is_for_training_alone():
    text, video = tight_features()

    np.testing.assert_array_equal(tight_scores(text, video), tight_scores(text, video))
    jaxpr = jax.make_jaxpr(lambda p: nnx.merge(create("tightTransf")[0], p).similarity(text, video))
    assert "random" not in str(jaxpr(params("tightTransf")))


def test_a_batch_that_groups_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="a batch of 4 has no 3 equal parts: set config"):
        tight_loss(*tight_features(texts=4), negative_groups=3)


@pytest.mark.parametrize(
    "options, messages",
    [
        ({"head": "tight", "negative_groups": 0}, ["head='tight' is not one", "groups=0 is not 1"]),
        ({"head": "meanP", "negative_groups": 2}, ["groups=2 is not 1, or with head=tightTransf"]),
        ({"head": "tightTransf", "max_frames": 11}, ["max_frames=11 and the sentence exceed the"]),
        ({"head": "meanP", "contrasts": (), "x": 1}, ["clip4clip has no contrasts, x; choose"]),
    ],
)
def test_wrong_options_are_refused_together(options, messages):
    with pytest.raises(ValueError) as error:
        create(**options)

    assert all(message in str(error.value) for message in messages), str(error.value)


def test_training_memory_grows_with_the_batch_and_not_with_its_square(monkeypatch):
    monkeypatch.setattr(clip4clip, "TRAINING_FLOATS", 64 * (1 + FRAMES) * 4 * WIDTH)
    graphdef, abstract = create("tightTransf")

    def memory(batch: int) -> int:
        def loss(params, text, video):
            return nnx.merge(graphdef, params).loss(text, video, jax.random.key(0))

        features = jax.eval_shape(lambda: tight_features(texts=batch, videos=batch))
        compiled = jax.jit(jax.grad(loss)).lower(abstract, *features).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(64) < 2.5 * memory(32)


def test_scoring_4917_texts_by_4917_videos_of_64_frames_fits_in_4_gib(monkeypatch):
    monkeypatch.setitem(scoring.TILE_ELEMENTS, "cpu", scoring.TILE_ELEMENTS_ACCELERATOR)
    sizes = {"embed_dim": 512, "context_length": 65, "max_frames": 64, "temporal_layers": 4}
    graphdef, abstract = create("tightTransf", **sizes)
    encoders = evaluate.make_encoders(graphdef)
    floats = encoders.pair_floats(abstract, 32, 64)
    rows, columns = scoring.tile_shape(4917, 4917, floats, devices=encoders.mesh.size)

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    tile = encoders.similarity.lower(
        abstract,
        Text(array(rows, 512), array(rows, 32, 512), array(rows, 32, dtype=bool)),
        Video(array(4917, 512), array(4917, 64, 512), array(4917, 64, dtype=bool)),
        columns=columns,
    )

    memory = tile.compile().memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    assert held + memory.temp_size_in_bytes < 4 * 2**30
