"""Which parameters learn how, told by their paths: rate, decay, freezing, gradient scale, storage.

Each function gives a tree shaped like the parameters.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np

# CLIP's parameters outside the blocks that train whatever is frozen (SPEC 7.3).
_NEVER_FROZEN = re.compile(
    r"clip/(logit_scale|visual/(ln_post|proj|conv2)|text/(ln_final|text_proj))"
)
_MATRIX = re.compile(r"(kernel|proj|text_projection|conv2)$")
# What the references keep in float16 (SPEC 1.7): of CLIP alone, and no norm, embedding or scale.
_HALVED = re.compile(
    r"clip/(visual|text)/(.*(in_proj|out_proj|c_fc|c_proj)/(kernel|bias)"
    r"|conv1/kernel|conv2|proj|text_projection)"
)
# What the references compute before they gather features over GPUs (SPEC 6): both towers and the
# temporal encoder, not the logit scale and X-CLIP's matrices.
_BEFORE_GATHER = re.compile(r"(clip/(visual|text)|temporal)/")


def trainable_masks(params, freeze_layers: int):
    """Returns for each parameter what its gradient is multiplied by: 1 where it trains, else 0.

    For a stacked parameter that is one value a layer.
    """

    def mask(path, leaf) -> np.ndarray | np.float32:
        name = join(path)
        if freeze_layers < 0 or not name.startswith("clip/") or _NEVER_FROZEN.match(name):
            return np.float32(1)
        if not is_stacked(path):
            return np.float32(0)
        layer = np.arange(leaf.shape[0]).reshape(-1, *[1] * (leaf.ndim - 1))
        return (layer >= freeze_layers).astype(np.float32)

    return jax.tree_util.tree_map_with_path(mask, params)


def rates(params, clip_multiplier: float):
    """Returns each parameter's share of the learning rate: CLIP's own learn slower."""
    return _by_name(lambda name: clip_multiplier if name.startswith("clip/") else 1.0, params)


def decays(params, weight_decay: float):
    """parity: all but biases decay, the learned matrices (towards 0) and norms included."""
    return _by_name(lambda name: 0.0 if name.endswith("bias") else weight_decay, params)


def gradient_scales(params, encoder_gradient_scale: float):
    """Returns what each gradient is multiplied by before anything else.

    parity: the references' gather over N GPUs leaves 1/N of the gradient to what stands before it
    (SPEC 6). That holds for X-CLIP and the loose heads of CLIP4Clip; tightTransf gathers nothing.
    """
    return _by_name(
        lambda name: encoder_gradient_scale if _BEFORE_GATHER.match(name) else 1.0, params
    )


def matrices(params):
    """Returns whether each parameter is the weight of a linear layer, a patch or a projection."""
    return _by_name(lambda name: bool(_MATRIX.search(name)), params)


def halve(params):
    """Returns the parameters with those in float16 that the references keep so (parity, SPEC 1.7).

    Their gradients then are float16 too, as is all that an optimizer keeps of their kind. The
    model widens them to its compute dtype where it uses them: the references compute both towers
    in float16 as well, but what sets their training apart is the update (SPEC 9).
    """

    def stored(path, leaf):
        return leaf.astype(jnp.float16) if _HALVED.fullmatch(join(path)) else leaf

    return jax.tree_util.tree_map_with_path(stored, params)


def is_stacked(path) -> bool:
    """Returns whether a parameter holds one value a layer on its leading axis."""
    return "/blocks/" in join(path)


def join(path) -> str:
    """Returns a path of jax.tree_util as `a/b/c`."""
    return "/".join(str(key.key) for key in path)


def _by_name(value, params):
    return jax.tree_util.tree_map_with_path(lambda path, _: value(join(path)), params)
