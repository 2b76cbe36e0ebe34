"""Metrics agree with SPEC 12's golden values, real matrices, and loops written after SPEC 12."""

import numpy as np
import pytest

from xclip_jax import metrics


def oracle_ranks(row, own: int) -> list[int]:
    """All ranks, from 1, at which a sorted row shows the score of its correct column."""
    return [i + 1 for i, value in enumerate(sorted(row, reverse=True)) if value == row[own]]


def oracle(scores, captions, ties: str) -> dict[str, float]:
    """Both directions by loops over a ragged list of each video's rows of scores."""
    rows = iter(scores.tolist())
    groups = [[next(rows) for _ in range(count)] for count in captions]
    videos = range(len(captions))
    best = [[max(row[v] for row in groups[g]) for g in videos] for v in videos]
    choose = {
        "average": lambda tied: [sum(tied) / len(tied)],
        "optimistic": lambda tied: tied[:1],
        "pessimistic": lambda tied: tied[-1:],
        "reference": lambda tied: tied,
    }[ties]
    t2v = [rank for g in videos for row in groups[g] for rank in choose(oracle_ranks(row, g))]
    v2t = [rank for v in videos for rank in choose(oracle_ranks(best[v], v))]
    middle = np.median
    if ties == "reference" and max(captions) > 1:
        order = [np.argsort([-x for x in row], kind="stable") for group in groups for row in group]
        owners = [g for g in videos for _ in groups[g]]
        t2v = [list(o).index(g) + 1 for o, g in zip(order, owners, strict=True)]
        middle = lambda ranks: sorted(ranks)[(len(ranks) - 1) // 2]  # noqa: E731
    result = {}
    for name, found, median in (("t2v", t2v, middle), ("v2t", v2t, np.median)):
        for k in (1, 5, 10):
            result[f"{name}/r{k}"] = 100 * sum(rank <= k for rank in found) / len(found)
        result[f"{name}/median_rank"] = median(found)
        result[f"{name}/mean_rank"] = sum(found) / len(found)
    return result


@pytest.mark.parametrize("ties", metrics.TIES)
@pytest.mark.parametrize("levels", [3, 20, 1_000_000])
@pytest.mark.parametrize("captions", [[1] * 13, [2, 1, 5, 3, 1, 1, 4, 2, 2, 1, 3], [3], [1]])
def test_both_directions_match_loops(captions, levels, ties, monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK", 50)  # several blocks, the last one shorter
    rng = np.random.default_rng(len(captions) + levels)
    scores = rng.integers(levels, size=(sum(captions), len(captions))).astype(np.float32)

    got = metrics.retrieval(scores, captions, ties=ties)

    expected = oracle(scores, captions, ties)
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        assert got[key] == pytest.approx(value, rel=1e-12), key


def test_a_tied_row_counts_as_often_as_in_the_original():
    scores = np.array([[0.9, 0.9, 0.1], [0.2, 0.8, 0.3], [0.5, 0.5, 0.5]])

    entries = metrics.ranks(scores, np.arange(3), ties="reference")

    assert entries.tolist() == [1, 2, 1, 1, 2, 3]
    got = metrics.retrieval(scores, ties="reference")
    assert got["t2v/r1"] == 50.0 and got["t2v/median_rank"] == 1.5
    assert got["t2v/mean_rank"] == pytest.approx(5 / 3)


def test_the_golden_case_with_many_captions():
    scores = np.array([[0.9, 0.1], [0.2, 0.4], [0.3, 0.8], [0.7, 0.6], [0.1, 0.2]])

    got = metrics.retrieval(scores, [2, 3], ties="reference")

    assert got["t2v/r1"] == 60.0 and got["v2t/r1"] == 100.0
    assert got["t2v/median_rank"] == 1 and got["t2v/mean_rank"] == pytest.approx(1.4)


def test_the_median_of_an_even_count_is_the_lower_one_only_where_the_original_does_so():
    scores = np.array([[0.9, 0.1], [0.2, 0.4], [0.3, 0.8], [0.7, 0.6]])  # ranks 1 2 1 2

    assert metrics.retrieval(scores, [2, 2], ties="reference")["t2v/median_rank"] == 1
    assert metrics.retrieval(scores, [2, 2])["t2v/median_rank"] == 1.5


@pytest.mark.parametrize(
    ("name", "t2v", "v2t"),
    [
        ("video", [48.0, 73.0, 82.9, 2, 13.13], [45.455, 73.715, 82.312, 2, 8.84]),
        ("titles", [29.7, 55.8, 66.6, 4, 26.74], [28.063, 54.743, 66.502, 4, 27.04]),
    ],
)
def test_real_matrices_give_the_published_numbers(shared, name, t2v, v2t):
    scores = np.load(shared / f"data/reference/sim-matrices/Cap4Video_msrvtt_{name}_matrix.npy")

    got = metrics.retrieval(scores, ties="reference")

    keys = ("r1", "r5", "r10", "median_rank", "mean_rank")
    for direction, expected in (("t2v", t2v), ("v2t", v2t)):
        found = [got[f"{direction}/{key}"] for key in keys]
        np.testing.assert_allclose(found[:4], expected[:4], atol=5e-4)  # printed to 3 decimals
        # The mean rank was rounded to 3 decimals, then to 2: 8.83498, 8.835, 8.84.
        assert found[4] == pytest.approx(expected[4], abs=5.5e-3)
    assert got == pytest.approx(oracle(scores, [1] * 1000, "reference"), rel=1e-12)
    assert len(metrics.ranks(scores.T, np.arange(1000), ties="reference")) == 1012


def test_a_constant_score_earns_nothing_by_average_ties():
    got = metrics.retrieval(np.zeros((30, 30), np.float32))

    assert got["t2v/r1"] == got["v2t/r10"] == 0
    assert got["t2v/mean_rank"] == got["v2t/median_rank"] == 15.5


@pytest.mark.parametrize("column", [2, 0])
def test_nan_is_an_error_that_names_the_row(column):
    scores = np.eye(5, 3, dtype=np.float32)
    scores[3, column] = np.nan

    with pytest.raises(FloatingPointError, match="NaN in row 3"):
        metrics.retrieval(scores, [1, 1, 3])


def test_nan_is_named_by_its_row_in_a_later_block(monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK", 8)
    scores = np.zeros((7, 4), np.float32)
    scores[[5, 6], 1] = np.nan

    with pytest.raises(FloatingPointError, match="NaN in row 5"):
        metrics.ranks(scores, np.zeros(7, int), ties="average")


@pytest.mark.parametrize(
    ("shape", "captions", "message"),
    [
        ((5, 3), None, "5 texts and 3 videos do not fit 3 captions"),
        ((5, 3), [2, 2, 2], "do not fit 6 captions"),
        ((5, 3), [2, 3], "do not fit 5 captions of 2 videos"),
        ((5, 3), [2, 0, 3], "video 1 has 0 captions"),
        ((0, 0), [], "expected .texts, videos."),
        ((4,), None, "expected .texts, videos."),
    ],
)
def test_sizes_that_do_not_fit_are_errors(shape, captions, message):
    with pytest.raises(ValueError, match=message):
        metrics.retrieval(np.zeros(shape), captions)


def test_an_unknown_treatment_of_ties_is_an_error():
    with pytest.raises(ValueError, match="'mean' is not known; use one of average, reference"):
        metrics.retrieval(np.eye(3), ties="mean")


def test_twin_accuracy_counts_both_directions_and_halves_ties():
    scores = np.full((5, 4), -50.0, np.float32)  # clips 0 and 1, their twins 2 and 3
    scores[0, [0, 2]] = 9, 8  # right
    scores[1, [0, 2]] = 8, 9  # wrong: another caption of clip 0
    scores[2, [1, 3]] = 70, 70.0005  # a tie, but for rounding
    scores[3, [2, 0]] = 9, 8  # right: caption of a twin
    scores[4, [3, 1]] = 8, 8.1  # wrong

    got = metrics.twin_accuracy(scores, [2, 1, 1, 1])

    assert got == pytest.approx((1 + 0 + 0.5 + 1 + 0) / 5)
    assert metrics.twin_accuracy(scores, [2, 1, 1, 1], tolerance=0) == pytest.approx(2 / 5)


def test_twin_accuracy_refuses_odd_galleries_and_nan():
    with pytest.raises(ValueError, match="3 videos given; expected clips and as many twins"):
        metrics.twin_accuracy(np.eye(3))
    with pytest.raises(FloatingPointError, match="NaN in row 1"):
        metrics.twin_accuracy(np.array([[1, 0], [0, np.nan]]))


def test_the_table_shows_directions_in_rows_and_other_values_below():
    scores = metrics.retrieval(np.eye(4)) | {"twins/accuracy": 0.5}
    scores |= metrics.summarize(np.array([1, 2]), "twins/t2v")

    lines = metrics.table(scores).splitlines()

    assert lines[0].split() == ["R@1", "R@5", "R@10", "median", "rank", "mean", "rank"]
    assert lines[1].split() == ["text", "to", "video", "100.0", "100.0", "100.0", "1.0", "1.0"]
    assert lines[2].startswith("video to text") and len({len(line) for line in lines[:4]}) == 1
    assert lines[3].startswith("text to video (twins)") and lines[3].split()[4] == "50.0"
    assert lines[4].split() == ["twins/accuracy", "0.5"]
