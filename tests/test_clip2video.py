"""CLIP2Video's features, score and loss are SPEC 5's, for every choice of its blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from spec17 import MASK, block, fill, grid

from xclip_jax import convert, models
from xclip_jax.models import clip, clip2video

SIZES = tiny.SIZES | {"embed_dim": 128, "max_frames": 5, "temporal_layers": 2}
SIZES |= {"centers": 4, "center_weight": 0.3}
TEXTS, VIDEOS, FRAMES, WORDS, WIDTH, HEADS = 4, 3, 5, 7, 128, 2
FRAME_MASK = np.arange(FRAMES) < np.array([5, 3, 4])[:, None]
WORD_MASK = np.arange(WORDS) < np.array([7, 2, 5, 3])[:, None]
COMBINATIONS = [  # head, difference, alignment: each value of each, alone and in company
    ("seqTransf", "sigmoid_selfA", "TAB_TDB"),
    ("seqTransf", "sigmoid_mlp", "TAB_TDB"),
    ("seqTransf", "plain", "TAB"),
    ("seqTransf", "sigmoid_selfA", "none"),
    ("seqTransf", "none", "plain"),
    ("meanP", "sigmoid_selfA", "TAB_TDB"),
    ("meanP", "none", "TAB"),
    ("meanP", "none", "none"),
]


@functools.cache
def create(**options) -> tuple:
    return models.create("clip2video", **SIZES | options)


@functools.cache
def weights(seed: int = 0, **options) -> dict[str, np.ndarray]:
    """Returns random weights under the references' names; norms' stand around one."""
    model = create(**options)
    shapes = convert.to_torch(jax.tree.map(lambda p: np.zeros(p.shape), model[1]), model)
    rng = np.random.default_rng(seed)
    values = {name: 0.1 * rng.normal(size=value.shape) for name, value in shapes.items()}
    for name in values:
        values[name] += float(".ln_" in name or "layernorm" in name) * name.endswith("weight")
        values[name] += 2.0 * name.endswith("logit_scale")
    return {name: np.asarray(value, np.float32) for name, value in values.items()}


def params(**options) -> dict:
    return jax.tree.map(jnp.asarray, convert.from_torch(weights(**options), create(**options)))


def features(seed: int = 0) -> tuple[np.ndarray, ...]:
    """Returns CLIP's raw features: sentences, words and frames, of which some are padded."""
    rng = np.random.default_rng(seed)
    shapes = (TEXTS, WIDTH), (TEXTS, WORDS, WIDTH), (VIDEOS, FRAMES, WIDTH)
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)


def encode(sentence, words, frames, *, frame_mask=FRAME_MASK, **options):
    """Returns text and video features, and the scores."""
    graphdef, _ = create(**options)

    @jax.jit
    def run(params, sentence, words, word_mask, frames, frame_mask):
        model = nnx.merge(graphdef, params)
        text = model.encode_words(sentence, words, word_mask)
        video = model.encode_frames(frames, frame_mask)
        return text, video, model.similarity(text, video)

    return run(params(**options), sentence, words, WORD_MASK[: len(words)], frames, frame_mask)


# The oracle: SPEC 5 for one clip at a time, in float64


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def layer_norm(w, name, x, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def transform(w, name, x, masks):
    """Returns one clip's tokens after all blocks called `name`; `masks` holds one for each head."""
    for layer in range(9):
        prefix = f"{name}.resblocks.{layer}"
        if f"{prefix}.ln_1.bias" not in w:
            return x
        h = layer_norm(w, f"{prefix}.ln_1", x, 1e-12)
        h = h @ w[f"{prefix}.attn.in_proj_weight"].T + w[f"{prefix}.attn.in_proj_bias"]
        q, k, v = np.split(h, 3, axis=1)
        heads = []
        for head, mask in enumerate(masks):
            part = slice(64 * head, 64 * head + 64)
            weight = np.exp(q[:, part] @ k[:, part].T / 8) * mask
            heads.append(weight / weight.sum(1, keepdims=True) @ v[:, part])
        h = np.concatenate(heads, axis=1) @ w[f"{prefix}.attn.out_proj.weight"].T
        x = x + h + w[f"{prefix}.attn.out_proj.bias"]
        h = layer_norm(w, f"{prefix}.ln_2", x, 1e-12)
        h = h @ w[f"{prefix}.mlp.c_fc.weight"].T + w[f"{prefix}.mlp.c_fc.bias"]
        h = h / (1 + np.exp(-1.702 * h)) @ w[f"{prefix}.mlp.c_proj.weight"].T
        x = x + h + w[f"{prefix}.mlp.c_proj.bias"]
    raise AssertionError(name)


def masks_of(n, masks, bug):
    """Returns the masks of the heads of clip n."""
    return [masks[(n * HEADS + h) % len(masks) if bug else n] for h in range(HEADS)]


def differences(w, n, x, mask, projection, bug):
    """Returns the F - 1 projected differences of clip n."""
    table = w["frame_position_embeddings.weight"]
    change = [x[n, i + 1] - x[n, i] for i in range(x.shape[1] - 1)]
    if projection == "plain":
        return change
    if projection == "sigmoid_selfA":
        placed = np.array([d + table[i + 1] for i, d in enumerate(change)])
        change = transform(w, "frame2t_attention", placed, masks_of(n, mask[:, 1:], bug))
    else:
        change = [d @ w["frame2t_projection"] for d in change]
    return [
        2 / (1 + np.exp(-layer_norm(w, "trans_layernorm", d, 1e-5))) - 1 for d in np.array(change)
    ]


def over_frames(w, name, x, mask, projection, bug):
    """Returns what the transformer `name` makes of the frames of all clips; with a `projection`
    it sees differences too."""
    table = w["frame_position_embeddings.weight"]
    result = []
    for n in range(len(x)):
        tokens, seen = [], []
        change = [] if projection is None else differences(w, n, x, mask, projection, bug)
        for i in range(x.shape[1]):
            kind = 0 if projection is None else w["type_position_embeddings.weight"][1]
            tokens.append(x[n, i] + table[i] + kind)
            seen.append(mask[:, i])
            if i < len(change):
                kind = w["type_position_embeddings.weight"][0]
                tokens.append(change[i] + table[i] + kind)
                seen.append(mask[:, i])
        z = transform(w, name, np.array(tokens), masks_of(n, np.array(seen).T, bug))
        result.append(z[:: 1 if projection is None else 2] + x[n])
    return np.array(result)


def around_centers(w, tokens, mask):
    total = []
    for center, subtracted in zip(w["weight_center"], w["emb_center"], strict=True):
        g = 0
        for token in tokens[mask]:
            other = np.exp(w["weight_center"] @ token).sum()
            g = g + np.exp(center @ token) / other * (token - subtracted)
        total.append(unit(g))
    return unit(np.mean(total, axis=0))


def oracle(sentence, words, frames, *, head, difference, alignment, bug=False):
    """Returns the global and the aligned scores, before the scale."""
    named = {"head": head, "difference": difference, "alignment": alignment}
    w = {name: value.astype(np.float64) for name, value in weights(**named).items()}
    x, mask = frames.astype(np.float64), FRAME_MASK
    acted = x
    if head == "seqTransf":
        projection = None if difference == "none" else difference
        acted = over_frames(w, "transformerClip", x, mask, projection, bug)
    videos = [unit(unit(t)[m].mean(0)) for t, m in zip(acted, mask, strict=True)]
    whole = unit(sentence.astype(np.float64)) @ np.array(videos).T
    if alignment == "none":
        return whole, 0 * whole
    tokens, token_mask = x, mask
    if alignment != "plain":
        projection = difference if alignment == "TAB_TDB" else None
        y = over_frames(w, "actionClip", x[:, ::2], mask[:, ::2], projection, bug)
        tokens = np.concatenate([x, y], axis=1)
        token_mask = np.concatenate([mask, mask[:, ::2]], axis=1)
    of_texts = []
    for text, m in zip(words.astype(np.float64), WORD_MASK, strict=True):
        of_texts.append(around_centers(w, text[1:], m[1:]))
    of_videos = [around_centers(w, t, m) for t, m in zip(tokens, token_mask, strict=True)]
    return whole, np.array(of_texts) @ np.array(of_videos).T


@pytest.mark.parametrize("head, difference, alignment", COMBINATIONS)
@pytest.mark.parametrize("bug", [False, True])
def test_scores_match_loops_over_clips_and_tokens(head, difference, alignment, bug):
    """float32 within 1e-5 of a cosine, of which the scale makes e^2."""
    named = {"head": head, "difference": difference, "alignment": alignment}

    text, video, scores = encode(*features(), tiled_mask_bug=bug, **named)

    whole, aligned = oracle(*features(), bug=bug, **named)
    np.testing.assert_allclose(text.sentence @ video.video.T, whole, atol=1e-5)
    np.testing.assert_allclose(text.aligned @ video.aligned.T, aligned, atol=1e-5)
    scale = np.exp(weights(**named)["clip.logit_scale"])
    mixed = whole if alignment == "none" else 0.3 * whole + 0.7 * aligned
    np.testing.assert_allclose(scores, scale * mixed, atol=1e-4)


def test_a_clip_is_encoded_alone_as_among_others():
    sentence, words, frames = features()

    _, among, _ = encode(sentence, words, frames)
    _, alone, _ = encode(sentence, words, frames[1:2], frame_mask=FRAME_MASK[1:2])

    np.testing.assert_allclose(among.video[1:2], alone.video, atol=1e-5)
    np.testing.assert_allclose(among.aligned[1:2], alone.aligned, atol=1e-5)


def test_as_released_a_clip_depends_on_the_others_of_its_batch():
    sentence, words, frames = features()

    _, among, _ = encode(sentence, words, frames, tiled_mask_bug=True)
    _, alone, _ = encode(
        sentence, words, frames[1:2], frame_mask=FRAME_MASK[1:2], tiled_mask_bug=True
    )

    assert np.abs(among.video[1] - alone.video[0]).max() > 1e-3  # parity, SPEC 16 row 10


def test_clips_of_one_frame_have_no_difference():
    sentence, words, frames = features()
    mask = np.ones((VIDEOS, 1), bool)

    _, video, scores = encode(sentence, words, frames[:, :1], frame_mask=mask)

    assert np.isfinite(scores).all()
    np.testing.assert_allclose(np.linalg.norm(video.aligned, axis=-1), 1, rtol=1e-5)


# SPEC 17 H


def vector(text: str) -> np.ndarray:
    return np.array([float(x) for x in text.split()])


DIFFERENCE_0 = vector(
    "0.391850762 -0.683011006 0.595463811 -0.0291652215 0.057610819 0.0913257793 -0.650868672"
    " 0.0874660642"
)
DIFFERENCE_1 = vector(
    "0.392164378 -0.706128904 0.475310918 0.0199408823 -0.0447279812 0.219467456 -0.663282382"
    " 0.230445644"
)
SCORES_GLOBAL = vector("2.62120123 -0.314564421 7.09793267 3.82348938 8.1176756 6.22166113")
SCORES_ALIGNED = vector("12.8580852 16.5170207 -17.3982119 -0.640835833 15.1986956 -3.46535701")
SPEC_STATE = (
    {
        "frame_position_embeddings.weight": grid((6, 8), 0.9, 0.3),
        "type_position_embeddings.weight": grid((2, 8), 1.3, 0.3),
        "trans_layernorm.weight": 1 + grid((8,), 1.7, 0.3),
        "trans_layernorm.bias": grid((8,), 1.9, 0.3),
        "weight_center": grid((3, 8), 2.1, 0.3),
        "emb_center": grid((3, 8), 2.3, 0.3),
    }
    | fill(block("frame2t_attention"), 3)
    | fill(block("actionClip"), 4)
    | fill(block("transformerClip"), 5)
)


def spec_model() -> clip2video.CLIP2Video:
    """Returns SPEC 17 H's model, with two heads of width 4: `models.create` makes only 64."""

    def make():
        rngs = nnx.Rngs(0)
        sizes = {"width": 8, "layers": 1, "heads": 2, "embed_dim": 8, "rngs": rngs}
        towers = {
            "visual": clip.ImageTower(image_size=4, patch_size=2, **sizes),
            "text": clip.TextTower(context_length=4, vocab_size=5, **sizes),
        }
        return clip2video.CLIP2Video(
            clip.CLIP(**towers),
            embed_dim=8,
            heads=2,
            positions=6,
            layers=1,
            head="seqTransf",
            difference="sigmoid_selfA",
            alignment="TAB_TDB",
            centers=3,
            center_weight=0.5,
            tiled_mask_bug=True,
            dtype=jnp.float32,
            remat="dots",
            rngs=rngs,
        )

    graphdef, abstract = nnx.split(nnx.eval_shape(make))
    model = graphdef, nnx.to_pure_dict(abstract)
    zeros = convert.to_torch(jax.tree.map(lambda p: np.zeros(p.shape), model[1]), model)
    scale = {"clip.logit_scale": np.log(np.float32(20))}
    params = convert.from_torch(zeros | SPEC_STATE | scale, model)
    return nnx.merge(graphdef, jax.tree.map(jnp.asarray, params))


def test_differences_are_the_golden_values():
    model, frames = spec_model(), jnp.asarray(grid((2, 3, 8), 0.3, 1))
    table = model.frame_position_embeddings[...]

    tokens, mask = model.difference(frames, jnp.asarray(MASK), table)

    kinds = SPEC_STATE["type_position_embeddings.weight"][[1, 0, 1, 0, 1]]
    bare = np.asarray(tokens) - kinds - np.asarray(table)[[0, 0, 1, 1, 2]]
    np.testing.assert_allclose(bare[:, ::2], frames, atol=1e-5)
    np.testing.assert_allclose(bare[0, 1], DIFFERENCE_0, atol=1e-5)
    np.testing.assert_allclose(bare[0, 3], DIFFERENCE_1, atol=1e-5)
    np.testing.assert_array_equal(mask, [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])


def test_scores_are_the_golden_values():
    """SPEC 17 H, made in float64: 20 times the error of a unit feature's product in float32."""
    model = spec_model()
    words_mask = jnp.arange(4) < jnp.array([4, 3, 2])[:, None]

    text = model.encode_words(
        jnp.asarray(grid((3, 8), 0.1, 1)), jnp.asarray(grid((3, 4, 8), 0.2, 1)), words_mask
    )
    video = model.encode_frames(jnp.asarray(grid((2, 3, 8), 0.3, 1)), jnp.asarray(MASK))

    whole, aligned = 20 * text.sentence @ video.video.T, 20 * text.aligned @ video.aligned.T
    np.testing.assert_allclose(np.ravel(whole), SCORES_GLOBAL, atol=1e-4)
    np.testing.assert_allclose(np.ravel(aligned), SCORES_ALIGNED, atol=1e-4)
    np.testing.assert_allclose(model.similarity(text, video), (whole + aligned) / 2, atol=1e-5)
