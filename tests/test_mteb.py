"""MTEB's own evaluation over a loaded model: its tasks, its scores. Skips where mteb is not."""

import numpy as np
import pytest

import xclip_jax
from xclip_jax import metrics
from xclip_jax.data.jsonl.jsonl_dataset_builder import read_clips

pytest.importorskip("mteb", reason="needs the extra mteb, which brings PyTorch")
from datasets import Dataset, Features, Value, Video
from mteb import evaluate
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import SearchProtocol

from xclip_jax.mteb_adapter import MTEBModel

CLIPS = 6


@pytest.fixture(scope="module")
def model(run):
    return xclip_jax.load(run)


@pytest.fixture(scope="module")
def rendered(shapes):
    """Pairs of a clip's file and its first caption."""
    videos = shapes / "rendered" / "videos"
    clips = read_clips(shapes / "rendered" / "captions.jsonl")
    captions = {clip.video_id: clip.captions[0] for clip in clips}
    names = [f"test-{i:05d}" for i in range(CLIPS)]
    return [(videos / f"{name}.mp4", captions[name]) for name in names]


def task_of(rendered, category: str) -> AbsTaskRetrieval:
    """Returns a task as MTEB defines its own, of the clips' bytes and captions."""
    files = [{"bytes": path.read_bytes(), "path": None} for path, _ in rendered]
    videos = Dataset.from_dict(
        {"id": [f"v{i}" for i in range(CLIPS)], "video": files},
        features=Features({"id": Value("string"), "video": Video()}),
    )
    texts = Dataset.from_dict(
        {"id": [f"t{i}" for i in range(CLIPS)], "text": [caption for _, caption in rendered]}
    )
    queries, corpus = (texts, videos) if category == "t2v" else (videos, texts)

    class Shapes(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=f"Shapes{category.upper()}",
            description="Rendered shapes.",
            reference=None,
            dataset={"path": "none", "revision": "none"},
            type="Any2AnyRetrieval",
            category=category,
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            date=None,
            domains=None,
            task_subtypes=None,
            license=None,
            annotations_creators=None,
            dialect=None,
            modalities=["text", "video"],
            sample_creation=None,
            bibtex_citation="",
        )

        def load_data(self, **options):
            relevant = {a: {b: 1} for a, b in zip(queries["id"], corpus["id"], strict=True)}
            split = {
                "queries": queries,
                "corpus": corpus,
                "relevant_docs": relevant,
                "top_ranked": None,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Shapes()


@pytest.mark.parametrize("category", ["t2v", "v2t"])
def test_mteb_measures_what_evaluation_does(model, rendered, category):
    adapter = MTEBModel(model, "tests/tiny")
    scores = model.similarity([text for _, text in rendered], [path for path, _ in rendered])
    expected = metrics.retrieval(scores, np.ones(CLIPS, int))

    result = evaluate(adapter, task_of(rendered, category), cache=None, co2_tracker=False)

    assert isinstance(adapter, SearchProtocol)
    [measured] = result.task_results[0].scores["test"]
    for k in (1, 5):
        recall = 100 * measured[f"recall_at_{k}"]
        assert recall == pytest.approx(expected[f"{category}/r{k}"], abs=1e-3)


def test_videos_that_cannot_be_read_are_named(model, rendered):
    videos = Dataset.from_dict(
        {"id": ["a", "b"], "video": [{"bytes": b"none", "path": None}] * 2},
        features=Features({"id": Value("string"), "video": Video()}),
    )

    with pytest.raises(ValueError, match="2 of 2 clips cannot be read:\n  corpus a: unreadable"):
        MTEBModel(model, "tests/tiny").index(videos)


def test_texts_alone_are_refused(model):
    texts = Dataset.from_dict({"id": ["a"], "text": ["a circle"]})
    adapter = MTEBModel(model, "tests/tiny")
    adapter.index(texts)

    with pytest.raises(ValueError, match="queries and corpus are texts"):
        adapter.search(texts, top_k=1)
