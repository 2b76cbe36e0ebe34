"""Moments: windows over a video's frames, scored as clips of their own, ranked, each told once."""

import math

import numpy as np
import pytest
import rendered
import tiny
from PIL import Image

import xclip_jax
from xclip_jax import clip_features, evaluate, models, moments, sampling, video, workdir
from xclip_jax.models.similarity import Video
from xclip_jax.parallel import row_sharding


@pytest.fixture(scope="module")
def model(run):
    return xclip_jax.load(run)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A clip of 23 frames, two a second: the policy takes every second one, 12 in all."""
    return rendered.render(tmp_path_factory.mktemp("moments") / "clip.mp4", 23, fps=2)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12, 40])
def test_windows_of_doubling_lengths_cover_the_frames(count):
    found = moments.windows(count)
    lengths = {last - first for first, last in found}

    assert found[-1] == (0, count) and len(set(found)) == len(found)
    assert all(0 <= first < last <= count for first, last in found)
    assert lengths == {2**i for i in range(1, 6) if 2**i < count} | {count}
    for length in lengths:
        own = sorted(window for window in found if window[1] - window[0] == length)
        assert own[0][0] == 0 and own[-1][1] == count
        gaps = np.diff([first for first, _ in own])
        assert (gaps <= max(length // 4, 1)).all()


def test_each_span_has_the_score_of_a_clip_of_its_frames(model, clip):
    frames = np.stack([np.asarray(image) for image in video.read(clip, short_side=64)[0]])

    spans = model.moments("a red square moves left", clip, k=100)

    assert len(frames) == 12 and len(spans) > 4
    for start, end, score in spans:
        part = frames[int(start) : math.ceil(end)]  # one a second, the last for half of one
        alone = model.similarity(["a red square moves left"], [part])[0, 0]
        # Logits of tens in float32, and a batch of another size.
        assert score == pytest.approx(alone, abs=1e-4)
    assert [span.score for span in spans] == sorted((span.score for span in spans), reverse=True)
    assert all(0 <= span.start < span.end <= 11.5 for span in spans)


def test_the_best_of_windows_that_overlap_stands_for_all_of_them():
    seconds = np.array([[0, 4], [1, 5], [6, 10], [0, 10], [4, 6], [3, 4]], np.float32)
    scores = np.array([2, 3, 1, 2.5, 0.5, 0.1], np.float32)

    spans = moments._best(scores, seconds, 10)

    # [0, 4] shares three of five seconds with [1, 5]; [6, 10] and [0, 10] have 0.4 in common.
    assert [(span.start, span.end) for span in spans] == [(1, 5), (0, 10), (6, 10), (4, 6), (3, 4)]
    assert moments._best(scores, seconds, 2) == spans[:2]


def test_a_long_video_is_looked_at_more_closely_than_the_model_takes_frames(model, tmp_path):
    path = rendered.render(tmp_path / "long.mp4", 300, fps=1)

    spans = model.moments("a circle", path, k=1000)

    assert model.trained.intake.max_frames == 8
    assert min(span.end - span.start for span in spans) < 4  # 300 / 8 would be 37
    assert max(span.end for span in spans) > 299


def test_no_span_ends_after_its_video(model, tmp_path):
    path = rendered.render(tmp_path / "short.mp4", 13, fps=10)  # frames at 0 and 1 s, of 1.3

    spans = model.moments("a circle", path, k=1000)

    assert max(span.end for span in spans) == pytest.approx(1.3)


def test_a_video_of_one_frame_is_one_span(model):
    spans = model.moments("a circle", np.zeros((1, 70, 80, 3), np.uint8))

    assert len(spans) == 1 and spans[0].start == spans[0].end == 0


def test_with_the_3d_patch_gathered_frames_are_those_of_the_whole_encoder(model, clip):
    trained = model.trained
    config = trained.config.copy_and_resolve_references()
    with config.unlocked():
        config.model.linear_patch = "3d"
    sizes = workdir.model_sizes(config, trained.tokenizer.vocab_size)
    graphdef, abstract = models.create(config.model.name, **sizes)
    params = tiny.draw(abstract, 1)
    trained = trained._replace(graphdef=graphdef, params=params, config=config)
    encoders = evaluate.make_encoders(graphdef)
    whole = sampling.from_file(clip, trained.intake, trained.frame_policy, most=11)
    short = sampling.from_images(3, frame, trained.intake, trained.frame_policy, most=11)

    found = list(clip_features.encode(trained, encoders, [whole, short]))

    for clip_of, features in zip([whole, short], found, strict=True):
        count = len(clip_of.chosen)
        pixels = np.zeros((1, 8, 64, 64, 3), np.uint8)
        pixels[0, :count] = clip_of.pixels[clip_of.chosen]
        mask = np.arange(8)[None] < count
        rows = row_sharding.compute(
            lambda *x: encoders.video(params, *x), encoders.mesh, pixels, mask
        )
        expected = Video(*rows)
        for x, y in zip(features.features, expected, strict=True):
            np.testing.assert_allclose(x, y[0], rtol=0, atol=1e-5)
        assert len(features.frames) == len(features.frame_times) == len(clip_of.dense)
    assert list(found[0].frame_times) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11]
    assert list(found[1].times) == [0, 1, 2]


def frame(i):
    return Image.fromarray(np.full((64, 64, 3), 40 * i + 10, np.uint8))
