"""Evaluation: tiles against one direct call, bounded memory, padding, twins, NaN, real shards."""

import jax
import numpy as np
import pytest
import tiny
from flax import nnx

from xclip_jax import evaluate, frames, scoring, workdir
from xclip_jax.models.similarity import Text, Video
from xclip_jax.records import Shards

# A batch padded to another size is another matrix product; float32 through a whole model.
MODEL_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def trained(run):
    return workdir.load(run)


@pytest.fixture(scope="module")
def encoders(trained):
    return evaluate.make_encoders(trained.graphdef)


def run_split(trained, encoders, shards, **options):
    return evaluate.run(
        encoders,
        options.pop("params", trained.params),
        shards,
        trained.tokenizer,
        trained.intake,
        batch_size=4,
        **options,
    )


def features(graphdef, params, texts, videos):
    """Returns the features of a random batch, by one call of each encoder."""
    model = nnx.merge(graphdef, params)
    batch = tiny.batch(texts, videos)
    text = jax.jit(model.encode_text)(batch["tokens"], batch["token_mask"])
    video = jax.jit(model.encode_video)(batch["video"], batch["frame_mask"])
    return jax.tree.map(np.asarray, (text, video))


@pytest.mark.parametrize("pairs", [1, 6, 1000])  # of a tile: one, some, more than there are
def test_tiled_scores_equal_one_direct_call(monkeypatch, pairs):
    graphdef, params = tiny.create()[0], tiny.params()
    text, video = features(graphdef, params, texts=5, videos=7)
    direct = jax.jit(nnx.merge(graphdef, params).similarity)(text, video)
    monkeypatch.setitem(
        scoring.TILE_ELEMENTS, "cpu", pairs * tiny.SIZES["max_words"] * tiny.SIZES["max_frames"]
    )

    tiled = scoring.score(evaluate.make_encoders(graphdef), params, text, video, progress=False)

    assert tiled.shape == (5, 7) and tiled.dtype == np.float32
    # Scores are logits of tens, so a float32 has 1e-5 of them.
    np.testing.assert_allclose(tiled, direct, rtol=1e-5, atol=MODEL_TOLERANCE)


@pytest.mark.parametrize("sizes", [(11,), (1, 10), (4, 4, 3), (3, 1, 5, 2)])
def test_texts_in_parts_of_any_size_score_what_all_at_once_score(monkeypatch, sizes):
    graphdef, params = tiny.create()[0], tiny.params()
    text, video = features(graphdef, params, texts=11, videos=7)
    pair = tiny.SIZES["max_words"] * tiny.SIZES["max_frames"]
    monkeypatch.setitem(scoring.TILE_ELEMENTS, "cpu", 9 * pair)
    encoders = evaluate.make_encoders(graphdef)
    ends = np.cumsum(sizes)
    parts = [
        jax.tree.map(lambda x, i=end - size, j=end: x[i:j], text)
        for size, end in zip(sizes, ends, strict=True)
    ]

    whole = scoring.score(encoders, params, text, video, progress=False)
    streamed = scoring.score_stream(
        encoders, params, iter(parts), video, texts=text.mask.shape, progress=False
    )

    np.testing.assert_array_equal(streamed, whole)


@pytest.mark.parametrize("batch_size", [2, 8])
def test_no_more_texts_are_encoded_than_the_next_tile_takes(monkeypatch, batch_size):
    graphdef, params = tiny.create()[0], tiny.params()
    _, video = features(graphdef, params, texts=2, videos=7)
    pair = tiny.SIZES["max_words"] * tiny.SIZES["max_frames"]
    monkeypatch.setitem(scoring.TILE_ELEMENTS, "cpu", 9 * pair)
    encoders = evaluate.make_encoders(graphdef)
    rows, _ = scoring.tile_shape(50, 7, pair, devices=encoders.mesh.size)
    waiting, most = 0, 0

    def text(*inputs):
        nonlocal waiting, most
        waiting += batch_size
        most = max(most, waiting)
        return encoders.text(*inputs)

    def similarity(*inputs, **options):
        nonlocal waiting
        waiting -= rows
        return encoders.similarity(*inputs, **options)

    watched = encoders._replace(text=text, similarity=similarity)
    parts = evaluate.text_batches(
        watched,
        params,
        lambda texts, words: (np.full((50, words), 3, np.int32), np.ones((50, words), bool)),
        50 * [""],
        tiny.SIZES["max_words"],
        batch_size=batch_size,
    )
    scoring.score_stream(
        watched, params, parts, video, texts=(50, tiny.SIZES["max_words"]), progress=False
    )

    assert rows < 50 and most < rows + batch_size


@pytest.mark.parametrize("texts, videos", [(1, 1), (3, 1), (1, 5000), (4917, 4917), (59_800, 2990)])
@pytest.mark.parametrize("elements", [1, 32 * 12, 64 * 64, 77 * 500, 2**30])
@pytest.mark.parametrize("budget", [scoring.TILE_ELEMENTS["cpu"], 2**26])
def test_a_tile_keeps_within_the_budget(monkeypatch, texts, videos, elements, budget):
    monkeypatch.setitem(scoring.TILE_ELEMENTS, "cpu", budget)

    rows, columns = scoring.tile_shape(texts, videos, elements)

    assert 1 <= rows <= texts and 1 <= columns <= videos
    assert rows * columns * elements <= max(budget, elements)  # one pair is the least there is


@pytest.mark.parametrize(
    "budget", [scoring.TILE_ELEMENTS["cpu"], scoring.TILE_ELEMENTS_ACCELERATOR]
)
def test_4917_texts_by_4917_videos_of_64_words_and_frames_fit_in_4_gib(monkeypatch, budget):
    monkeypatch.setitem(scoring.TILE_ELEMENTS, "cpu", budget)
    graphdef, params = tiny.create(
        embed_dim=512,
        text_width=64,
        vision_width=64,
        context_length=64,
        max_words=64,
        max_frames=64,
    )
    encoders = evaluate.make_encoders(graphdef)  # eight devices, each with its share of the rows
    rows, columns = scoring.tile_shape(4917, 4917, 64 * 64, devices=encoders.mesh.size)
    videos = 4917

    def array(*shape, dtype=np.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    tile = encoders.similarity.lower(
        params,
        Text(array(rows, 512), array(rows, 64, 512), array(rows, 64, dtype=bool)),
        Video(array(videos, 512), array(videos, 64, 512), array(videos, 64, dtype=bool)),
        columns=columns,
    )

    memory = tile.compile().memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes  # all videos among them
    assert held + memory.temp_size_in_bytes < 4 * 2**30


def test_padding_a_short_batch_changes_no_features():
    graphdef, params = tiny.create()[0], tiny.params()
    text, video = features(graphdef, params, texts=5, videos=4)
    batch = tiny.batch(5, 4)
    pixels, mask = batch["video"], batch["frame_mask"]
    encoders = evaluate.make_encoders(graphdef)

    def tokens_of(texts, max_words):  # a tokeniser whose texts are row numbers
        rows = [int(text) for text in texts]
        return batch["tokens"][rows, :max_words], batch["token_mask"][rows, :max_words]

    texts_in_twos = evaluate.encode_texts(
        encoders, params, tokens_of, list("01234"), max_words=7, batch_size=2
    )
    videos_in_threes = evaluate.encode_videos(
        encoders, params, [(pixels[:3], mask[:3]), (pixels[3:], mask[3:])], batch_size=3
    )

    for got, expected in zip((*texts_in_twos, *videos_in_threes), (*text, *video), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=MODEL_TOLERANCE)


def test_clips_that_are_their_own_twins_score_one_half(trained, encoders, shapes):
    shards = Shards(shapes / "shards", "test")

    scores = run_split(trained, encoders, shards, twins=shards)

    names = ("r1", "r5", "r10", "median_rank", "mean_rank")
    assert scores.keys() == {"twins/accuracy"} | {
        f"{group}/{name}" for group in ("t2v", "v2t", "twins/t2v") for name in names
    }
    assert scores["twins/accuracy"] == 0.5
    assert scores["twins/t2v/r1"] == 0  # the right clip shares the first rank: never a hit


def test_each_encoder_is_compiled_once(trained, shapes):
    encoders = evaluate.make_encoders(trained.graphdef)
    splits = [Shards(shapes / "shards", split) for split in ("test", "twins")]

    for shards, twins in (splits, splits[::-1]):
        run_split(trained, encoders, shards, twins=twins)

    assert [encoder._cache_size() for encoder in encoders[:3]] == [1, 1, 1]


def test_a_broken_model_is_an_error_that_names_a_row(trained, encoders, shapes):
    broken = jax.tree.map(lambda leaf: leaf * np.float32("nan"), trained.params)

    with pytest.raises(FloatingPointError, match="NaN in row 0 of the scores"):
        run_split(trained, encoders, Shards(shapes / "shards", "test"), twins=None, params=broken)


def rank(row, right):
    """Returns the average rank of `right` among the scores of a row."""
    return 1 + sum(score > row[right] for score in row) + (sum(row == row[right]) - 1) / 2


def test_real_shards_score_what_one_dense_call_scores(trained, encoders, shapes):
    shards = Shards(shapes / "shards", "test")
    records = [shards[i] for i in range(len(shards))]
    intake = trained.intake
    videos = [
        frames.stack(record.frames, max_frames=intake.max_frames, size=intake.image_size)
        for record in records
    ]
    captions = [text for record in records for text in record.captions]
    owner = [i for i, record in enumerate(records) for _ in record.captions]
    tokens, token_mask = trained.tokenizer(captions, intake.max_words)
    pixels, frame_mask = map(np.stack, zip(*videos, strict=True))
    batch = {"tokens": tokens, "token_mask": token_mask, "video": pixels, "frame_mask": frame_mask}
    dense = jax.jit(lambda *arrays: tiny.scores(trained.graphdef, *arrays))(trained.params, batch)
    dense = np.asarray(dense)

    scores = run_split(trained, encoders, shards, twins=None)

    to_video = [rank(row, right) for row, right in zip(dense, owner, strict=True)]
    best = np.stack([dense[np.equal(owner, i)].max(axis=0) for i in range(len(records))])
    to_text = [rank(column, right) for right, column in enumerate(best.T)]
    for direction, ranks in (("t2v", to_video), ("v2t", to_text)):
        assert scores[f"{direction}/r1"] == pytest.approx(100 * np.mean(np.less_equal(ranks, 1)))
        assert scores[f"{direction}/r5"] == pytest.approx(100 * np.mean(np.less_equal(ranks, 5)))
        assert scores[f"{direction}/median_rank"] == np.median(ranks)
        assert scores[f"{direction}/mean_rank"] == pytest.approx(np.mean(ranks))
