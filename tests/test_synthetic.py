"""The data set `shapes`: twins, the split, determinism, vocabulary and the reported ceilings."""

import json
import re

import av
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from xclip_jax.data import grammar, scenes, synthetic

# Written by hand, apart from the tables of the code: what a word says, and its opposite.
MEANING = {
    "left": "left leftwards",
    "right": "right rightwards",
    "up": "up upwards rises",
    "down": "down downwards sinks",
    "clockwise": "clockwise",
    "counterclockwise": "counterclockwise anticlockwise",
    "grows": "grows expands bigger larger",
    "shrinks": "shrinks contracts smaller",
    "appears": "appears emerges in",
    "vanishes": "vanishes disappears out away",
    "red": "red crimson",
    "green": "green",
    "blue": "blue",
    "yellow": "yellow golden",
    "square": "square box",
    "circle": "circle disc",
    "triangle": "triangle wedge",
    "small": "small little tiny",
    "large": "large big huge",
}
OPPOSITE = dict(
    left="right",
    up="down",
    clockwise="counterclockwise",
    grows="shrinks",
    appears="vanishes",
)
OPPOSITE |= {after: before for before, after in OPPOSITE.items()}


def understand(caption):
    """Returns the colour, form, size and place, and the actions that a caption speaks of."""
    place = re.findall(r" (?:on|at) the (left|right|top|bottom) ", caption)
    caption = re.sub(r" (?:on|at) the (?:left|right|top|bottom) ", " ", caption)
    said = {word: meaning for meaning, words in MEANING.items() for word in words.split()}
    meanings = [said[word] for word in re.findall(r"\w+", caption) if word in said]
    return {m for m in meanings if m not in OPPOSITE} | set(place), [
        m for m in meanings if m in OPPOSITE
    ]


def decode(path):
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    facts = synthetic.render(folder, train_clips=8, test_clips=5, seed=3, workers=1)
    entries = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    return folder, facts, {entry["id"]: entry for entry in entries}


def test_twin_decodes_to_the_same_pixels_in_reverse(rendered):
    folder, _, entries = rendered

    for name in ("test-00000", "test-00004", "train-00003"):
        clip = decode(folder / entries[name]["video"])
        twin = decode(folder / entries[f"{name}-twin"]["video"])

        assert clip.shape == (29, 64, 64, 3)
        np.testing.assert_array_equal(clip, twin[::-1])
        # One frame a second, from the first on: eight, and the twin's are the same eight.
        np.testing.assert_array_equal(clip[::4], twin[::4][::-1])
        assert len(clip[::4]) == 8


def test_twin_captions_say_the_opposite_in_the_opposite_order():
    for clip in synthetic.plan(300, 40, seed=1):
        scene = clip.scene
        for seed in range(3):
            rng = np.random.default_rng(seed)
            (caption,) = grammar.captions(scene, rng, count=1)
            (backwards,) = grammar.captions(scenes.twin(scene), rng, count=1)
            thing, actions = understand(caption)
            twin_thing, twin_actions = understand(backwards)

            assert thing == {scene.colour, scene.form, scene.size, scene.place} - {""}
            assert tuple(actions) == scene.actions
            assert twin_thing == thing
            assert twin_actions == [OPPOSITE[action] for action in reversed(actions)]
            assert twin_actions != actions


def test_test_scenes_and_their_twins_are_never_trained_on():
    def kinds(split, clips):
        all_scenes = [clip.scene for clip in clips if clip.split == split]
        return {
            (s.colour, s.form, s.actions) for s in all_scenes + [scenes.twin(s) for s in all_scenes]
        }

    clips = synthetic.plan(4000, 100, seed=0)

    assert len(kinds("test", clips)) == 200  # 100 and their twins, all different
    assert not kinds("test", clips) & kinds("train", clips)
    assert len(kinds("train", clips)) == len(scenes.action_sequences()) * 12 - 200


def test_splits_have_the_sizes_asked_for_and_twins_follow_the_order_of_the_test(rendered):
    folder, facts, entries = rendered

    ids = {
        split: [i for i, e in entries.items() if e["split"] == split]
        for split in ("train", "test", "twins")
    }

    assert {split: len(names) for split, names in ids.items()} == {
        "train": 8,
        "test": 5,
        "twins": 5,
    }
    assert ids["twins"] == [f"{name}-twin" for name in ids["test"]]
    assert all(len(set(entry["captions"])) == 5 for entry in entries.values())
    assert len(list((folder / "videos").iterdir())) == 18
    assert json.loads((folder / "facts.json").read_text()) == facts


def test_bytes_depend_on_the_seed_alone(rendered, tmp_path):
    folder, _, _ = rendered

    def contents(folder):
        return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    synthetic.render(tmp_path / "parallel", train_clips=8, test_clips=5, seed=3, workers=2)
    synthetic.render(tmp_path / "other", train_clips=8, test_clips=5, seed=4, workers=1)

    assert contents(tmp_path / "parallel") == contents(folder)
    other = contents(tmp_path / "other")
    assert not set(other.values()) & set(
        data for path, data in contents(folder).items() if path.suffix == ".mp4"
    )


def test_broken_run_is_resumed_without_touching_whole_videos(rendered, tmp_path):
    folder, _, _ = rendered
    synthetic.render(tmp_path, train_clips=8, test_clips=5, seed=3, workers=1)
    kept, lost = tmp_path / "videos/test-00001.mp4", tmp_path / "videos/test-00002-twin.mp4"
    lost.unlink()
    before = kept.stat().st_mtime_ns

    synthetic.render(tmp_path, train_clips=8, test_clips=5, seed=3, workers=1)

    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == (folder / "videos/test-00002-twin.mp4").read_bytes()


def test_folder_of_another_rendering_is_refused(rendered):
    folder, _, _ = rendered

    with pytest.raises(ValueError, match="another rendering"):
        synthetic.render(folder, train_clips=8, test_clips=5, seed=4)


@pytest.mark.parametrize("train_clips, test_clips", [(7, 5), (0, 5), (8, 0)])
def test_sizes_that_cannot_be_are_refused(tmp_path, train_clips, test_clips):
    with pytest.raises(ValueError, match="even train_clips"):
        synthetic.render(tmp_path, train_clips=train_clips, test_clips=test_clips)


def test_every_word_is_one_token_of_the_vocabulary_file(rendered):
    folder, facts, entries = rendered
    header, *lines = (folder / "merges.txt").read_text().splitlines()
    merges = [tuple(line.split(" ")) for line in lines]
    printable = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256))]
    alphabet = printable + [chr(256 + i) for i in range(68)]
    tokens = alphabet + [c + "</w>" for c in alphabet] + ["".join(pair) for pair in merges]
    model = models.BPE({t: i for i, t in enumerate(tokens)}, merges, end_of_word_suffix="</w>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()

    lengths = []
    for entry in entries.values():
        for caption in entry["captions"]:
            expected = [word + "</w>" for word in re.findall(r"\w+|,", caption)]
            assert tokenizer.encode(caption).tokens == expected
            lengths.append(len(expected) + 2)
    assert header.startswith("#version")
    assert len(set(tokens)) == len(tokens) == facts["vocabulary"] - 2
    assert max(lengths) == facts["longest_caption_tokens"]
    for word in grammar.words():
        assert tokenizer.encode(word).tokens == [word + "</w>"]


@pytest.mark.parametrize("test_clips", [100, 300])
def test_ceilings_are_those_of_models_that_guess_among_what_they_cannot_tell_apart(test_clips):
    """Simulates both models; 300 test clips are more than there are scenes held out."""
    clips = synthetic.plan(600, test_clips, seed=2)
    facts = synthetic.facts_of(clips)
    test = [clip.scene for clip in clips if clip.split == "test"]
    gallery = test + [scenes.twin(scene) for scene in test]
    rng = np.random.default_rng(0)

    def frames(scene):
        """Where the shape is at the sampled times, from its middle, as a bag."""
        states = scenes.track(scene.actions, np.arange(8) / 7)
        states[:, :3] -= (states[:, :3].max(0) + states[:, :3].min(0)) / 2
        return sorted(tuple(np.round(s, 3) + 0.0) if s[4] else () for s in states)

    def same_bag(a, b):
        return a[:4] == b[:4] and frames(a) == frames(b)

    for name, same in (("order_blind", same_bag), ("perfect", tuple.__eq__)):
        alike = np.array([[same(a, b) for b in gallery] for a in test])
        tries = alike + 0.5 * rng.random((100, *alike.shape))
        hits = tries[..., :test_clips].argmax(-1) == np.arange(test_clips)
        hits_with_twins = tries.argmax(-1) == np.arange(test_clips)
        own = np.arange(test_clips)
        twins = tries[:, own, own] > tries[:, own, own + test_clips]

        # Three standard errors of 100 tries of at least 100 fair coins: 1.5 percent.
        assert facts["t2v/r1"][name] == pytest.approx(100 * hits.mean(), abs=1.5)
        assert facts["t2v/r1_with_twins"][name] == pytest.approx(
            100 * hits_with_twins.mean(), abs=1.5
        )
        assert facts["twin_accuracy"][name] == pytest.approx(twins.mean(), abs=0.015)
    assert facts["t2v/r1"]["chance"] == pytest.approx(100 / test_clips)
    assert facts["twin_accuracy"]["order_blind"] == 0.5


def test_sample_queries_name_clips_of_the_test(rendered):
    folder, _, entries = rendered

    queries = synthetic.queries(folder, count=4)

    assert len({name for _, name in queries}) == 4
    for text, name in queries:
        assert entries[name]["split"] == "test"
        assert text == entries[name]["captions"][0]
