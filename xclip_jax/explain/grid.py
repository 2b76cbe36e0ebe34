"""An explanation as a grid to be shown: words in rows, frames in columns, padding in one of each.

The text as a whole stands above its words, the video as a whole before its frames, so that
video-word, sentence-frame and frame-word are the blocks of one grid.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from xclip_jax.explain.breakdown import Explanation
from xclip_jax.tokenizer import END, START

NAMES = {
    "video_sentence": "video-sentence",
    "video_word": "video-word",
    "sentence_frame": "sentence-frame",
    "frame_word": "frame-word",
    "centers": "centers",
}

NOTE = "A word stands for the text up to it: CLIP reads from left to right."
LETTERS = 300  # of the text in a heading
VISIBLE = 0.005  # attention below this is drawn as none
MARKERS = {START: "[start]", END: "[end]"}
_REST = slice(1, None)
_BLOCKS = {
    "video_word": (_REST, 0),
    "sentence_frame": (0, _REST),
    "frame_word": (_REST, _REST),
}


class Pair(NamedTuple):
    """What a text and a video look like: `words` are the text's tokens, `times` in seconds."""

    text: str
    name: str
    words: list[str]
    frames: list[Image.Image]
    times: np.ndarray


class Grid(NamedTuple):
    """Values of rows x columns, NaN where there is none: in the corner, and in an ablation.

    Padding has the last row and the last column of `attention`, the sum of what all of it gets, if
    that is anything; `similarity` is without.
    """

    rows: list[str]
    columns: list[str]
    similarity: np.ndarray
    attention: np.ndarray


def grid(explanation: Explanation, pair: Pair) -> Grid | None:
    """Returns the grid of words and frames, None where the model compares neither."""
    parts = {name: part for name, part in explanation.parts.items() if name in _BLOCKS}
    if not parts:
        return None
    shape = [1 + len(pair.words), 1 + len(pair.frames)]
    for name, part in parts.items():  # with padding, where words or frames are compared
        axes = [axis for axis in (0, 1) if isinstance(_BLOCKS[name][axis], slice)]
        for axis, size in zip(axes, part.attention.shape, strict=True):
            shape[axis] = 1 + size
    similarity, attention = np.full(shape, np.nan), np.full(shape, np.nan)
    for name, part in parts.items():
        similarity[_BLOCKS[name]], attention[_BLOCKS[name]] = part.similarities, part.attention
    rows = ["whole text", *(MARKERS.get(word, word) for word in pair.words)]
    columns = ["whole video", *(f"{time:.1f} s" for time in pair.times)]
    similarity = similarity[: len(rows), : len(columns)]
    for axis, labels in enumerate((rows, columns)):
        own, padding = np.split(attention, [len(labels)], axis)
        if np.abs(np.nan_to_num(padding)).sum() < VISIBLE:
            attention = own
            continue
        known = ~np.isnan(padding).all(axis, keepdims=True)
        total = np.where(known, np.nansum(padding, axis, keepdims=True), np.nan)
        attention = np.concatenate([own, total], axis)
        labels.append(f"padding, {padding.shape[axis]}")
    return Grid(rows, columns, similarity, attention)


def heading(pair: Pair) -> str:
    """Returns which text and which video it is, in one line; what is very long is cut."""
    text, name = (
        words if len(words) <= most else words[: most - 4] + " ..."
        for words, most in ((" ".join(pair.text.split()), LETTERS), (pair.name, LETTERS // 3))
    )
    return f"“{text}” in {name}"


def headline(explanation: Explanation) -> str:
    """Returns in a line how the parts make the score."""
    parts = list(explanation.parts.values())
    if not parts:
        return f"score {explanation.score:.2f}"
    total = sum(part.weight * part.similarity for part in parts)
    even = len({part.weight for part in parts}) == 1
    of = "the only part" if len(parts) == 1 else f"the {'mean' if even else 'weighted sum'} of"
    of += "" if len(parts) == 1 else f" {len(parts)} parts"
    return (
        f"score {explanation.score:.2f} = {explanation.scale:.2f} (logit scale) × {total:.3f}, {of}"
    )


def bars(explanation: Explanation) -> list[tuple[str, float, str]]:
    """Returns for each part its name, its points of the score, and where they come from."""
    return [
        (
            NAMES[name],
            explanation.points()[name],
            f"similarity {part.similarity:.3f} × weight {part.weight:.3g}",
        )
        for name, part in explanation.parts.items()
    ]
