"""The pictures of `shapes`: what a clip is said to show can be measured in its pixels."""

import numpy as np
import pytest

from xclip_jax.data import scenes


def test_drawn_clips_show_what_is_said():
    """Compares the coloured pixels where the shape is first and last to be seen."""
    for actions in scenes.action_sequences():
        size = scenes.sizes(actions)[-1]
        scene = scenes.Scene("red", "square", size, scenes.places(actions)[-1], actions)
        frames = scenes.draw(scene, np.random.default_rng(5)).astype(float)
        redness = np.clip(frames[..., 0] - frames[..., 1] - 40, 0, None)
        first, middle, last = redness[0], redness[14], redness[-1]
        rows, columns = np.mgrid[:64, :64]

        def centre(weights, grid):
            return (weights * grid).sum() / weights.sum()

        begin, end = first, last  # none are coloured while the shape is invisible
        if "appears" in actions:
            assert first.sum() == 0
            assert last.sum() > 0
            begin = middle if len(actions) == 2 else last
        if "vanishes" in actions:
            assert first.sum() > 0
            assert last.sum() == 0
            end = middle if len(actions) == 2 else first
        right = centre(end, columns) - centre(begin, columns)
        down = centre(end, rows) - centre(begin, rows)
        travel = 33 if len(actions) == 1 else 28
        assert right == pytest.approx(travel * (("right" in actions) - ("left" in actions)), abs=4)
        assert down == pytest.approx(travel * (("down" in actions) - ("up" in actions)), abs=4)
        area = (end > 60).sum() / (begin > 60).sum()
        if "grows" in actions:
            assert area > 3
        elif "shrinks" in actions:
            assert area < 1 / 3
        else:
            assert area == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("action, sign", [("clockwise", 1), ("counterclockwise", -1)])
def test_hand_turns_the_way_it_is_said(action, sign):
    scene = scenes.Scene("yellow", "circle", "large", "left", (action,))

    frames = scenes.draw(scene, np.random.default_rng(0)).astype(float)

    rows, columns = np.mgrid[:64, :64]
    angles = []
    for frame in frames:
        disc = frame[..., 0] - frame[..., 2] > 80
        y = (rows[disc].min() + rows[disc].max()) / 2
        x = (columns[disc].min() + columns[disc].max()) / 2
        near = (rows - y) ** 2 + (columns - x) ** 2 < 100
        hand = near & (frame[..., 0] < 60)
        angles.append(np.arctan2(columns[hand].mean() - x, y - rows[hand].mean()))
    turned = np.degrees(np.unwrap(angles)[-1] - angles[0])
    # The middle of the hand is six pixels from the centre, where one pixel is ten degrees.
    assert turned == pytest.approx(sign * 120, abs=10)


@pytest.mark.parametrize(
    "place, axis, sign", [("left", 1, -1), ("right", 1, 1), ("top", 0, -1), ("bottom", 0, 1)]
)
def test_shape_is_at_the_place_that_is_said_throughout(place, axis, sign):
    for seed in range(8):
        moves = ("up", "down") if axis else ("left", "right")
        scene = scenes.Scene("blue", "triangle", "small", place, (moves[seed % 2], "vanishes"))

        frames = scenes.draw(scene, np.random.default_rng(seed)).astype(float)

        for frame in frames[:20]:  # later ones fade
            where = np.argwhere(frame[..., 2] - frame[..., 0] > 60).mean(axis=0)
            assert sign * (where[axis] - 31.5) > 3


def test_forms_are_of_like_area_and_the_sizes_far_apart():
    areas = {}
    for form in scenes.FORMS:
        for size in scenes.SIZES:
            scene = scenes.Scene("green", form, size, "top", ("appears",))
            last = scenes.draw(scene, np.random.default_rng(1))[-1].astype(int)
            areas[form, size] = (last[..., 1] - last[..., 0] > 40).sum()
    small = [areas[form, "small"] for form in scenes.FORMS]
    large = [areas[form, "large"] for form in scenes.FORMS]

    assert max(small) < 1.3 * min(small)
    assert min(large) > 1.8 * max(small)
