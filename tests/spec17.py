"""The generator of SPEC 17: parameters and inputs by formula, so that no weights are stored."""

import numpy as np

MASK = np.array([[1, 1, 1], [1, 1, 0]], bool)
BLOCK = {  # the order in which SPEC 17 fills a block, with torch's shapes for width d
    "attn.in_proj_weight": lambda d: (3 * d, d),
    "attn.in_proj_bias": lambda d: (3 * d,),
    "attn.out_proj.weight": lambda d: (d, d),
    "attn.out_proj.bias": lambda d: (d,),
    "ln_1.weight": lambda d: (d,),
    "ln_1.bias": lambda d: (d,),
    "mlp.c_fc.weight": lambda d: (4 * d, d),
    "mlp.c_fc.bias": lambda d: (4 * d,),
    "mlp.c_proj.weight": lambda d: (d, 4 * d),
    "mlp.c_proj.bias": lambda d: (d,),
    "ln_2.weight": lambda d: (d,),
    "ln_2.bias": lambda d: (d,),
}


def grid(shape, k: float, scale: float) -> np.ndarray:
    """Returns G(shape, k, s) of SPEC 17: s sin(0.7 j + k), row-major."""
    j = np.arange(np.prod(shape, dtype=int))
    return (scale * np.sin(0.7 * j + k)).reshape(shape).astype(np.float32)


def block(prefix: str, width: int = 8) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of a transformer's first block, in the order of filling."""
    return {f"{prefix}.resblocks.0.{name}": shape(width) for name, shape in BLOCK.items()}


def fill(shapes: dict[str, tuple[int, ...]], first: float) -> dict[str, np.ndarray]:
    """Returns fill(first) of SPEC 17 as a state dict; norms' weights stand around one."""
    values = {}
    for i, (name, shape) in enumerate(shapes.items()):
        norm = ".ln_" in name and name.endswith("weight")
        values[name] = grid(shape, first + 0.5 * i, 0.3) + np.float32(norm)
    return values
