"""Search in a folder of clips: the order of answers, and what QB-Norm and filters make of it."""

import json
import math
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from xclip_jax import evaluate, workdir
from xclip_jax.index import listing, making, qb_norm, query, store
from xclip_jax.index.update import feature_type
from xclip_jax.records import Shards

CLIPS = 5


@pytest.fixture(scope="module")
def searcher(run, shapes, tmp_path_factory):
    """Five of the rendered test clips, one of them in a subfolder, indexed from a list that says
    of each a number and a color."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "more").mkdir()
    entries = []
    for i in range(CLIPS):
        place = "more" if i == 2 else "."
        shutil.copy(shapes / "rendered" / "videos" / f"test-{i:05d}.mp4", folder / place)
        entry = {"video": f"{place}/test-{i:05d}.mp4", "number": i, "color": "red" if i % 2 else ""}
        entries.append(json.dumps(entry))
    (folder / "list.jsonl").write_text("\n".join(entries))
    trained = workdir.load(run)
    encoders = evaluate.make_encoders(trained.graphdef)
    index = making.open_or_make(folder / "index", trained, encoders, run)
    making.fill(index, trained, encoders, listing.read(folder / "list.jsonl"), progress=False)
    return query.Searcher(index, trained, encoders)


@pytest.fixture(scope="module")
def stored(searcher):
    """The paths of the index, and the features of each."""
    [rows] = store.scan(searcher.index, searcher.index.videos.schema.names, where=None, rows=99)
    return rows["path"].to_pylist(), store.features(
        searcher.index, rows, feature_type(searcher.trained)
    )


@pytest.fixture(scope="module")
def brute_force(searcher, stored):
    """A function from a text to its score with each clip, computed one pair at a time."""
    model = nnx.merge(searcher.trained.graphdef, searcher.trained.params)
    encode, similarity = jax.jit(model.encode_text), jax.jit(model.similarity)
    paths, features = stored

    def score(text):
        encoded = encode(*searcher.trained.tokenizer([text], searcher.trained.intake.max_words))
        return {
            path: similarity(encoded, jax.tree.map(lambda x, i=i: x[i : i + 1], features)).item()
            for i, path in enumerate(paths)
        }

    return score


QUERIES = ["a red square moves left", "a circle grows, then it moves up", "zebra"]


@pytest.mark.parametrize("exact", [False, True], ids=["two stages", "exact"])
def test_answers_come_in_the_order_of_brute_force(searcher, brute_force, exact):
    found = query.texts(searcher, QUERIES, k=3, exact=exact)

    for text, answers in zip(QUERIES, found, strict=True):
        expected = sorted(brute_force(text).items(), key=lambda answer: -answer[1])[:3]
        assert [hit.path for hit in answers.hits] == [path for path, _ in expected]
        # Logits of tens, of which float32 has 1e-5.
        scores = [score for _, score in expected]
        np.testing.assert_allclose([hit.score for hit in answers.hits], scores, atol=1e-4)


def test_more_answers_than_clips_are_all_of_them(searcher):
    [found] = query.texts(searcher, ["a circle"], k=CLIPS + 4)

    assert len(found.hits) == CLIPS
    assert all(hit.duration > 1 and set(hit.metadata) == {"number", "color"} for hit in found.hits)


def test_features_equal_those_of_the_shards_up_to_jpeg_loss(searcher, stored, shapes):
    shards = Shards(shapes / "shards", "test")
    trained = searcher.trained
    _, from_shards = evaluate.encode_split(
        searcher.encoders, trained.params, shards, trained.intake, batch_size=8, progress=False
    )

    paths, features = stored

    for j, path in enumerate(paths):
        i = int(path[-9:-4])
        assert shards[i].video_id == f"test-{i:05d}"
        np.testing.assert_array_equal(features.mask[j], from_shards.mask[i])
        # Values reach 0.3; quality 95 changes them by 0.011 at most, another clip's by 0.1.
        np.testing.assert_allclose(features.video[j], from_shards.video[i], rtol=0, atol=0.02)
        np.testing.assert_allclose(features.frames[j], from_shards.frames[i], rtol=0, atol=0.02)
    assert np.abs(from_shards.video[0] - from_shards.video[1]).max() > 0.05


@pytest.mark.parametrize("exact", [False, True], ids=["two stages", "exact"])
@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        ("json_get_int(metadata, 'number') >= 3", {3, 4}),
        ("json_get_string(metadata, 'color') = 'red'", {1, 3}),
        ("path LIKE '%more%'", {2}),
        ("duration > 1000", set()),
    ],
    ids=["number", "text", "path", "nothing"],
)
def test_a_filter_lets_only_such_videos_through(searcher, where, numbers, exact):
    [found] = query.texts(searcher, ["a circle"], k=CLIPS, where=where, exact=exact)

    assert {hit.metadata["number"] for hit in found.hits} == numbers


@pytest.mark.parametrize("where", ["colour = 'red'", "path = "], ids=["column", "syntax"])
@pytest.mark.parametrize("exact", [False, True], ids=["two stages", "exact"])
def test_a_filter_that_is_none_is_one_line(searcher, where, exact):
    with pytest.raises(ValueError, match=r"--where .*Columns are path") as caught:
        query.texts(searcher, ["a circle"], k=1, where=where, exact=exact)

    assert "\n" not in str(caught.value)


def test_a_video_is_most_like_itself(searcher, stored):
    paths, features = stored

    found = query.like(searcher, features.video, k=2)

    cosines = features.video @ features.video.T
    for i, answers in enumerate(found):
        order = np.argsort(-cosines[i])[:2]
        assert [hit.path for hit in answers.hits] == [paths[j] for j in order]
        assert answers.hits[0].path == paths[i]
        np.testing.assert_allclose(answers.hits[0].score, 1, atol=2e-3)  # float16 has 3 digits


def test_the_inverted_softmax_is_that_of_the_paper():
    rng = np.random.default_rng(0)
    scores, bank = rng.uniform(-1, 1, (3, 4)), rng.uniform(-1, 1, (5, 4))
    beta = 20.0

    got = qb_norm.normalize(scores, bank, beta=beta)

    for t in range(3):
        for v in range(4):
            total = sum(math.exp(beta * bank[b, v]) for b in range(5))
            expected = math.exp(beta * scores[t, v]) / total
            assert math.isclose(math.exp(beta * got[t, v]), expected, rel_tol=1e-4)


@pytest.mark.parametrize("exact", [False, True], ids=["two stages", "exact"])
def test_qb_norm_decides_only_where_the_bank_has_the_same_first_answer(
    searcher, brute_force, exact
):
    bank = ["a green circle", "a triangle shrinks"]
    queries = [*QUERIES, "blue", "left", "a large triangle vanishes"]
    scale = math.exp(searcher.trained.params["clip"]["logit_scale"])
    beta = 20.0 / scale

    found = query.texts(searcher, queries, k=CLIPS, exact=exact, bank=bank)

    assert {answers.normalized for answers in found} == {True, False}
    against = [brute_force(text) for text in bank]
    hubs = {max(row, key=row.get) for row in against}
    for text, answers in zip(queries, found, strict=True):
        row = brute_force(text)
        assert answers.normalized == (max(row, key=row.get) in hubs)
        if answers.normalized:
            row = {
                path: math.exp(beta * score) / sum(math.exp(beta * b[path]) for b in against)
                for path, score in row.items()
            }
        expected = sorted(row, key=lambda path: -row[path])
        assert [hit.path for hit in answers.hits] == expected


def test_a_search_reads_no_image_tower_and_answers_the_same(searcher):
    alone = making.load_model(searcher.index, None, None, only_text=True)
    text_only = searcher._replace(trained=alone)

    assert not any(np.any(x) for x in jax.tree.leaves(alone.params["clip"]["visual"]))
    assert query.texts(text_only, QUERIES, k=3) == query.texts(searcher, QUERIES, k=3)


def test_a_checkpoint_whose_files_have_changed_is_read_whole_and_compared(searcher, run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    (copied / "checkpoints" / "6" / "note").touch()
    index = searcher.index._replace(facts=searcher.index.facts | {"workdir": str(copied)})

    same = making.load_model(index, None, None, only_text=True)
    other = index._replace(facts=index.facts | {"model": "0" * 64})

    assert any(np.any(x) for x in jax.tree.leaves(same.params["clip"]["visual"]))
    with pytest.raises(ValueError, match=r"holds features of .* is another model"):
        making.load_model(other, None, None, only_text=True)
