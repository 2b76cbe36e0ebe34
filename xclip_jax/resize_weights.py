"""Fits weights to a model of other sizes: image, patch, text length, and X-CLIP's words and frames.

Only what is asked for by name is changed, everything else must have the model's shape. Pure NumPy
on a nested dict of parameters (of a whole model, or of its CLIP alone).
"""

import re
from collections.abc import Collection, Mapping

import numpy as np

KEPT_POSITIONS = 20  # of a text's; Long-CLIP (arXiv 2403.15378, 3.1) finds those well trained
MAX_TEXT = 248  # Long-CLIP's; further stretching is untried

OPTIONS = ("image_size", "patch_size", "context_length", "max_words", "max_frames")


def fit(params: Mapping, model: Mapping, *, allow: Collection[str], source: str) -> dict:
    """Returns `params` in the shapes of `model`, a tree like it of whatever has a `shape`.

    Args:
      params: a leaf may be None, for what the weights say nothing about; it stays None.
      allow: which sizes, some of OPTIONS, may differ from those the weights were trained at.
      source: where the weights come from, for the message.

    Raises:
      ValueError: naming each difference, and the option that allows it where there is one.
    """
    if unknown := sorted(set(allow) - set(OPTIONS)):
        raise ValueError(f"resize={','.join(unknown)} is unknown: expected some of {OPTIONS}.")
    old, new = _flatten(params), _flatten(model)
    differing = {name for name in old.keys() & new.keys() if _differ(old[name], new[name])}
    new_patch = any(name.endswith(("visual/conv1/kernel", "visual/conv2")) for name in differing)
    problems, fitted = [], {}
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            problems.append(f"{name} is only in the {'weights' if name in old else 'model'}")
            continue
        if name not in differing:
            fitted[name] = old[name]
            continue
        given, wanted = tuple(old[name].shape), tuple(new[name].shape)
        said = f"{name} is {given} in the weights, {wanted} in the model"
        option, resize, size = _rule(name, given, wanted)
        if option == "image_size" and new_patch:
            option = "patch_size"  # another patch brings another grid, also of the same image
        if option is None:
            problems.append(f"{said}, which no option changes")
        elif option not in allow:
            problems.append(f"{said}: add {option} to config.init.resize")
        else:
            try:
                fitted[name] = resize(np.asarray(old[name]), size)
            except ValueError as error:
                problems.append(f"{said}: {error}")
    if problems:
        shown = "\n  ".join(problems[:10])
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(f"{source} does not fit the model:\n  {shown}{more}")
    return _nest(fitted)


def image_positions(table: np.ndarray, tokens: int) -> np.ndarray:
    """Returns a [1 + g*g, D] table for another grid: bicubic, the class token's as it is."""
    old, new = _side(len(table) - 1), _side(tokens - 1)
    grid = table[1:].reshape(old, old, -1).astype(np.float64)
    matrix = bicubic(old, new)
    grid = np.einsum("ai,bj,ijd->abd", matrix, matrix, grid).reshape(new * new, -1)
    return np.concatenate([table[:1], grid]).astype(table.dtype)


def text_positions(table: np.ndarray, length: int) -> np.ndarray:
    """Returns a [W, D] table of another length: the first rows where it is shorter.

    A longer one keeps the first 20 positions and stretches the others linearly, going on beyond
    the last, as Long-CLIP does: for 77 -> 248, by four.
    """
    if length <= len(table):
        return table[:length]
    kept = KEPT_POSITIONS
    if length > MAX_TEXT or len(table) < kept + 2:
        raise ValueError(f"texts are stretched from {kept + 2} or more to at most {MAX_TEXT}")
    stretch = (len(table) - kept) / (length - kept)
    at = kept + np.arange(length - kept) * stretch
    left = np.minimum(at.astype(int), len(table) - 2)
    share = (at - left)[:, None]  # above 1 beyond the last position
    wide = table.astype(np.float64)
    stretched = (1 - share) * wide[left] + share * wide[left + 1]
    return np.concatenate([table[:kept], stretched]).astype(table.dtype)


def frame_positions(table: np.ndarray, length: int) -> np.ndarray:
    """Returns a [P, D] table of another length: trained rows stay what they are.

    Rows beyond the last repeat it. A model has as many as its text has positions, and reads those
    of its frames alone.
    """
    at = np.minimum(np.arange(length), len(table) - 1)
    return table[at]


def patches(kernel: np.ndarray, values: int) -> np.ndarray:
    """Returns a [..., p*p*3, D] patch embedding for patches of other size, by FlexiViT's PI-resize.

    A larger patch then gives for an enlarged image exactly what the old one gave for the image; a
    smaller one comes as close as it can (arXiv 2212.08013, 3.4).
    """
    old, new = _side(kernel.shape[-2] // 3), _side(values // 3)
    *depth, _, width = kernel.shape
    enlarge = np.kron(bicubic(old, new), bicubic(old, new))  # [new*new, old*old]
    planes = kernel.reshape(*depth, old * old, 3 * width).astype(np.float64)
    planes = np.linalg.pinv(enlarge.T) @ planes
    return planes.reshape(*depth, values, width).astype(kernel.dtype)


def mixing(matrix: np.ndarray, size: int) -> np.ndarray:
    """Returns a matrix of another size: cut, or with the identity it started from in what is new.

    With it each new word or frame starts weighted by itself alone, as all did before training.
    """
    grown = np.eye(size, dtype=matrix.dtype)
    same = min(size, len(matrix))
    grown[:same, :same] = matrix[:same, :same]
    return grown


def bicubic(old: int, new: int) -> np.ndarray:
    """Returns the [new, old] matrix of a bicubic resize with antialiasing, as Pillow has it."""
    scale = max(old / new, 1.0)
    centers = (np.arange(new) + 0.5) * old / new
    x = np.abs(np.arange(old) + 0.5 - centers[:, None]) / scale
    near = 1.5 * x**3 - 2.5 * x**2 + 1  # Keys' kernel with a = -1/2
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(1, keepdims=True)


# (path, option, how to resize, which axis is its size; the other axes must agree)
_RULES = [
    (r"visual/(conv1/kernel|conv2)", "patch_size", patches, -2),
    (r"visual/positional_embedding", "image_size", image_positions, 0),
    (r"text/positional_embedding", "context_length", text_positions, 0),
    (r"(frame_)?position_embeddings", "context_length", frame_positions, 0),
    (r"word_(logit|mat)_weight2?", "max_words", mixing, 0),
    (r"frame_(logit|mat)_weight2?", "max_frames", mixing, 0),
]


def _rule(name: str, given: tuple[int, ...], wanted: tuple[int, ...]):
    """Returns (option, function, new size) for a parameter, or Nones where there is no rule."""
    for pattern, option, resize, axis in _RULES:
        if re.search(rf"(^|/){pattern}$", name):
            size = wanted[axis]
            expected = list(given)
            expected[axis] = size
            if resize is mixing:
                expected = [size, size]
            if tuple(expected) == wanted:
                return option, resize, size
    return None, None, None


def _side(area: int) -> int:
    side = round(area**0.5)
    if side * side != area:
        raise ValueError(f"{area} positions or pixels are no square")
    return side


def _differ(given, wanted) -> bool:
    return given is not None and tuple(given.shape) != tuple(wanted.shape)


def _flatten(tree: Mapping, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}/{key}" if prefix else key
        flat |= _flatten(value, name) if isinstance(value, Mapping) else {name: value}
    return flat


def _nest(flat: Mapping) -> dict:
    tree: dict = {}
    for name, value in flat.items():
        *parents, last = name.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = value
    return tree
