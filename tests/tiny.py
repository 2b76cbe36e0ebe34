"""An X-CLIP of a few thousand numbers for the tests, every size of it different."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from xclip_jax import losses, models

SIZES = {
    "embed_dim": 64,
    "image_size": 12,
    "patch_size": 4,
    "vision_layers": 2,
    "vision_width": 128,
    "text_width": 192,
    "text_layers": 1,
    "context_length": 11,
    "vocab_size": 50,
    "max_words": 7,
    "max_frames": 3,
    "temporal_layers": 1,
    "head": "seqTransf",
}
END = SIZES["vocab_size"] - 1  # the end-of-text token has the largest id


@functools.cache
def create(**options) -> tuple:
    """Returns (graphdef, abstract params) of the model of `SIZES` and these options."""
    return models.create("xclip", **SIZES | options)


@functools.cache
def params(seed: int = 0, **options) -> dict:
    """Returns random parameters for that model."""
    return draw(create(**options)[1], seed)


def module(make, seed: int = 0) -> nnx.Module:
    """Returns the module that `make` makes, with random parameters."""
    graphdef, state = nnx.split(nnx.eval_shape(make))
    return nnx.merge(graphdef, draw(nnx.to_pure_dict(state), seed))


def call(module: nnx.Module, *inputs):
    """Returns the output of a module for NumPy inputs, compiled as one."""
    graphdef, state = nnx.split(module)
    run = jax.jit(lambda state, *inputs: nnx.merge(graphdef, state)(*inputs))
    return jax.tree.map(np.asarray, run(state, *inputs))


def draw(abstract: dict, seed: int) -> dict:
    """Returns parameters none of which is zero or one, so that each of them shows."""
    rng = np.random.default_rng(seed)

    def value_of(path, leaf):
        name = jax.tree_util.keystr(path)
        noise = rng.normal(size=leaf.shape)
        if name.endswith(("_weight']", "_weight2']")):
            value = np.eye(len(noise)) + 0.1 * noise
        else:
            value = 0.1 * noise + 2 * ("logit_scale" in name) + ("'scale'" in name)
        return jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(value_of, abstract)


def batch(texts: int, videos: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns texts of 3 words or more and videos of 1 frame or more, both padded."""
    rng = np.random.default_rng(seed)
    words, frames, size = SIZES["max_words"], SIZES["max_frames"], SIZES["image_size"]
    lengths = 3 + np.arange(texts) % (words - 2)
    token_mask = np.arange(words) < lengths[:, None]
    tokens = np.where(token_mask, rng.integers(1, END, (texts, words)), 0)
    tokens[np.arange(texts), lengths - 1] = END
    frame_mask = np.arange(frames) < (frames - np.arange(videos) % frames)[:, None]
    pixels = rng.integers(0, 256, (videos, frames, size, size, 3))
    return {
        "tokens": tokens.astype(np.int32),
        "token_mask": token_mask,
        "video": pixels.astype(np.uint8) * frame_mask[:, :, None, None, None],
        "frame_mask": frame_mask,
    }


def scores(graphdef, params, batch):
    """Returns [T, V] by the three verbs."""
    model = nnx.merge(graphdef, params)
    text = model.encode_text(batch["tokens"], batch["token_mask"])
    return model.similarity(text, model.encode_video(batch["video"], batch["frame_mask"]))


def loss(graphdef, params, batch):
    """Returns the training loss."""
    return losses.symmetric(scores(graphdef, params, batch))
