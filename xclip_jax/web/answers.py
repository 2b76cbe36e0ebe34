"""What the model says of the videos of an index; all of it is called from one thread."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from xclip_jax import clip_features, few_shapes, moments, sampling
from xclip_jax.explain import breakdown, grid
from xclip_jax.index import query, spans, store
from xclip_jax.index.update import feature_type
from xclip_jax.web.lookups import Rows
from xclip_jax.web.recent import Recent
from xclip_jax.web.refusals import Refused

TOGETHER, WORTH = 16, 6  # texts encoded at a time, and from how many on that is quicker
TEXTS = 64 * 2**20  # bytes of the features of texts that are kept
WINDOWS = 128 * 2**20  # likewise of windows over videos


class Why(NamedTuple):
    """An explanation without padding: `similarities` and `attention` are [W][F], empty where the
    model does not compare words with frames."""

    found: breakdown.Explanation
    words: list[str]
    times: list[float]
    similarities: list[list[float]]
    attention: list[list[float]]


class Answers:
    """A searcher over the latest rows, with what it computed lately.

    `parts` are the granularities that the model's score is made of.
    """

    def __init__(self, searcher: query.Searcher):
        self.rows = Rows(searcher.index.place)
        self._searcher = searcher
        self._texts, self._windows = Recent(TEXTS), Recent(WINDOWS)
        self._expected: dict[str, None] = {}
        self.parts: list[str] = []

    @functools.cached_property
    def _blank(self) -> np.ndarray:
        return clip_features.blank(self._searcher.trained, self._searcher.encoders)

    def searcher(self) -> query.Searcher:
        """Returns what `index.query` takes, up to date."""
        return self._searcher._replace(index=self.rows.fresh())

    def text(self, asked: str):
        """Returns the features of one text, a row of each."""
        kept = self._texts.get(asked)
        if kept is not None:
            return kept
        self._expected.pop(asked, None)
        waiting = list(self._expected)[: TOGETHER - 1]
        together = [asked, *(waiting if len(waiting) + 1 >= WORTH else [])]
        features = query.encode(self._searcher, together)
        for i, each in enumerate(together):
            row = jax.tree.map(lambda x, i=i: x[i : i + 1].copy(), features)
            self._texts.put(each, row, _bytes(row))
            self._expected.pop(each, None)
        return self._texts.get(asked)

    def expect(self, asked: str) -> None:
        """Is told of a text that waits: many are encoded together. May come from any thread."""
        if self._texts.get(asked) is None:
            self._expected[asked] = None

    def forget(self, asked: str) -> None:
        """Is told that a text waits no more, answered or not."""
        self._expected.pop(asked, None)

    def search(self, asked: str, *, k: int, where: str | None, exact: bool) -> list[query.Hit]:
        """Returns the best videos for a text."""
        searcher = self.searcher()
        if not searcher.index.videos.count_rows():
            return []
        [found] = query.search(searcher, self.text(asked), k=k, where=where, exact=exact)
        return found.hits

    def like(self, sha256: str, *, k: int, where: str | None) -> list[query.Hit]:
        """Returns the videos most like one of the index, without itself and its copies."""
        searcher, row = self.searcher(), self._row(sha256, ["video"])
        vector = np.asarray(row["video"][0].values, np.float32)[None]
        copies = len(self.rows.of(sha256))
        [found] = query.like(searcher, vector, k=k + copies, where=where)
        return [hit for hit in found.hits if hit.sha256 != sha256][:k]

    def like_clip(self, clip: sampling.Sampled, *, k: int, where: str | None) -> list[query.Hit]:
        """Returns the videos most like a clip."""
        searcher = self.searcher()
        if not searcher.index.videos.count_rows():
            return []
        [encoded] = clip_features.encode(searcher.trained, searcher.encoders, [clip])
        vector = np.asarray(encoded.features.video, np.float32)[None]
        [found] = query.like(searcher, vector, k=k, where=where)
        return found.hits

    def spans(self, sha256: str, asked: str, *, k: int) -> list[moments.Span]:
        """Returns the parts of a video that fit a text best."""
        if not self._searcher.index.facts["moment_frames"]:
            raise Refused(
                409,
                "this index keeps no frames to find moments by: index again into another one with"
                " --moment-frames 64, say.",
            )
        _, trained, encoders = self._searcher
        windows = self._windows.of(sha256, lambda: self._encoded_windows(sha256), _bytes)
        return moments.rank(encoders, trained.params, self.text(asked), windows, k=k)[0]

    def why(self, sha256: str, asked: str) -> Why:
        """Returns why a video has its score for a text."""
        index, trained, _ = self._searcher
        rows = self._row(sha256, [*store.fields(index), "times"])
        features = store.features(index, rows, feature_type(trained))
        text, video = (jax.tree.map(lambda x: x[0], one) for one in (self.text(asked), features))
        found = breakdown.explain(trained.graphdef, trained.params, text, video)
        [ids], [mask] = trained.tokenizer([asked], trained.intake.max_words)
        words = [grid.MARKERS.get(word, word) for word in trained.tokenizer.decode_words(ids[mask])]
        times = rows["times"][0].as_py()
        part = found.parts.get("frame_word")
        cut = [
            [] if part is None else x[: len(words), : len(times)].tolist()
            for x in (part and part.similarities, part and part.attention)
        ]
        return Why(found, words, times, *cut)

    def warm(self, say: Callable[[str], None]) -> None:
        """Compiles what any request may need; `say` is told what is under way."""
        _, trained, encoders = self._searcher
        say("compiling search")
        self.search("a warm-up", k=10, where=None, exact=False)
        query.encode(self._searcher, ["a warm-up"] * TOGETHER)
        videos, _ = self.rows.page(0, 1)
        if videos:
            say("compiling explanations")
            self.parts = list(self.why(videos[0].sha256, "a warm-up").found.parts)
        say("compiling the image tower, for clips to search by")
        size, most = trained.intake.image_size, trained.intake.max_frames
        taken = np.arange(most)
        pixels = np.zeros((most, size, size, 3), np.uint8)
        blank = sampling.Sampled(pixels, taken.astype(np.float32), taken, taken)
        list(clip_features.encode(trained, encoders, [blank]))
        if kept := self._searcher.index.facts["moment_frames"]:
            say("compiling moments")
            for count in _counts(kept):
                frames = np.zeros((count, len(self._blank)), np.float32)
                found = moments.encode(
                    encoders,
                    trained.params,
                    frames,
                    np.arange(count, dtype=np.float32),
                    blank=self._blank,
                    max_frames=trained.intake.max_frames,
                )
                moments.rank(encoders, trained.params, self.text("a warm-up"), found, k=1)

    def _row(self, sha256: str, columns: list[str]):
        """Returns some columns of one video, a PyArrow table of one row."""
        path = self.rows.of(sha256)[0].path
        query_ = self.rows.fresh().videos.search().where(f"path = {store.quoted(path)}")
        rows = query_.select(columns).limit(1).to_arrow()
        if not rows.num_rows:  # gone in between
            raise Refused(404, f"no video of the index has the id {sha256} any more.")
        return rows

    def _encoded_windows(self, sha256: str) -> moments.Windows:
        searcher, path = self.searcher(), self.rows.of(sha256)[0].path
        try:
            return spans.windows_of(searcher, path, blank=self._blank)
        except ValueError:  # gone in between
            raise Refused(404, f"no video of the index has the id {sha256} any more.") from None


def _counts(most: int) -> list[int]:
    """Returns counts of frames whose windows come in every size that is compiled, up to `most`."""
    found = {}
    for count in range(1, most + 1):
        found[few_shapes.rounded(len(moments.windows(count)))] = count  # the last of its size
    return list(found.values())


def _bytes(features) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(features))
