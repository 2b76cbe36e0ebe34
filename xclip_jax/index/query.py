"""Search in an index: many videos by their vectors, then the model's own score on the candidates.

A text's vector is its sentence times the model's `global_mat_weight`, which X-CLIP puts between
sentence and video: so the stored vectors are the same whatever is asked. The candidates get the
whole score, of all four granularities in X-CLIP. `exact` scores every video instead, in tiles.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from xclip_jax import evaluate, scoring
from xclip_jax.index import qb_norm, store
from xclip_jax.index.update import feature_type
from xclip_jax.parallel import row_sharding
from xclip_jax.workdir import Trained

CANDIDATES = 256
TILE = 2048  # videos in memory at a time where all are scored
TEXT_SIZES = (1, 16, 64)  # a program for each
FACTS = ("path", "sha256", "duration", "metadata")


class Hit(NamedTuple):
    """A video found: `score` is the model's, or the cosine where a video was asked for."""

    path: str
    score: float
    duration: float
    metadata: dict
    sha256: str


class Found(NamedTuple):
    """The answers to one query, best first; `normalized` where QB-Norm decided their order."""

    hits: list[Hit]
    normalized: bool = False


class Searcher(NamedTuple):
    """An index and the model that its features are of."""

    index: store.Index
    trained: Trained
    encoders: evaluate.Encoders


def texts(searcher: Searcher, queries: Sequence[str], *, bank: Sequence[str] = (), **options):
    """Returns the best videos for each query; `bank` and `options` are those of `search`."""
    against = encode(searcher, bank) if bank else None
    return search(searcher, encode(searcher, queries), bank=against, **options)


def search(
    searcher: Searcher,
    text,
    *,
    k: int,
    where: str | None = None,
    exact: bool = False,
    candidates: int = CANDIDATES,
    bank=None,
) -> list[Found]:
    """Returns the `k` best videos for each text, given as features.

    Args:
        where: an SQL expression over the index's columns that the videos must meet.
        exact: scores all of them.
        candidates: how many the first stage hands on, where not all are scored.
        bank: features of other texts, against which QB-Norm sets the scores.
    """
    if exact:
        return _exact(searcher, text, bank, k=k, where=where)
    count = max(k, candidates)
    hubs = set()
    if bank is not None:
        for row in _rows(bank):
            pool, scores, _ = _candidates(searcher, row, count, where)
            hubs |= {hit.path for hit in _best(pool, scores, scores, 1)}
    found = []
    for row in _rows(text):
        pool, scores, video = _candidates(searcher, row, count, where)
        first = _best(pool, scores, scores, 1)
        normalized = bool(first) and first[0].path in hubs
        order = scores
        if normalized:
            against = _score(searcher, bank, video)[:, : len(scores)]
            order = qb_norm.normalize(scores[None], against, beta=_beta(searcher))[0]
        found.append(Found(_best(pool, scores, order, k), normalized))
    return found


def like(
    searcher: Searcher, vectors: np.ndarray, *, k: int, where: str | None = None
) -> list[Found]:
    """Returns the `k` videos nearest to each video vector [N, E], by the cosine of the vectors."""
    found = []
    for vector in vectors:
        pool = nearest(searcher.index, vector, max(k, CANDIDATES), where, [*FACTS, "video"])
        stored = pool["video"].combine_chunks().flatten().to_numpy().reshape(-1, len(vector))
        scores = stored.astype(np.float32) @ vector
        found.append(Found(_best(pool, scores, scores, k)))
    return found


def encode(searcher: Searcher, queries: Sequence[str]):
    """Returns the features of texts, a single one at a batch size of one."""
    size = next((size for size in TEXT_SIZES if size >= len(queries)), TEXT_SIZES[-1])
    trained = searcher.trained
    return evaluate.encode_texts(
        searcher.encoders,
        trained.params,
        trained.tokenizer,
        list(queries),
        max_words=trained.intake.max_words,
        batch_size=size,
    )


def vectors(searcher: Searcher, text) -> np.ndarray:
    """Returns what the first stage compares with the videos' vectors, [T, E]."""
    matrix = searcher.trained.params.get("global_mat_weight")
    return text.sentence if matrix is None else text.sentence @ np.asarray(matrix)


def read_queries(file: str | Path) -> list[str]:
    """Returns the texts of a file, one a line; empty lines do not count."""
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is no file: expected one query a line.")
    try:
        found = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error.reason}).") from None
    if not any(found):
        raise ValueError(f"{file} holds no query: expected one a line.")
    return [line for line in found if line]


def _rows(text):
    """Yields each text as features of one."""
    for i in range(len(text.mask)):
        yield jax.tree.map(lambda x, i=i: x[i : i + 1], text)


def _candidates(searcher: Searcher, text, count: int, where: str | None):
    """Returns what the first stage finds for one text, a PyArrow table, its scores [C], and its
    features, padded to `count`."""
    index = searcher.index
    [vector] = vectors(searcher, text)
    pool = nearest(index, vector, count, where, [*FACTS, *store.fields(index)])
    video = store.features(index, pool, feature_type(searcher.trained))
    video = jax.tree.map(
        lambda x: row_sharding.fill(x, count), video
    )  # one program, however many there are
    scores = _score(searcher, text, video)[0]
    return pool, scores[: pool.num_rows], video


def nearest(index: store.Index, vector: np.ndarray, count: int, where: str | None, columns):
    """Returns the rows whose vectors are nearest, as a PyArrow table."""
    query = index.videos.search(vector, vector_column_name="video").distance_type("dot")
    # 0: all partitions. With a few a narrow filter would find nothing, and clusters are cut.
    query = query.limit(count).minimum_nprobes(20).maximum_nprobes(0)
    if where:
        query = query.where(where)
    with store.filtering(where):
        # Two steps: LanceDB takes the columns of known rows faster than it hands them on.
        rows = query.with_row_id(True).select(["_distance"]).to_arrow()["_rowid"].to_pylist()
    return index.videos.take_row_ids(rows).select(list(columns)).to_arrow()


def _score(searcher: Searcher, text, video) -> np.ndarray:
    encoders, params = searcher.encoders, searcher.trained.params
    return scoring.score(encoders, params, text, video, progress=False)


def _exact(searcher: Searcher, text, bank, *, k: int, where: str | None) -> list[Found]:
    """Scores every video, `TILE` at a time, and keeps the best of each query, both ways."""
    count = len(text.mask)
    asked = text if bank is None else jax.tree.map(lambda *x: np.concatenate(x), text, bank)
    plain: list[list] = [[] for _ in range(len(asked.mask))]
    normal: list[list] = [[] for _ in range(count)]
    index = searcher.index
    for pool in store.scan(index, [*FACTS, *store.fields(index)], where=where, rows=TILE):
        video = store.features(index, pool, feature_type(searcher.trained))
        size = min(TILE, -(-pool.num_rows // CANDIDATES) * CANDIDATES)
        video = jax.tree.map(lambda x, size=size: row_sharding.fill(x, size), video)
        scores = _score(searcher, asked, video)[:, : pool.num_rows]
        for i, row in enumerate(scores):
            wanted = k if i < count else 1
            plain[i] = _merged(plain[i], pool, row, row, wanted)
        if bank is not None:
            order = qb_norm.normalize(scores[:count], scores[count:], beta=_beta(searcher))
            for i in range(count):
                normal[i] = _merged(normal[i], pool, scores[i], order[i], k)
    hubs = {hit.path for held in plain[count:] for _, hit in held}
    found = []
    for held, other in zip(plain[:count], normal, strict=True):
        normalized = bool(held) and held[0][1].path in hubs
        chosen = other if normalized else held
        found.append(Found([hit for _, hit in chosen], normalized))
    return found


def _merged(held: list, pool, scores: np.ndarray, order: np.ndarray, k: int) -> list:
    """Returns the `k` best (order, hit) of those held and those of a tile."""
    places = _places(pool, order, k)
    new = [(float(order[i]), _hit(pool, i, scores[i])) for i in places]
    return sorted([*held, *new], key=lambda one: (-one[0], one[1].path))[:k]


def _best(pool, scores: np.ndarray, order: np.ndarray, k: int) -> list[Hit]:
    return [_hit(pool, i, scores[i]) for i in _places(pool, order, k)]


def _places(pool, order: np.ndarray, k: int) -> list[int]:
    """Returns the `k` rows of the highest `order`; equal ones by their paths."""
    best = np.argsort(-order, kind="stable")
    if len(best) > k:  # as many as are not below the last that is wanted
        best = best[order[best] >= order[best[k - 1]]]
    paths = pool["path"]
    return sorted(best.tolist(), key=lambda i: (-order[i], paths[i].as_py()))[:k]


def _hit(pool, i: int, score: float) -> Hit:
    metadata = json.loads(pool["metadata"][i].as_py() or "{}")
    path, duration, sha256 = (pool[name][i].as_py() for name in ("path", "duration", "sha256"))
    return Hit(path, float(score), duration, metadata, sha256)


def _beta(searcher: Searcher) -> float:
    """Returns QB-Norm's inverse temperature for this model's scores, which are scaled cosines."""
    clip = searcher.trained.params["clip"]
    model = searcher.trained.config.model
    scaled = model.get("head") != "tightTransf" and model.get("aggregation") != "transformer"
    return qb_norm.BETA / float(np.exp(clip["logit_scale"])) if scaled else qb_norm.BETA
