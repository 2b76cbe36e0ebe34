"""The library: what `xclip_jax.load` gives scores as evaluation does, from clips in any form."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import rendered
from PIL import Image

import xclip_jax
from xclip_jax import evaluate, frames, metrics, scoring, video
from xclip_jax.records import Shards

# Batches of another size are other matrix products: float32 features of unit length.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model(run):
    return xclip_jax.load(run)


@pytest.fixture(scope="module")
def clips(shapes) -> list[Path]:
    return [shapes / "rendered" / "videos" / f"test-{i:05d}.mp4" for i in range(5)]


def frames_of(path) -> np.ndarray:
    """Returns the sampled frames of a clip as the model's shards would hold them."""
    return np.stack([np.asarray(image) for image in video.read(path, short_side=64)[0]])


def assert_same(one, other):
    for x, y in zip(one, other, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=TOLERANCE)


def test_scores_are_those_of_evaluation(model, shapes):
    shards = Shards(shapes / "shards", "test")
    trained, encoders = model.trained, evaluate.make_encoders(model.trained.graphdef)
    options = {"batch_size": 8, "progress": False}
    captions, features = evaluate.encode_split(
        encoders, trained.params, shards, trained.intake, **options
    )
    text = evaluate.encode_texts(
        encoders, trained.params, trained.tokenizer, captions, max_words=16, batch_size=8
    )
    expected = scoring.score(encoders, trained.params, text, features, progress=False)
    reported = evaluate.run(
        encoders,
        trained.params,
        shards,
        trained.tokenizer,
        trained.intake,
        twins=None,
        **options,
    )
    arrays = [
        np.stack([np.asarray(frames.decode_jpeg(jpeg)) for jpeg in shards[i].frames])
        for i in range(len(shards))
    ]

    scores = model.similarity(model.encode_text(captions), model.encode_video(arrays))

    assert scores.dtype == np.float32 and scores.shape == (len(captions), len(shards))
    np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE)
    assert metrics.retrieval(scores, shards.captions_per_video) == reported


def test_a_clip_in_any_form_has_the_same_features(model, clips, tmp_path):
    pixels = frames_of(clips[1])
    for i, frame in enumerate(pixels):  # 10 comes after 9
        Image.fromarray(frame).save(tmp_path / f"frame{i + 5}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    forms = [clips[1], str(clips[1]), clips[1].read_bytes(), pixels, tmp_path]

    features = model.encode_video([*forms, clips[0]])

    assert len(pixels) > 5
    for i in range(1, len(forms)):
        assert_same([x[i] for x in features], [x[0] for x in features])
    assert np.abs(features.video[0] - features.video[-1]).max() > 0.01


def test_frames_of_any_size_are_resized_as_a_video_is(model, tmp_path):
    path = rendered.render(tmp_path / "wide.mp4", 100, size=(256, 144))
    whole = np.stack([np.asarray(image) for image, _ in video.decode(path, [0, 25, 50, 75])])

    features = model.encode_video([path, whole])

    assert whole.shape == (4, 144, 256, 3)
    assert_same([x[0] for x in features], [x[1] for x in features])


def test_a_long_clip_gives_the_model_frames_spread_over_all_of_it(model, tmp_path):
    path = rendered.render(tmp_path / "long.mp4", 60, fps=2)
    pixels = frames_of(path)
    spread = pixels[[0, 4, 8, 12, 16, 20, 24, 29]]  # 8 of 30, by hand

    features = model.encode_video([path, pixels, spread])

    assert len(pixels) == 30 and features.mask.sum() == 24
    assert_same([x[0] for x in features], [x[1] for x in features])
    assert_same([x[0] for x in features], [x[2] for x in features])


def test_a_clip_whose_data_end_early_gives_what_is_there(model, tmp_path):
    path = rendered.render(tmp_path / "whole.avi", 40, fps=4, codec="mpeg4")
    data = path.read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(data[: len(data) * 2 // 3])
    pixels = frames_of(cut)

    features = model.encode_video([cut, pixels, path])

    assert len(pixels) < len(frames_of(path))
    assert_same([x[0] for x in features], [x[1] for x in features])


def test_all_bad_sources_are_named_together(model, clips, tmp_path):
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "frames" / "a.png"
    broken.parent.mkdir()
    broken.write_bytes(b"no image")
    bad = {
        1: (tmp_path / "gone.mp4", "gone.mp4: missing"),
        2: (b"no video", "8 bytes: unreadable"),
        4: (np.zeros((2, 4, 4, 3)), "array float64 .2, 4, 4, 3.: .*expected a path, .*uint8"),
        5: (tmp_path / "empty", "empty: .*holds no image"),
        6: (broken.parent, r"frames: .*a\.png"),
        7: (None, "NoneType: .*expected a path"),
    }
    given = [bad[i][0] if i in bad else clips[0] for i in range(9)]

    with pytest.raises(ValueError, match="6 of 9 clips cannot be read") as caught:
        model.encode_video(given)

    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == len(bad)
    for line, (i, (_, reason)) in zip(lines, bad.items(), strict=True):
        assert line.startswith(f"  [{i}] ")
        assert re.search(reason, line)


@pytest.mark.parametrize(
    ("verb", "given", "said"),
    [
        ("encode_text", "a dog", "given 'a dog', expected a list"),
        ("encode_text", [], "given none, expected a list of one string or more"),
        ("encode_text", ["a dog", 3, b"x"], r"given \[1\] int, \[2\] bytes"),
        ("encode_video", "a.mp4", r"given a\.mp4, expected a list of one clip or more"),
        ("encode_video", [], "given none"),
        ("encode_video", np.zeros((2, 4, 4, 3), np.uint8), "given array uint8"),
    ],
    ids=["text", "no text", "no strings", "path", "no clip", "array"],
)
def test_what_is_no_list_is_one_line_that_says_so(model, verb, given, said):
    with pytest.raises(ValueError, match=said) as caught:
        getattr(model, verb)(given)

    assert "\n" not in str(caught.value)


def test_search_gives_the_best_clips_first(model, clips):
    queries = ["a red square moves left", "a circle"]
    scores = model.similarity(queries, clips)

    found = model.search(queries, clips, k=3)

    for row, answers in zip(scores, found, strict=True):
        expected = sorted(enumerate(row), key=lambda answer: -answer[1])[:3]
        assert [place for place, _ in answers] == [place for place, _ in expected]
    assert len(model.search(queries[:1], clips[:2])[0]) == 2


def test_a_second_call_compiles_nothing_new(model, clips):
    def programs() -> list[int]:
        verbs = model.encoders
        return [
            verb._cache_size()
            for verb in (verbs.text, verbs.frames, verbs.gathered, verbs.similarity)
        ]

    texts = ["a circle grows", "a square", "zebra"]
    model.similarity(texts, model.encode_video(clips))
    before = programs()

    model.similarity(texts[:2] * 2, model.encode_video([clips[3], clips[1].read_bytes(), *clips]))

    assert programs() == before and min(before) > 0


def test_what_a_folder_holds_travels_with_it(run, clips, model, tmp_path):
    moved = shutil.copytree(run, tmp_path / "moved")

    other = xclip_jax.load(moved, checkpoint="last")

    assert other.fingerprint == model.fingerprint
    assert_same(other.encode_video(clips[:1]), model.encode_video(clips[:1]))
