"""Converted weights compute what Hugging Face's CLIPModel computes; skips without torch.

Bound 1e-4 absolute on unnormalised features, the house's for a model in float32.
"""

import jax
import numpy as np
import pytest
import tiny
from flax import nnx

from xclip_jax import convert, hugging_face, models, weight_formats
from xclip_jax.models import ARCHS

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

SMALL = {
    "embed_dim": 128,
    "image_size": 12,
    "patch_size": 4,
    "vision_layers": 2,
    "vision_width": 192,
    "text_width": 64,
    "text_layers": 3,
    "context_length": 11,
    "vocab_size": 50,
}
REST = {"max_words": 11, "max_frames": 2, "temporal_layers": 1, "head": "meanP"}


def theirs(sizes: dict, activation: str):
    """Returns their model of these sizes at random weights that are large enough to show."""
    facts = hugging_face.config(sizes, activation)
    torch.manual_seed(0)
    model = transformers.CLIPModel(transformers.CLIPConfig(**facts)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.05)
    return model


def inputs(sizes: dict) -> tuple[np.ndarray, np.ndarray]:
    """Returns normalised images [2, 2, H, W, 3] and token ids [3, 11]."""
    rng = np.random.default_rng(0)
    size, end = sizes["image_size"], sizes["vocab_size"] - 1
    tokens = np.zeros((3, 11), np.int32)
    for i, length in enumerate((4, 7, 11)):
        tokens[i, :length] = [end - 1, *rng.integers(1, end - 1, length - 2), end]
    return rng.normal(size=(2, 2, size, size, 3)).astype(np.float32), tokens


def features_of(model, images: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns their image features [2, 2, E] and text features [3, E]."""
    pixels = torch.tensor(images.reshape(-1, *images.shape[2:])).permute(0, 3, 1, 2)
    with torch.no_grad():
        found = [
            model.get_image_features(pixel_values=pixels),
            model.get_text_features(input_ids=torch.tensor(tokens).long()),
        ]
    image, text = [getattr(x, "pooler_output", x).numpy() for x in found]
    return image.reshape(2, 2, -1), text


def ours(model, params, images, tokens):
    """Returns our image and text features."""
    clip = nnx.merge(model[0], params).clip
    with jax.default_matmul_precision("highest"):
        return tiny.call(clip.visual, images), tiny.call(clip.text, tokens)[0]


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_their_weights_give_their_features_here_and_ours_there(tmp_path, activation):
    check(tmp_path, SMALL, activation)


def test_so_do_weights_of_the_size_of_vit_b32(tmp_path):
    check(tmp_path, ARCHS["vit_b32"], "quick_gelu")


def check(folder, sizes: dict, activation: str):
    source = theirs(sizes, activation)
    source.save_pretrained(folder)
    images, tokens = inputs(sizes)

    found = weight_formats.recognise(folder / "model.safetensors")
    assert found.sizes == sizes | {"activation": activation}
    model = models.create("clip4clip", **found.sizes, **REST)
    params = convert.from_clip(found.state, model)
    got = ours(model, params, images, tokens)

    for one, other in zip(got, features_of(source, images, tokens), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)

    state = convert.to_torch(params, model)
    state = {name.removeprefix("clip."): array for name, array in state.items()}
    back = theirs(sizes, activation)
    arrays = hugging_face.to_hugging_face(state)
    with torch.no_grad():
        for parameter in back.parameters():
            parameter.zero_()
    back.load_state_dict({name: torch.tensor(a) for name, a in arrays.items()}, strict=True)
    for one, other in zip(got, features_of(back, images, tokens), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
