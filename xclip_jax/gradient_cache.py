"""The exact gradient of a large contrastive batch with the activations of a part of it in memory.

A contrastive loss compares all texts with all videos, so it is no sum over micro-batches, and
gradients accumulated from them would know only their own negatives. But it needs no more of an
encoder than features. Three passes (gradient caching, arXiv 2101.06983): features of one
micro-batch after another, nothing kept; the loss of all features and its gradient by them; each
micro-batch encoded again, and that gradient sent back through it. A third more compute, the same
gradient.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from xclip_jax import sharding


def value_and_grad(
    encode: Callable, loss: Callable, params: dict, batch: dict, *, micro_batch: int
) -> tuple[jax.Array, dict]:
    """Returns the loss of a batch, and its gradient by `params`.

    Args:
      encode: (params, part of the batch) -> features, a tree of arrays with the batch in front,
        or the videos of a batch that has several texts for each.
      loss: (params, features of the whole batch) -> scalar.
      micro_batch: how many examples, over all devices, are encoded at a time.

    The gradients of parameters that are stored in float16 are summed in float32 and rounded once.

    Raises ValueError where the batch has no equal parts of that size on every device.
    """
    stored = params
    params = jax.tree.map(lambda p: p.astype(jnp.promote_types(p.dtype, jnp.float32)), stored)
    sizes, devices = {len(x) for x in jax.tree.leaves(batch)}, sharding.devices()
    size = max(sizes)
    least = devices * size // min(sizes)  # a video on each device, with all of its captions
    if size % micro_batch or micro_batch % least:
        raise ValueError(
            f"config.micro_batch={micro_batch} does not divide config.batch_size={size}, or is not"
            f" shared evenly by {devices} devices: choose a multiple of {least} that divides it."
        )
    parts = range(size // micro_batch)

    def part(tree, i):
        """Returns micro-batch i: of every device the i-th part of what lies there, so that
        nothing moves."""

        def cut(x):
            rows = x.reshape(devices, len(parts), -1, *x.shape[1:])
            rows = jax.lax.dynamic_index_in_dim(rows, i, axis=1, keepdims=False)
            return sharding.shard_batch(rows.reshape(-1, *x.shape[1:]))

        return jax.tree.map(cut, tree)

    def whole(x):
        """Returns micro-batches [N, B/N, ...] in the order of the batch [B, ...]."""
        rows = x.reshape(len(parts), devices, -1, *x.shape[2:]).swapaxes(0, 1)
        return sharding.shard_batch(rows.reshape(-1, *x.shape[2:]))

    steps = jnp.arange(len(parts))
    features = jax.lax.map(lambda i: encode(params, part(batch, i)), steps)
    numbers, others = _split(jax.tree.map(whole, features))
    value, (grads, by_feature) = jax.value_and_grad(
        lambda params, numbers: loss(params, _join(numbers, others)), argnums=(0, 1)
    )(params, numbers)

    def add(grads, i):
        _, back = jax.vjp(lambda params: _split(encode(params, part(batch, i)))[0], params)
        return jax.tree.map(jnp.add, grads, back(part(by_feature, i))[0]), None

    grads = jax.lax.scan(add, grads, steps)[0]
    return value, jax.tree.map(lambda g, p: g.astype(p.dtype), grads, stored)


def _split(tree) -> tuple:
    """Returns the floating-point leaves, with None for the others, and the others alike."""

    def keep(floating: bool):
        return jax.tree.map(
            lambda x: x if jnp.issubdtype(x.dtype, jnp.floating) == floating else None, tree
        )

    return keep(True), keep(False)


def _join(numbers, others):
    return jax.tree.map(
        lambda x, y: y if x is None else x, numbers, others, is_leaf=lambda x: x is None
    )
