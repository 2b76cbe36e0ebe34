"""Why this score: parts and attention that add up to what the model itself computes."""

import re

import jax
import numpy as np
import pytest
import tiny
from flax import nnx
from PIL import Image
from test_xclip import features, score, unit

import xclip_jax
from xclip_jax import cli, models
from xclip_jax.explain import breakdown, page, plot
from xclip_jax.explain.breakdown import Explanation, explain
from xclip_jax.explain.grid import Pair, grid
from xclip_jax.models.similarity import CONTRASTS, Text, Video

OPTIONS = {
    "released": {},
    "masked": {"mask_padding": True},
    "mean, then max": {"aggregation": "mean_max"},
    "max, then mean, masked": {"aggregation": "max_mean", "mask_padding": True},
    "without matrices, warmer": {"learned_mixing": False, "temperature": 0.05},
    "two contrasts": {"contrasts": ("video_word", "frame_word")},
}


def row(features, i: int):
    return jax.tree.map(lambda x: np.asarray(x)[i], features)


def unit_like(abstract, seed: int):
    """Returns random unit features of these shapes, without padding."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: np.ones(x.shape, bool) if x.dtype == bool else unit(rng, *x.shape), abstract
    )


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_parts_add_up_to_the_score_of_the_model(options):
    text, video = features()
    graphdef, params = tiny.create(**options)[0], tiny.params(**options)
    expected = score(text, video, **options)

    for t, v in ((0, 0), (1, 1), (3, 2)):
        got = explain(graphdef, params, row(text, t), row(video, v))

        # The logit scale is about 7, so similarities agree to 1e-6 and scores to 1e-5.
        assert got.score == pytest.approx(expected[t, v], abs=1e-5)
        assert sum(got.points().values()) == pytest.approx(got.score, abs=1e-9)
        assert np.mean([part.similarity for part in got.parts.values()]) == pytest.approx(
            got.score / got.scale, abs=1e-9
        )


@pytest.mark.parametrize("options", [OPTIONS["released"], OPTIONS["masked"]], ids=str)
def test_attention_times_similarity_adds_up_to_frame_word(options):
    text, video = features()
    graphdef, params = tiny.create(**options)[0], tiny.params(**options)
    alone = score(text, video, params=params, **options | {"contrasts": ("frame_word",)})

    got = explain(graphdef, params, row(text, 2), row(video, 1))

    part = got.parts["frame_word"]
    assert part.attention.shape == part.similarities.shape == (7, 3)
    total = (part.attention * part.similarities).sum()
    assert got.scale * total == pytest.approx(alone[2, 1], abs=1e-5)
    assert part.similarity == pytest.approx(total)


def test_without_matrices_each_attention_is_a_distribution_over_what_is_not_padding():
    options = {"learned_mixing": False, "mask_padding": True}
    text, video = features()

    got = explain(tiny.create(**options)[0], tiny.params(**options), row(text, 1), row(video, 2))

    weights = {name: part.attention for name, part in got.parts.items()}
    for one in weights.values():
        assert one.min() >= 0 and one.sum() == pytest.approx(1)
    assert not weights["frame_word"][3:].any() and not weights["frame_word"][:, 2:].any()
    assert not weights["video_word"][3:].any() and not weights["sentence_frame"][2:].any()


def test_what_an_ablation_lacks_is_said_in_a_line():
    options = OPTIONS["two contrasts"]
    text, video = features()

    got = explain(tiny.create(**options)[0], tiny.params(**options), row(text, 0), row(video, 0))

    assert set(got.parts) == {"video_word", "frame_word"}
    assert got.absent == "this model was trained without video-sentence, sentence-frame."
    whole = explain(tiny.create()[0], tiny.params(), row(text, 0), row(video, 0))
    assert tuple(whole.parts) == CONTRASTS and whole.absent == ""


@pytest.mark.parametrize(
    ("name", "options", "parts", "said"),
    [
        ("clip4clip", {}, {"video_sentence"}, "one vector of the text"),
        ("clip4clip", {"head": "tightTransf"}, set(), "the cross encoder"),
        ("clip2video", {}, {"video_sentence", "centers"}, "around centers"),
        ("clip2video", {"alignment": "none"}, {"video_sentence"}, "whole texts and videos"),
    ],
    ids=["clip4clip", "tightTransf", "clip2video", "clip2video without centers"],
)
def test_other_models_give_what_they_have_and_say_what_they_lack(name, options, parts, said):
    graphdef, abstract = models.create(name, **tiny.SIZES | options)
    params = tiny.draw(abstract, 0)
    model, batch = nnx.merge(graphdef, params), tiny.batch(2, 3)
    text = unit_like(jax.eval_shape(model.encode_text, batch["tokens"], batch["token_mask"]), 0)
    pixels = (batch["video"], batch["frame_mask"])
    video = unit_like(jax.eval_shape(model.encode_video, *pixels), 1)
    expected = np.asarray(jax.jit(model.similarity)(text, video))

    got = explain(graphdef, params, row(text, 1), row(video, 2))

    assert got.score == pytest.approx(expected[1, 2], abs=1e-5)
    assert set(got.parts) == parts
    assert said in got.absent and "\n" not in got.absent
    if parts:
        assert sum(got.points().values()) == pytest.approx(got.score)
    else:  # the next one finds the program there
        assert explain(graphdef, params, row(text, 0), row(video, 1)).score != got.score
        assert breakdown._similarity(graphdef)._cache_size() == 1


def test_more_than_one_text_is_refused():
    text, video = features()

    with pytest.raises(ValueError, match="expected one row of each"):
        explain(tiny.create()[0], tiny.params(), text, row(video, 0))
    assert isinstance(text, Text) and isinstance(video, Video)


@pytest.fixture
def shown():
    """An explanation of a text of 3 words and a video of 2 frames, and what they look like."""
    text, video = features()
    found = explain(tiny.create()[0], tiny.params(), row(text, 1), row(video, 2))
    words = ["<|startoftext|>", "<b>$x_1$", "<|endoftext|>"]
    frames = [Image.new("RGB", (24, 24), color) for color in ("red", "blue")]
    return found, Pair("<i>a & b</i> $", "clip<1>.mp4", words, frames, np.array([0.5, 2.0]))


def test_the_grid_has_each_block_in_its_place_and_the_sum_of_what_padding_gets(shown):
    found, pair = shown
    parts = found.parts

    got = grid(found, pair)

    assert got.rows == ["whole text", "[start]", "<b>$x_1$", "[end]", "padding, 4"]
    assert got.columns == ["whole video", "0.5 s", "2.0 s", "padding, 1"]
    assert np.isnan(got.similarity[0, 0]) and got.similarity.shape == (4, 3)
    assert got.similarity[2, 0] == parts["video_word"].similarities[1]
    assert got.similarity[0, 2] == parts["sentence_frame"].similarities[1]
    assert got.similarity[3, 1] == parts["frame_word"].similarities[2, 0]
    assert got.attention[1, 2] == parts["frame_word"].attention[0, 1]
    assert got.attention[4, 0] == pytest.approx(parts["video_word"].attention[3:].sum())
    assert got.attention[0, 3] == pytest.approx(parts["sentence_frame"].attention[2:].sum())
    # Of padding in both, the corner has all: nothing is lost.
    assert got.attention[1:, 1:].sum() == pytest.approx(parts["frame_word"].attention.sum())


def test_the_page_is_whole_and_text_cannot_become_markup(shown, tmp_path):
    page.write(*shown, tmp_path / "why.html")

    written = (tmp_path / "why.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|iframe|object|base)\b|@import|https?:|<b>|<i>", written)
    assert "“&lt;i&gt;a &amp; b&lt;/i&gt; $” in clip&lt;1&gt;.mp4" in written
    assert written.count("data:image/jpeg;base64,") == 2 and "padding, 4" in written
    for name, points in shown[0].points().items():
        assert re.search(
            name.replace("_", "-") + "</span>.*?" + re.escape(f"{points:+.2f} "), written
        )


def test_the_picture_is_a_png_that_holds_the_frames(shown, tmp_path):
    plot.save(*shown, tmp_path / "why")

    with Image.open(tmp_path / "why") as image:
        colors = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert image.format == "PNG" and 600 < image.width < 2000
    for color in ((255, 0, 0), (0, 0, 255)):
        assert (colors == color).all(1).sum() > 80**2  # a frame is 0.91 inches wide


def test_a_model_without_parts_shows_the_frames_and_says_why(shown, tmp_path):
    found = Explanation(3.25, 1.0, {}, "it has no parts.")
    pair = shown[1]

    page.write(found, pair, tmp_path / "why.html")
    plot.save(found, pair, tmp_path / "why.png")

    written = (tmp_path / "why.html").read_text(encoding="utf-8")
    assert "score 3.25" in written and "it has no parts." in written and written.count("<img") == 2
    assert grid(found, pair) is None and (tmp_path / "why.png").stat().st_size > 1000


def test_the_command_explains_the_score_that_the_library_gives(run, shapes, tmp_path, capsys):
    video = shapes / "rendered" / "videos" / "test-00001.mp4"
    text = "a red square moves left"

    cli.main(["explain", str(video), text, "--workdir", str(run), "--out", f"{tmp_path}/w.html"])
    said = capsys.readouterr().out
    [[score]] = xclip_jax.load(run).similarity([text], [video])

    assert f"score {score:.2f} =" in said and "frame-word" in said
    assert "red" in (tmp_path / "w.html").read_text(encoding="utf-8")


def test_all_mistakes_are_one_line(tmp_path, capsys):
    argv = ["explain", f"{tmp_path}/no.mp4", " ", "--workdir", "x", "--out", "why.gif"]
    with pytest.raises(SystemExit):
        cli.main(argv)

    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    assert "no.mp4: no such file" in error and "TEXT is empty" in error and ".png or" in error
