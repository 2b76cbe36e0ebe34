"""OpenAI's CLIP: the image tower, the text tower and their shared scale; nothing else (SPEC 1)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from xclip_jax import frames
from xclip_jax.models.transformer import CLIP_EPSILON, Transformer, causal_bias, layer_norm
from xclip_jax.sharding import shard_batch

_VIT_B = {
    "embed_dim": 512,
    "image_size": 224,
    "vision_layers": 12,
    "vision_width": 768,
    "text_width": 512,
    "text_layers": 12,
    "context_length": 77,
    "vocab_size": 49408,
}
ARCHS = {
    "vit_b32": _VIT_B | {"patch_size": 32},
    "vit_b16": _VIT_B | {"patch_size": 16},
    "vit_l14": _VIT_B
    | {
        "patch_size": 14,
        "embed_dim": 768,
        "vision_layers": 24,
        "vision_width": 1024,
        "text_width": 768,
    },
}
# Patches start at scale 0.6, PyTorch's for a convolution; positions must stand out beside them for
# a model trained from scratch to see where things are. CLIP's weights replace both.
POSITION_SCALE = 0.5
INITIAL_LOGIT_SCALE = 2.6592600  # ln(1 / 0.07), CLIP's start; released weights hold ln(100)


def normalize_pixels(
    video: UInt8[Array, "B F H W 3"] | Float[Array, "B F H W 3"], mask: Bool[Array, "B F"]
) -> Float[Array, "B F H W 3"]:
    """Returns CLIP's input: bytes scaled and whitened, zero where padded; floats pass unchanged.

    A padded frame is zero *after* normalisation, as in the references (SPEC 10.2, step 7).
    """
    if video.dtype != jnp.uint8:
        return video
    x = (video.astype(jnp.float32) / 255 - frames.MEAN) / frames.STD
    return x * mask[:, :, None, None, None]


def patchify(images: Float[Array, "*b H W 3"], patch: int) -> Float[Array, "*b N P"]:
    """Cuts images into N = (H/patch)(W/patch) row-major patches of P = patch*patch*3 values."""
    *batch, h, w, c = images.shape
    # A row of a patch stays one axis: an accelerator pads short last axes in memory, 3 to 128.
    x = images.reshape(*batch, h // patch, patch, w // patch, patch * c)
    return x.swapaxes(-3, -2).reshape(*batch, (h // patch) * (w // patch), patch * patch * c)


class ImageTower(nnx.Module):
    """A vision transformer whose class token is the frame feature (SPEC 1.2)."""

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        embed_dim: int,
        linear_patch: str = "2d",
        activation: str = "quick_gelu",
        dtype=jnp.float32,
        remat: str = "dots",
        rngs: nnx.Rngs,
    ):
        if image_size % patch_size:
            raise ValueError(
                f"image_size={image_size} is not a multiple of patch_size={patch_size}."
            )
        self.patch_size, self.linear_patch, self.dtype = patch_size, linear_patch, dtype
        tokens = (image_size // patch_size) ** 2 + 1
        normal = nnx.initializers.normal(width**-0.5)
        # The convolution with kernel = stride is a matrix product over flattened patches.
        values = 3 * patch_size**2
        self.conv1 = nnx.Linear(
            values,
            width,
            use_bias=False,
            dtype=dtype,
            kernel_init=nnx.initializers.normal((3 * values) ** -0.5),
            rngs=rngs,
        )
        if linear_patch == "3d":  # SPEC 1.4: starts as conv1 on the middle frame
            kernel = self.conv1.kernel[...]
            self.conv2 = nnx.Param(jnp.stack([0 * kernel, kernel, 0 * kernel]))
        self.class_embedding = nnx.Param(normal(rngs.params(), (width,)))
        self.positional_embedding = nnx.Param(
            nnx.initializers.normal(POSITION_SCALE)(rngs.params(), (tokens, width))
        )
        self.ln_pre = layer_norm(width, epsilon=CLIP_EPSILON, rngs=rngs)
        self.transformer = Transformer(
            width,
            layers,
            heads,
            activation=activation,
            dtype=dtype,
            remat=remat,
            rngs=rngs,
        )
        self.ln_post = layer_norm(width, epsilon=CLIP_EPSILON, rngs=rngs)
        self.proj = nnx.Param(normal(rngs.params(), (width, embed_dim)))

    def __call__(
        self, video: UInt8[Array, "B F H W 3"] | Float[Array, "B F H W 3"], mask: Bool[Array, "B F"]
    ) -> Float[Array, "B F E"]:
        """Returns one un-normalised float32 feature a frame; frames are independent of each other
        but for the 3d patch, which sees the neighbours of each frame."""
        b, f = video.shape[:2]
        # The patches' floats take several layers' room, and are quickly made again from the bytes.
        embed = jax.checkpoint(self._embed) if self.transformer.remat == "full" else self._embed
        x = embed(video, mask)
        # Only the class token is used, so only it goes through the last block's attention and MLP,
        # the last norm and the projection.
        x = self.transformer(shard_batch(x), first=1)
        x = self.ln_post(x[:, 0]).astype(self.dtype) @ self.proj[...].astype(self.dtype)
        return x.astype(jnp.float32).reshape(b, f, -1)

    def _embed(self, video, mask) -> Float[Array, "BF N D"]:
        """Returns what the first block takes: the class token and the patches of each frame."""
        b, f = video.shape[:2]
        patches = patchify(normalize_pixels(video, mask), self.patch_size)
        if self.linear_patch == "3d":
            around = jnp.pad(patches, ((0, 0), (1, 1), (0, 0), (0, 0)))
            kernel = self.conv2[...].astype(self.dtype)
            x = sum(around[:, i : i + f].astype(self.dtype) @ kernel[i] for i in range(3))
        else:
            x = self.conv1(patches.reshape(-1, patches.shape[-1]))
        x = x.reshape(b * f, patches.shape[2], -1)
        first = jnp.broadcast_to(self.class_embedding[...], (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([first.astype(x.dtype), x], axis=1)
        x = self.ln_pre(x + self.positional_embedding[...].astype(x.dtype))
        return x.astype(self.dtype)


class TextTower(nnx.Module):
    """A causal transformer; the end-of-text token is the sentence feature (SPEC 1.3)."""

    def __init__(
        self,
        *,
        context_length: int,
        vocab_size: int,
        width: int,
        layers: int,
        heads: int,
        embed_dim: int,
        activation: str = "quick_gelu",
        dtype=jnp.float32,
        remat: str = "dots",
        rngs: nnx.Rngs,
    ):
        self.dtype = dtype
        self.token_embedding = nnx.Embed(
            vocab_size, width, embedding_init=nnx.initializers.normal(0.02), rngs=rngs
        )
        self.positional_embedding = nnx.Param(
            nnx.initializers.normal(0.01)(rngs.params(), (context_length, width))
        )
        self.transformer = Transformer(
            width,
            layers,
            heads,
            activation=activation,
            dtype=dtype,
            remat=remat,
            rngs=rngs,
        )
        self.ln_final = layer_norm(width, epsilon=CLIP_EPSILON, rngs=rngs)
        self.text_projection = nnx.Param(
            nnx.initializers.normal(width**-0.5)(rngs.params(), (width, embed_dim))
        )

    def __call__(
        self, tokens: Int[Array, "B W"]
    ) -> tuple[Float[Array, "B E"], Float[Array, "B W E"]]:
        """Returns un-normalised float32 sentence and word features; padded words have one too."""
        length = tokens.shape[1]
        x = self.token_embedding(tokens) + self.positional_embedding[:length]
        x = self.transformer(shard_batch(x.astype(self.dtype)), causal_bias(length))
        x = self.ln_final(x).astype(self.dtype).reshape(-1, x.shape[-1])
        x = x @ self.text_projection[...].astype(self.dtype)
        words = x.astype(jnp.float32).reshape(*tokens.shape, -1)
        end = jnp.argmax(tokens, axis=1)  # the end-of-text token has the largest id
        return jnp.take_along_axis(words, end[:, None, None], axis=1)[:, 0], words


class CLIP(nnx.Module):
    """Both towers and the logit scale."""

    def __init__(self, *, visual: ImageTower, text: TextTower):
        self.visual, self.text = visual, text
        self.logit_scale = nnx.Param(jnp.float32(INITIAL_LOGIT_SCALE))

    def encode_frames(
        self,
        video: UInt8[Array, "V K H W 3"] | Float[Array, "V K H W 3"],
        frame_mask: Bool[Array, "V F"],
    ) -> Float[Array, "V F E"]:
        """Returns the feature of each frame as the tower gives it, of padding too.

        The last F - K frames, left out where all videos have padding there, are one image: it is
        encoded once. The 3d patch sees the frame before it, so there all of them are made up.
        """
        videos, given = video.shape[:2]
        left_out = frame_mask.shape[1] - given
        if left_out and self.visual.linear_patch == "3d":
            video = jnp.pad(video, ((0, 0), (0, left_out), (0, 0), (0, 0), (0, 0)))
            given, left_out = given + left_out, 0
        features = self.visual(video, frame_mask[:, :given])
        if not left_out:
            return features
        blank = self.visual(jnp.zeros_like(video[:1, :1]), jnp.zeros((1, 1), bool))
        blanks = jnp.broadcast_to(blank, (videos, left_out, blank.shape[-1]))
        return jnp.concatenate([features, blanks], axis=1)


def create_clip(
    *,
    embed_dim: int,
    image_size: int,
    patch_size: int,
    vision_layers: int,
    vision_width: int,
    text_width: int,
    text_layers: int,
    context_length: int,
    vocab_size: int,
    linear_patch: str,
    activation: str,
    dtype,
    remat: str,
    rngs: nnx.Rngs,
) -> CLIP:
    """Returns a CLIP of these sizes; heads are width // 64 as in all of OpenAI's models."""
    common = {
        "embed_dim": embed_dim,
        "activation": activation,
        "dtype": dtype,
        "remat": remat,
        "rngs": rngs,
    }
    visual = ImageTower(
        image_size=image_size,
        patch_size=patch_size,
        width=vision_width,
        layers=vision_layers,
        heads=vision_width // 64,
        linear_patch=linear_patch,
        **common,
    )
    text = TextTower(
        context_length=context_length,
        vocab_size=vocab_size,
        width=text_width,
        layers=text_layers,
        heads=text_width // 64,
        **common,
    )
    return CLIP(visual=visual, text=text)
