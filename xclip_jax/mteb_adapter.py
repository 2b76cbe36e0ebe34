"""A trained model for MTEB's video retrieval tasks, text to video and video to text.

It speaks MTEB's `SearchProtocol`, not that of encoders: X-CLIP's score is no product of vectors.

    import mteb, xclip_jax
    from xclip_jax.mteb_adapter import MTEBModel

    model = MTEBModel(xclip_jax.load("runs/mine"), "me/my-model")
    mteb.evaluate(model, mteb.get_tasks(["MSVDT2VRetrieval"]))
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from xclip_jax import clip_features, few_shapes, library, sources, video

try:
    from datasets import Dataset, Video
    from mteb.models.model_meta import ModelMeta, ScoringFunction
except ImportError as error:
    raise ImportError(
        f"{error.name} is missing: MTEB's tasks need pip install 'xclip_jax[mteb]'."
    ) from None


class Side(NamedTuple):
    """Queries or documents: their ids, whether they are videos, and their features."""

    ids: list[str]
    videos: bool
    features: tuple


class MTEBModel:
    """MTEB's `SearchProtocol` over a loaded model.

    Videos are sampled from their files as in training, whatever frames MTEB would choose. A sound
    track is not heard, and an instruction for queries not given to the model, which knows captions.
    """

    def __init__(self, model: library.Model, name: str):
        if name.count("/") != 1:
            raise ValueError(f"name={name!r}: MTEB expects organisation/model.")
        self.model, self.name = model, name
        self.corpus: Side | None = None

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What MTEB writes beside the results; what the model was trained on it cannot know."""
        trained = self.model.trained
        return ModelMeta(
            loader=None,
            name=self.name,
            revision=self.model.fingerprint[:16],
            release_date=None,
            languages=["eng-Latn"],
            n_parameters=sum(leaf.size for leaf in jax.tree.leaves(trained.params)),
            memory_usage_mb=None,
            max_tokens=trained.intake.max_words,
            embed_dim=None,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["JAX"],
            similarity_fn_name=ScoringFunction.CUSTOM,
            use_instructions=False,
            training_datasets=None,
            modalities=["text", "video"],
            model_type=["late-interaction"],
        )

    def index(self, corpus: Dataset, **about_the_task) -> None:
        """Encodes the documents of a task."""
        self.corpus = self._encode(corpus, "corpus")

    def search(
        self,
        queries: Dataset,
        *,
        top_k: int,
        top_ranked: dict[str, list[str]] | None = None,
        **about_the_task,
    ) -> dict[str, dict[str, float]]:
        """Returns for each query the scores of its `top_k` documents, of those in `top_ranked`
        where a task gives them."""
        if self.corpus is None:
            raise ValueError("search was called before index.")
        asked = self._encode(queries, "queries")
        if asked.videos == self.corpus.videos:
            both = "videos" if asked.videos else "texts"
            raise ValueError(
                f"queries and corpus are {both}: this model compares texts with videos."
            )
        text, clips = (self.corpus, asked) if asked.videos else (asked, self.corpus)
        scores = few_shapes.score(
            self.model.encoders,
            self.model.trained.params,
            text.features,
            clips.features,
            progress=False,
        )
        scores = scores.T if asked.videos else scores
        places = {name: j for j, name in enumerate(self.corpus.ids)}
        found = {}
        for query, row in zip(asked.ids, scores, strict=True):
            allowed = np.arange(len(row))
            if top_ranked is not None:
                allowed = np.array([places[name] for name in top_ranked.get(query, [])], int)
            best = allowed[np.argsort(-row[allowed], kind="stable")[:top_k]]
            found[query] = {self.corpus.ids[j]: float(row[j]) for j in best}
        return found

    def _encode(self, rows: Dataset, what: str) -> Side:
        ids = [str(name) for name in rows["id"]]
        if "video" in rows.column_names:
            return Side(ids, True, self._encode_videos(rows, ids, what))
        if "text" not in rows.column_names:
            raise ValueError(
                f"{what} has the columns {', '.join(rows.column_names)}: expected text or video."
            )
        texts = list(rows["text"])
        if what == "corpus" and "title" in rows.column_names:
            pairs = zip(rows["title"], texts, strict=True)
            texts = [f"{title} {text}".strip() for title, text in pairs]
        return Side(ids, False, self.model.encode_text(texts))

    def _encode_videos(self, rows: Dataset, ids: list[str], what: str) -> tuple:
        trained = self.model.trained
        rows = rows.cast_column("video", Video(decode=False))  # the file; it is decoded here

        def read(i: int):
            stored = rows[i]["video"]
            source = stored["bytes"] if stored["bytes"] is not None else stored["path"]
            name = f"{what} {ids[i]}"
            return sources.sample(source, name, trained.intake, trained.frame_policy, most=None)

        return _stacked(
            clip_features.encode(
                trained, self.model.encoders, clip_features.in_threads(read, range(len(rows)))
            )
        )


def _stacked(clips: Iterable) -> tuple:
    good, wrong = [], []
    for clip in clips:
        if isinstance(clip, video.VideoError):
            wrong.append(str(clip))
        else:
            good.append(clip.features)
    if wrong:
        raise ValueError(library.unreadable(wrong, len(good) + len(wrong)))
    return jax.tree.map(lambda *x: np.stack(x), *good)
