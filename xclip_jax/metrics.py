"""Retrieval metrics of a score matrix, texts in rows and videos in columns.

Recall at k, median and mean rank, in both directions, with one or many captions a video. Ranks
need whole rows, so this is NumPy on the host; rows go through in blocks of bounded memory.
"""

import numpy as np

TIES = ("average", "reference", "optimistic", "pessimistic")
RECALLS = (1, 5, 10)
BLOCK = 2**23  # scores looked at in one go
DIRECTIONS = {"t2v": "text to video", "v2t": "video to text"}
COLUMNS = {f"r{k}": f"R@{k}" for k in RECALLS} | {
    "median_rank": "median rank",
    "mean_rank": "mean rank",
}


def retrieval(
    scores: np.ndarray, captions_per_video: np.ndarray | None = None, *, ties: str = "average"
) -> dict[str, float]:
    """Returns the metrics of both directions, `t2v/r1` to `v2t/mean_rank`.

    Texts are grouped by video, in the order of the columns; without `captions_per_video` each
    video has one. A video ranks the best captions of all videos, each counted once, as the
    original does. `ties` says what rank a correct answer has that others equal; NaN is an error.
    """
    scores = np.asarray(scores)
    one_each = len(scores) == scores.shape[-1]
    to_video, to_text = both_ranks(scores, captions_per_video, ties=ties)
    return summarize(to_video, "t2v", lower_median=_sorts(ties, one_each)) | summarize(
        to_text, "v2t"
    )


def both_ranks(
    scores: np.ndarray, captions_per_video: np.ndarray | None = None, *, ties: str = "average"
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ranks, text to video and video to text, of which those metrics are made."""
    scores = np.asarray(scores)
    video_of_text = _video_of_text(scores, captions_per_video)
    one_each = len(video_of_text) == scores.shape[1]
    diagonal = np.arange(scores.shape[1])

    if _sorts(ties, one_each):
        to_video = _positions(scores, video_of_text)
    else:
        to_video = ranks(scores, video_of_text, ties=ties)
    best = scores
    if not one_each:
        first = np.searchsorted(video_of_text, diagonal)
        best = np.maximum.reduceat(scores, first, axis=0)
    return to_video, ranks(best.T, diagonal, ties=ties)


def _sorts(ties: str, one_each: bool) -> bool:
    """Parity: with many captions the original sorts instead of looking for equal scores, and takes
    the lower of two middle ranks."""
    return ties == "reference" and not one_each


def ranks(scores: np.ndarray, correct: np.ndarray, *, ties: str) -> np.ndarray:
    """Returns the rank, from 1, of the correct column of each row.

    Where t columns share the correct score, they hold t ranks: `optimistic` takes the first of
    them, `pessimistic` the last, `average` their mean, and `reference` all: parity with the
    original, which lists t entries for that row, so that the result is longer than the rows.
    """
    if ties not in TIES:
        raise ValueError(f"ties={ties!r} is not known; use one of {', '.join(TIES)}.")
    greater, equal = _count(scores, correct)
    if ties == "optimistic":
        return greater + 1
    if ties == "pessimistic":
        return greater + equal
    if ties == "average":
        return greater + (equal + 1) / 2
    start_of_row = np.cumsum(equal) - equal
    return np.arange(1, equal.sum() + 1) + np.repeat(greater - start_of_row, equal)


def summarize(ranks: np.ndarray, direction: str, *, lower_median: bool = False) -> dict[str, float]:
    """Returns recalls in percent, median and mean of ranks that count from 1.

    An average rank of 1.5 is no hit at 1: ties never flatter.
    """
    middle = np.percentile(ranks, 50, method="lower" if lower_median else "linear")
    recalls = {f"{direction}/r{k}": 100 * float(np.mean(ranks <= k)) for k in RECALLS}
    return recalls | {
        f"{direction}/median_rank": float(middle),
        f"{direction}/mean_rank": float(np.mean(ranks)),
    }


def twin_accuracy(
    scores: np.ndarray, captions_per_video: np.ndarray | None = None, *, tolerance: float = 1e-3
) -> float:
    """Returns the share of captions that score their own video above its reversed twin.

    The columns are V clips, then their V twins in the same order; the rows are the captions of
    all of them. A difference within `tolerance` counts one half; the default suits float32
    logits of about 100, whose rounding it must exceed.
    """
    scores = np.asarray(scores)
    own = _video_of_text(scores, captions_per_video)
    videos = scores.shape[1]
    if videos % 2:
        raise ValueError(f"{videos} videos given; expected clips and as many twins after them.")
    texts = np.arange(len(own))
    lead = scores[texts, own] - scores[texts, (own + videos // 2) % videos]
    if np.isnan(lead).any():
        raise FloatingPointError(f"NaN in row {np.isnan(lead).argmax()} of the scores.")
    return float(np.mean(np.where(np.abs(lead) <= tolerance, 0.5, lead > 0)))


def table(scores: dict[str, float]) -> str:
    """Returns the metrics as lines for the screen: a row per direction, then all other values."""
    names = list(dict.fromkeys(key.rpartition("/")[0] for key in scores if key.endswith("/r1")))
    titles = [_title(name) for name in names]
    others = [key for key in scores if key.rpartition("/")[0] not in names]
    width = max(map(len, [*titles, *others]), default=0)
    lines = []
    if names:
        lines.append("  ".join([" " * width, *(f"{title:>6}" for title in COLUMNS.values())]))
    for name, title in zip(names, titles, strict=True):
        cells = [
            f"{scores[f'{name}/{key}']:>{max(6, len(column))}.1f}"
            for key, column in COLUMNS.items()
        ]
        lines.append("  ".join([title.ljust(width), *cells]))
    lines += [f"{key.ljust(width)}  {scores[key]:>6.4g}" for key in others]
    return "\n".join(lines)


def _title(name: str) -> str:
    group, _, direction = name.rpartition("/")
    return DIRECTIONS.get(direction, direction) + (f" ({group})" if group else "")


def _video_of_text(scores: np.ndarray, captions_per_video: np.ndarray | None) -> np.ndarray:
    """Returns the column of each row's video, once the sizes are seen to fit."""
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"scores have shape {scores.shape}; expected [texts, videos].")
    texts, videos = scores.shape
    counts = np.ones(videos, int) if captions_per_video is None else np.asarray(captions_per_video)
    if counts.shape != (videos,) or counts.sum() != texts:
        raise ValueError(
            f"scores of {texts} texts and {videos} videos do not fit {counts.sum()} captions of"
            f" {counts.size} videos; rows are texts, grouped by video, columns are videos."
        )
    if counts.min() < 1:
        raise ValueError(f"video {counts.argmin()} has {counts.min()} captions; it needs one.")
    return np.repeat(np.arange(videos), counts)


def _count(scores: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns how many columns beat and how many equal (itself too) each row's correct one."""
    rows, columns = scores.shape
    greater, equal = np.empty(rows, np.int64), np.empty(rows, np.int64)
    step = max(1, BLOCK // columns)
    for start in range(0, rows, step):
        block = np.ascontiguousarray(scores[start : start + step])
        missing = np.isnan(block.max(axis=1))
        if missing.any():
            raise FloatingPointError(
                f"NaN in row {start + missing.argmax()} of the scores ({missing.sum()} such rows"
                f" among {len(block)}): the model's output is broken, no rank can be given."
            )
        own = block[np.arange(len(block)), correct[start : start + step], None]
        greater[start : start + step] = np.count_nonzero(block > own, axis=1)
        equal[start : start + step] = np.count_nonzero(block == own, axis=1)
    return greater, equal


def _positions(scores: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Returns ranks by sorting, parity with the original's text to video with many captions.

    Its sort leaves the order of equal scores open; here it is theirs in the row.
    """
    greater, equal = _count(scores, correct)
    for i in np.flatnonzero(equal > 1):
        greater[i] += np.count_nonzero(scores[i, : correct[i]] == scores[i, correct[i]])
    return greater + 1
