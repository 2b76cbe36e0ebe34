"""How an index answers: size, build time, latency and recall of two stages, as a JSON line.

python benchmarks/search.py [--videos 20000] [--queries 20] [--candidates 256] [--folder DIR]
python benchmarks/search.py --videos 1000000 --queries 10      # 27 GB, ten minutes

Synthetic features of CLIP ViT-B/32's width, made in pieces: clusters of 100 videos around random
directions, cosine 0.67 within one; 12 frames a video, cosine 0.82 to it. A text is drawn around
one video: its sentence has cosine 0.55 to it, each of its 32 words 0.4 to 0.5 to a frame. The
score is X-CLIP's with all four contrasts. Recall is against `--exact`, the ranking of all videos.
"""

import argparse
import functools
import tempfile
import time
from pathlib import Path

import jax
import measure
import ml_collections
import numpy as np
from similarity import EMBED, TOWERS
from tqdm import tqdm

from xclip_jax import evaluate, models
from xclip_jax.index import ann, query, store
from xclip_jax.index.rows import Row
from xclip_jax.models.similarity import Text, Video
from xclip_jax.workdir import Trained

FRAMES, WORDS = 12, 32
CLUSTER = 100
PIECE = 5000
ADDED = 1000


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--candidates", type=int, default=query.CANDIDATES)
    parser.add_argument("--folder", help="where to put the index (default: a temporary folder)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        run(args, Path(folder))


def run(args, folder: Path) -> None:
    """Makes an index, searches it, adds videos and finds them; prints what it took."""
    searcher, write_seconds = make(args.videos, folder)
    _, tidy_seconds = measure.timed(ann.tidy, searcher.index)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    text = texts(range(args.queries), args.videos)

    options = {"k": 10, "candidates": args.candidates}
    found, whole = ask(searcher, text, options)
    first = []
    for vector in query.vectors(searcher, text):
        start = time.perf_counter()
        query.nearest(searcher.index, vector, args.candidates, None, ["path"])
        first.append(1000 * (time.perf_counter() - start))
    everything = functools.partial(query.search, k=10, exact=True)
    exact, exact_seconds = measure.timed(everything, searcher, text)
    hits = [
        len({hit.path for hit in one.hits} & {hit.path for hit in other.hits})
        for one, other in zip(found, exact, strict=True)
    ]
    own = [one.hits[0].path == path_of(target(i, args.videos)) for i, one in enumerate(exact)]

    start = time.perf_counter()
    store.put(searcher.index, rows(args.videos, ADDED), replace=False)
    ann.tidy(searcher.index)
    add_seconds = time.perf_counter() - start
    later = texts(range(args.queries), ADDED, start=args.videos)
    found, _ = ask(searcher, later, options)
    seen = [
        one.hits[0].path == path_of(args.videos + target(i, ADDED)) for i, one in enumerate(found)
    ]
    measure.report(
        "search",
        videos=args.videos,
        frames=FRAMES,
        words=WORDS,
        embed_dim=EMBED,
        queries=args.queries,
        candidates=args.candidates,
        write_seconds=round(write_seconds, 1),
        tidy_seconds=round(tidy_seconds, 1),
        gigabytes=round(size / 1e9, 3),
        first_stage_ms=percentiles(first),
        whole_ms=percentiles(whole),
        exact_seconds_a_query=round(exact_seconds / args.queries, 2),
        recall_at_10=round(sum(hits) / (10 * len(hits)), 4),
        own_video_first=round(float(np.mean(own)), 3),
        added=ADDED,
        add_seconds=round(add_seconds, 1),
        added_found_first=round(float(np.mean(seen)), 3),
        **measure.peak_memory(),
    )


def make(videos: int, folder: Path) -> tuple[query.Searcher, float]:
    """Returns the index of so many videos with a model to search it, and the seconds it took to
    write, which are not those of drawing the features."""
    sizes = TOWERS | {"embed_dim": EMBED, "max_words": WORDS, "max_frames": FRAMES}
    graphdef, _ = models.create("xclip", **sizes)
    params = models.init(jax.random.key(0), "xclip", **sizes)
    config = ml_collections.ConfigDict({"model": {"name": "xclip", "head": "meanP"}})
    trained = Trained(graphdef, params, 0, None, config, None, {}, {}, "")
    shapes = {
        "video": ((EMBED,), "f"),
        "frames": ((FRAMES, EMBED), "f"),
        "mask": ((FRAMES,), "b"),
    }
    facts = {"model": "synthetic", "of": "synthetic features", "moment_frames": 0}
    index = store.create(folder / "index", facts, shapes)
    seconds = 0.0
    for start in tqdm(range(0, videos, PIECE), "writing", unit="piece"):
        piece = rows(start, min(PIECE, videos - start))
        seconds += measure.timed(functools.partial(store.put, replace=False), index, piece)[1]
    return query.Searcher(index, trained, evaluate.make_encoders(graphdef)), seconds


def ask(searcher: query.Searcher, text: Text, options: dict) -> tuple[list, list[float]]:
    """Returns the answers to each text asked alone, and the milliseconds of each, compiled."""
    one = [jax.tree.map(lambda x, i=i: x[i : i + 1], text) for i in range(len(text.mask))]
    query.search(searcher, one[0], **options)
    found, took = [], []
    for each in one:
        answers, seconds = measure.timed(functools.partial(query.search, **options), searcher, each)
        found += answers
        took.append(1000 * seconds)
    return found, took


def rows(start: int, count: int) -> list[Row]:
    """Returns the videos of these numbers."""
    times = np.arange(FRAMES, dtype=np.float32)
    drawn = [features(i) for i in range(start, start + count)]
    return [
        Row(path_of(i), f"{i:064x}", i, i, "synthetic", float(FRAMES), times, video, {})
        for i, video in enumerate(drawn, start)
    ]


def features(number: int) -> Video:
    """Returns the features of one video, the same whenever asked for."""
    center = np.random.default_rng([0, number // CLUSTER]).standard_normal(EMBED, np.float32)
    noise = np.random.default_rng([1, number]).standard_normal((1 + FRAMES, EMBED), np.float32)
    video = unit(center + 0.7 * noise[0])
    frames = unit(video + 0.7 * noise[1:] / EMBED**0.5)
    return Video(video, frames, np.ones(FRAMES, bool))


def target(i: int, videos: int) -> int:
    """Returns the number of the video that query i is drawn around."""
    return int(np.random.default_rng([2, i]).integers(videos))


def texts(numbers: range, videos: int, *, start: int = 0) -> Text:
    """Returns texts drawn around videos `start` and after."""
    sentences, words = [], []
    for i in numbers:
        video = features(start + target(i, videos))
        noise = np.random.default_rng([3, i]).standard_normal((1 + WORDS, EMBED), np.float32)
        noise /= EMBED**0.5
        sentences.append(unit(video.video + 1.5 * noise[0]))
        about = video.frames[np.arange(WORDS) % FRAMES]
        words.append(unit(about + 2.0 * noise[1:]))
    mask = np.ones((len(sentences), WORDS), bool)
    return Text(np.stack(sentences), np.stack(words), mask)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def path_of(number: int) -> str:
    return f"/videos/{number:07d}.mp4"


def percentiles(milliseconds: list[float]) -> dict[str, float]:
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return {"p50": round(p50, 1), "p95": round(p95, 1)}


if __name__ == "__main__":
    main()
