"""One update of the parameters: the jitted, sharded step and the state that it takes.

The state is a nested dict, {"params", "opt_state", "step"}. Nothing here has a file or a device of
its own, so a step can be compiled for a machine that is not there.
"""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from xclip_jax import gradient_cache, losses, models, optimizer, sharding
from xclip_jax.training import divergence


def fresh_state(
    config: ml_collections.ConfigDict,
    sizes: dict,
    transformation: optax.GradientTransformation,
    key: jax.Array,
) -> dict:
    """Returns the state before the first step, with parameters drawn from `key`."""
    params = models.init(key, config.model.name, **sizes)
    params = optimizer.store(params, config.optimizer.name)
    return {"params": params, "opt_state": transformation.init(params), "step": jnp.int32(0)}


def abstract_state(
    config: ml_collections.ConfigDict,
    sizes: dict,
    transformation: optax.GradientTransformation,
    mesh: Mesh,
) -> tuple[dict, dict]:
    """Returns the state's shapes, with their layout on the mesh, and that layout alone."""
    fresh = functools.partial(fresh_state, config, sizes, transformation)
    shapes = jax.eval_shape(fresh, jax.random.key(0))
    layout = sharding.shard_params(shapes, mesh)
    laid_out = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        layout,
    )
    return laid_out, layout


def abstract_batch(
    config: ml_collections.ConfigDict, sizes: dict, place=None, *, pairs: int | None = None
) -> dict:
    """Returns the shapes of a training batch as `input.train` makes it, laid out as `place` says.

    `pairs` is its size with padding, the config's without unless given. All that counts the work of
    a step starts from them: `plan`, the progress line, the benchmarks.
    """
    frames, words, side = sizes["max_frames"], sizes["max_words"], sizes["image_size"]
    captions = config.data.captions_per_video
    texts = pairs or config.batch_size
    videos = texts // captions
    encoded = min(config.data.encoded_frames or frames, frames)
    shapes = {
        "video": ((videos, encoded, side, side, 3), jnp.uint8),
        "frame_mask": ((videos, frames), jnp.bool_),
        "tokens": ((texts, words), jnp.int32),
        "token_mask": ((texts, words), jnp.bool_),
    }
    if captions > 1 or not config.data.same_video_negatives:
        shapes["video_ids"] = ((videos,), jnp.int32)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
        for name, (shape, dtype) in shapes.items()
    }


def make(
    graphdef,
    transformation: optax.GradientTransformation,
    state_sharding,
    mesh: Mesh,
    *,
    seed: int,
    micro_batch: int = 0,
    padding: int = 0,
    skip_nonfinite: bool = False,
):
    """Returns a jitted (state, batch) -> (state, metrics) for the given shardings.

    What a model draws in training, dropout, is a function of `seed` and the step alone. With
    `micro_batch` the gradient is that of `gradient_cache`. The last `padding` pairs of a batch are
    blank: they are encoded, for every device does the same, and change neither loss nor gradient.
    With `skip_nonfinite` an update that is not finite leaves parameters and optimizer as they were,
    and counts as a step all the same.
    """
    batch_sharding = NamedSharding(mesh, sharding.BATCH)

    @functools.partial(
        jax.jit,
        donate_argnames="state",
        in_shardings=(state_sharding, batch_sharding),
        out_shardings=(state_sharding, NamedSharding(mesh, P())),
    )
    def step(state, batch):
        def encode(params, batch):
            model = nnx.merge(graphdef, params)
            text = model.encode_text(batch["tokens"], batch["token_mask"])
            return text, model.encode_video(batch["video"], batch["frame_mask"])

        def loss_of(params, features):
            key = jax.random.fold_in(jax.random.key(seed), state["step"])
            same = None
            if "video_ids" in batch:
                ids = batch["video_ids"]
                same = jnp.repeat(ids, len(batch["tokens"]) // len(ids))[:, None] == ids
                same = losses.without_padding(same, padding)
            return nnx.merge(graphdef, params).loss(*features, key, same, padding)

        if micro_batch:
            loss, grads = gradient_cache.value_and_grad(
                encode, loss_of, state["params"], batch, micro_batch=micro_batch
            )
        else:
            loss, grads = jax.value_and_grad(lambda p: loss_of(p, encode(p, batch)))(
                state["params"]
            )
        updates, opt_state = transformation.update(grads, state["opt_state"], state["params"])
        params = optimizer.clamp_logit_scale(optax.apply_updates(state["params"], updates))
        measured = {
            "train/loss": loss,
            "train/grad_norm": optax.tree.norm(optax.tree.cast(grads, jnp.float32)),
            "train/param_norm": optax.tree.norm(optax.tree.cast(params, jnp.float32)),
        }
        updated = {"params": params, "opt_state": opt_state}
        if skip_nonfinite:
            finite = divergence.is_finite(measured)
            updated = {
                name: jax.tree.map(lambda new, old: jnp.where(finite, new, old), tree, state[name])
                for name, tree in updated.items()
            }
        return updated | {"step": state["step"] + 1}, measured

    return step
