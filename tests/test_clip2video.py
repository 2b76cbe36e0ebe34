"""CLIP2Video's features, score and loss are SPEC 5's, for every choice of its blocks."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from spec17 import MASK, block, fill, grid

from xclip_jax import convert
from xclip_jax.models import clip, clip2video


def vector(text: str) -> np.ndarray:
    return np.array([float(x) for x in text.split()])


# SPEC 17 H

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
            remat=False,
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
