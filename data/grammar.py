"""English for the scenes of `shapes`: captions with synonyms, and the vocabulary to read them.

A caption says all that is so of a scene: colour, form, size and place where they do not change,
and the actions in their order. Only the words vary.
"""

import itertools

import numpy as np

from xclip_jax.data.scenes import Scene

MOVES = ("moves", "slides", "glides", "drifts", "goes")
TURNS = ("turns", "rotates", "spins")

SYNONYMS = {
    "red": ("red", "crimson"),
    "green": ("green",),
    "blue": ("blue",),
    "yellow": ("yellow", "golden"),
    "square": ("square", "box"),
    "circle": ("circle", "disc"),
    "triangle": ("triangle", "wedge"),
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "left": (*(f"{verb} left" for verb in MOVES), "moves leftwards"),
    "right": (*(f"{verb} right" for verb in MOVES), "moves rightwards"),
    "up": (*(f"{verb} up" for verb in MOVES), "moves upwards", "rises"),
    "down": (*(f"{verb} down" for verb in MOVES), "moves downwards", "sinks"),
    "clockwise": tuple(f"{verb} clockwise" for verb in TURNS),
    "counterclockwise": (
        *(f"{verb} counterclockwise" for verb in TURNS),
        "turns anticlockwise",
    ),
    "grows": ("grows", "expands", "gets bigger", "becomes larger"),
    "shrinks": ("shrinks", "contracts", "gets smaller", "becomes smaller"),
    "appears": ("appears", "emerges", "fades in"),
    "vanishes": ("vanishes", "disappears", "fades out", "fades away"),
}
PLACES = {
    "": "",
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
}
ARTICLES = ("a", "the", "one")
ONE_ACTION = ("{thing} {0}", "{thing} that {0}", "here {thing} {0}")
TWO_ACTIONS = (
    "{thing} {0}, then {1}",
    "{thing} {0} and then {1}",
    "{thing} first {0}, then {1}",
    "{thing} {0} before it {1}",
)


def captions(scene: Scene, rng: np.random.Generator, *, count: int) -> list[str]:
    """Returns `count` different captions of the scene."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[_caption(scene, rng)] = None
    return list(found)


def _caption(scene: Scene, rng: np.random.Generator) -> str:
    adjectives = [scene.size, scene.colour] if scene.size else [scene.colour]
    words = [_pick(SYNONYMS[word], rng) for word in (*adjectives, scene.form)]
    thing = " ".join([_pick(ARTICLES, rng), *words, PLACES[scene.place]]).strip()
    actions = [_pick(SYNONYMS[action], rng) for action in scene.actions]
    template = _pick(ONE_ACTION if len(actions) == 1 else TWO_ACTIONS, rng)
    return template.format(*actions, thing=thing)


def _pick(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return choices[rng.integers(len(choices))]


def words() -> list[str]:
    """Returns every word a caption can hold, sorted."""
    phrases = [
        *ARTICLES,
        *PLACES.values(),
        *(phrase for choices in SYNONYMS.values() for phrase in choices),
    ]
    phrases += [template.format("", "", thing="") for template in ONE_ACTION + TWO_ACTIONS]
    return sorted(set(" ".join(phrases).replace(",", " ").split()))


def tokens(caption: str) -> int:
    """Returns how many tokens the caption has, the two special ones included."""
    return len(caption.replace(",", " ,").split()) + 2


def merges() -> list[tuple[str, str]]:
    """Returns byte-pair merges in CLIP's format that make each word of the grammar one token.

    A word is merged by the rules there are so far, then a rule is added for each seam left. Rules
    added later rank lower, so they cannot undo an earlier word.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in words():
        pieces = _merge([*word[:-1], word[-1] + "</w>"], ranks)
        while len(pieces) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
            pieces = _merge(pieces, ranks)
    return list(ranks)


def _merge(pieces: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Returns the pieces after all merges there are rules for, the lowest rank first."""
    while known := [pair for pair in itertools.pairwise(pieces) if pair in ranks]:
        first, second = min(known, key=ranks.__getitem__)
        merged: list[str] = []
        for piece in pieces:
            if merged and (merged[-1], piece) == (first, second):
                merged[-1] += piece
            else:
                merged.append(piece)
        pieces = merged
    return pieces
