"""What happens in a clip of the data set `shapes`, and how it looks.

A scene is one coloured shape that does one thing for the whole clip, or two things one after the
other. Played backwards it is another scene, its twin: every effect changes its sign and the phases
change places. A model that does not see the order of the frames cannot tell the two apart.
"""

import itertools
from typing import NamedTuple

import numpy as np

FRAMES = (
    29  # 7 * FPS + 1: at one frame a second 0, 4, ... 28 are sampled, the twin's own in reverse
)
FPS = 4
SIDE = 64  # pixels

COLOURS = {
    "red": (225, 50, 45),
    "green": (40, 195, 70),
    "blue": (65, 110, 245),
    "yellow": (240, 210, 50),
}
FORMS = ("square", "circle", "triangle")
SIZES = {"small": 14.0, "large": 22.0}  # side of the square; the other forms have a like area
SHRUNK, GROWN = 11.0, 26.0
TRAVEL = {1: 33.0, 2: 28.0}  # pixels in one phase, by the number of phases
TURN = {1: 120.0, 2: 90.0}  # degrees likewise; half of it on either side of upright
PLACES = {"left": (0, 0), "right": (0, 1), "top": (1, 0), "bottom": (1, 1)}  # axis, end of it

# What an action adds in the course of its phase: right, down, clockwise, size, visibility.
EFFECTS = {
    "left": (-1, 0, 0, 0, 0),
    "right": (1, 0, 0, 0, 0),
    "up": (0, -1, 0, 0, 0),
    "down": (0, 1, 0, 0, 0),
    "clockwise": (0, 0, 1, 0, 0),
    "counterclockwise": (0, 0, -1, 0, 0),
    "grows": (0, 0, 0, 1, 0),
    "shrinks": (0, 0, 0, -1, 0),
    "appears": (0, 0, 0, 0, 1),
    "vanishes": (0, 0, 0, 0, -1),
}


class Scene(NamedTuple):
    """A shape and its one or two actions; the size or the place is "" where it changes."""

    colour: str
    form: str
    size: str
    place: str
    actions: tuple[str, ...]


def inverse(action: str) -> str:
    """Returns what the action looks like when it is played backwards."""
    backwards = tuple(-effect for effect in EFFECTS[action])
    return next(name for name, effect in EFFECTS.items() if effect == backwards)


def twin(scene: Scene) -> Scene:
    """Returns the scene seen when the clip is played backwards."""
    return scene._replace(actions=tuple(inverse(action) for action in reversed(scene.actions)))


def action_sequences() -> list[tuple[str, ...]]:
    """Returns all that a shape can do: every action alone and every consistent pair.

    Nothing is done twice or undone, so that no clip is its own twin, and nothing is done unseen.
    """
    singles = [(action,) for action in EFFECTS]
    pairs = [
        (first, second)
        for first, second in itertools.product(EFFECTS, repeat=2)
        if second not in (first, inverse(first)) and first != "vanishes" and second != "appears"
    ]
    return singles + pairs


def sizes(actions: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the sizes a shape with these actions can be said to have."""
    return ("",) if {"grows", "shrinks"} & set(actions) else tuple(SIZES)


def places(actions: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the places a shape with these actions can be said to be at throughout."""
    moved = np.any([EFFECTS[action][:2] for action in actions], axis=0)
    return tuple(place for place, (axis, _) in PLACES.items() if not moved[axis]) or ("",)


def track(actions: tuple[str, ...], times: np.ndarray) -> np.ndarray:
    """Returns [times, 5]: right, down and clockwise from the start; size, visibility from 0 to 1.

    `times` run from 0 to 1; the phases share them equally.
    """
    start = (0, 0, 0, "shrinks" in actions, "appears" not in actions)
    states = np.tile(np.array(start, float), (len(times), 1))
    for phase, action in enumerate(actions):
        progress = np.clip(times * len(actions) - phase, 0, 1)
        states += progress[:, None] * EFFECTS[action]
    travel, turn = TRAVEL[len(actions)], TURN[len(actions)]
    return states * (travel, travel, turn, 1, 1)


def sampled_bag(scene: Scene) -> tuple:
    """Returns the sampled frames of a scene as one who is blind to their order sees them.

    Where the shape started is unknown, and so is everything about it while it is invisible.
    """
    states = track(scene.actions, np.arange(0, FRAMES, FPS) / (FRAMES - 1))
    states[:, :3] -= states[:, :3].min(axis=0)
    states[states[:, 4] == 0] = 0
    frames = sorted(map(tuple, states.round(6).tolist()))
    return (scene.colour, scene.form, scene.size, scene.place, *frames)


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Returns the clip, uint8 [FRAMES, SIDE, SIDE, 3]; what is not said is random."""
    states = track(scene.actions, np.linspace(0, 1, FRAMES))
    fixed = SIZES.get(scene.size, SHRUNK) * rng.uniform(0.95, 1.05)
    side = SHRUNK + (GROWN - SHRUNK) * states[:, 3] if scene.size == "" else np.full(FRAMES, fixed)
    centre = states[:, :2] + _start(scene.place, states[:, :2], 0.66 * side.max(), rng)
    upright = (states[:, 2].min() + states[:, 2].max()) / 2
    angle = np.radians(states[:, 2] - upright + rng.uniform(-10, 10))

    still = _background(rng)
    shape, hand = _coverage(scene.form, centre, side, angle)
    colour = np.array(COLOURS[scene.colour], np.float32) * np.float32(rng.uniform(0.9, 1.05))
    opacity = shape * states[:, 4, None, None].astype(np.float32)
    paint = colour + hand[..., None] * (np.float32(15) - colour)
    frames = still + opacity[..., None] * (paint - still)
    frames += 3 * rng.standard_normal((FRAMES, SIDE, SIDE, 1), dtype=np.float32)
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)


def _start(place: str, way: np.ndarray, margin: float, rng: np.random.Generator) -> np.ndarray:
    """Returns a random start [2] from which the way [FRAMES, 2] stays in the picture and place."""
    low, high = margin - way.min(axis=0), SIDE - margin - way.max(axis=0)
    if place:
        axis, end = PLACES[place]
        share = 0.35 * (high[axis] - low[axis])  # of what is free; the middle belongs to no place
        if end:
            low[axis] = high[axis] - share
        else:
            high[axis] = low[axis] + share
    return rng.uniform(low, high)


def _background(rng: np.random.Generator) -> np.ndarray:
    """Returns a grey picture [SIDE, SIDE, 3] with up to two small distractors, darker or paler.

    Medium grey is close to zero once pixels are normalised: what is not background stands out.
    """
    grey = rng.uniform(105, 125)
    picture = np.full((SIDE, SIDE, 3), grey, np.float32)
    for _ in range(rng.integers(3)):
        form = str(rng.choice(FORMS))
        centre, side = rng.uniform(4, SIDE - 4, (1, 2)), rng.uniform(4, 6, 1)
        shape, _hand = _coverage(form, centre, side, rng.uniform(0, 2 * np.pi, 1))
        picture += shape[0, ..., None] * (grey + rng.choice((-45, 45)) - picture)
    return picture


def _coverage(form, centre, side, angle) -> tuple[np.ndarray, np.ndarray]:
    """Returns how much of each pixel the form and the hand on it cover, [frames, SIDE, SIDE] each.

    The hand, a dark bar from the middle upwards, is what shows that a circle turns.
    """
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32) + np.float32(0.5)
    centre, side, angle = (x.astype(np.float32) for x in (centre, side, angle))
    side, cosine, sine = (x[:, None, None] for x in (side, np.cos(angle), np.sin(angle)))
    right = columns - centre[:, 0, None, None]
    down = rows - centre[:, 1, None, None]
    # The pixel in the upright form's own coordinates: a turn of the form clockwise, undone.
    x = cosine * right + sine * down
    y = cosine * down - sine * right
    if form == "square":
        outside = np.maximum(abs(x), abs(y)) - 0.5 * side
    elif form == "circle":
        outside = np.sqrt(x * x + y * y) - 0.56 * side
    else:
        slope = np.float32(np.sqrt(3) / 2) * abs(x) - 0.5 * y
        outside = np.maximum(slope, y) - 0.4 * side
    off_hand = np.maximum(abs(x) - 0.15 * side, abs(y + 0.25 * side) - 0.25 * side)
    return tuple(np.clip(0.5 - distance, 0, 1) for distance in (outside, off_hand))
