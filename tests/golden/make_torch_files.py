"""Writes the two weight files of this folder; needs PyTorch, which nothing else here does.

python tests/golden/make_torch_files.py        (made with torch 2.13.0)

Their values follow the formula of README.md with seed 0, so the tests need no second copy.
"""

import zlib
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent
WIDTH = 64
HALVED = ("conv1", "in_proj", "out_proj", "c_fc", "c_proj", "text_projection", "visual.proj")


def value(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    z = np.random.RandomState(zlib.crc32(name.encode()) % 2**32).standard_normal(shape)
    last = name.split(".")[-1]
    if last == "logit_scale":
        z = np.log(20)
    elif last.endswith(("_logit_weight", "_mat_weight", "_mat_weight2")):
        z = np.eye(len(z)) + 0.05 * z
    elif len(shape) == 1 and last == "weight":
        z = 1 + 0.1 * z
    else:
        z = (0.05 if "bias" in last else 0.08) * z
    halved = any(part in name for part in HALVED) and not name.startswith("transformerClip")
    # As in OpenAI's archives and the references' checkpoints: matrices of CLIP in half precision.
    return torch.tensor(z, dtype=torch.float16 if halved else torch.float32)


def block(prefix: str) -> dict[str, tuple[int, ...]]:
    w = WIDTH
    return {
        f"{prefix}.attn.in_proj_weight": (3 * w, w),
        f"{prefix}.attn.in_proj_bias": (3 * w,),
        f"{prefix}.attn.out_proj.weight": (w, w),
        f"{prefix}.attn.out_proj.bias": (w,),
        f"{prefix}.ln_1.weight": (w,),
        f"{prefix}.ln_1.bias": (w,),
        f"{prefix}.mlp.c_fc.weight": (4 * w, w),
        f"{prefix}.mlp.c_fc.bias": (4 * w,),
        f"{prefix}.mlp.c_proj.weight": (w, 4 * w),
        f"{prefix}.mlp.c_proj.bias": (w,),
        f"{prefix}.ln_2.weight": (w,),
        f"{prefix}.ln_2.bias": (w,),
    }


CLIP = {
    "positional_embedding": (11, WIDTH),
    "text_projection": (WIDTH, WIDTH),
    "logit_scale": (),
    "visual.class_embedding": (WIDTH,),
    "visual.positional_embedding": (10, WIDTH),  # 12 x 12 pixels in patches of 4
    "visual.proj": (WIDTH, WIDTH),
    "visual.conv1.weight": (WIDTH, 3, 4, 4),
    "visual.ln_pre.weight": (WIDTH,),
    "visual.ln_pre.bias": (WIDTH,),
    **block("visual.transformer.resblocks.0"),
    "visual.ln_post.weight": (WIDTH,),
    "visual.ln_post.bias": (WIDTH,),
    **block("transformer.resblocks.0"),
    "token_embedding.weight": (517, WIDTH),
    "ln_final.weight": (WIDTH,),
    "ln_final.bias": (WIDTH,),
}
XCLIP = {
    **{f"clip.{name}": shape for name, shape in CLIP.items()},
    "global_mat_weight": (WIDTH, WIDTH),
    "local_mat_weight": (WIDTH, WIDTH),
    **{name: (7, 7) for name in ("word_logit_weight", "word_mat_weight", "word_mat_weight2")},
    **{name: (3, 3) for name in ("frame_logit_weight", "frame_mat_weight", "frame_mat_weight2")},
    "frame_position_embeddings.weight": (11, WIDTH),
    **block("transformerClip.resblocks.0"),
}


class Module(torch.nn.Module):
    """A module with the parameters of these names below it, which computes nothing."""

    def __init__(self, parameters: dict[str, torch.Tensor]):
        super().__init__()
        inner: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in parameters.items():
            first, _, rest = name.partition(".")
            if rest:
                inner.setdefault(first, {})[rest] = tensor
            elif tensor.is_floating_point():
                self.register_parameter(first, torch.nn.Parameter(tensor))
            else:
                self.register_buffer(first, tensor)
        for name, below in inner.items():
            self.add_module(name, Module(below))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


if __name__ == "__main__":
    sizes = {"input_resolution": 12, "context_length": 11, "vocab_size": 517}
    weights = {name: value(name, shape) for name, shape in CLIP.items()}
    scripted = torch.jit.script(Module(weights | {k: torch.tensor(v) for k, v in sizes.items()}))
    scripted.save(GOLDEN / "clip_scripted.pt")
    torch.save({k: value(k, v) for k, v in XCLIP.items()}, GOLDEN / "xclip_state_dict.bin")
