"""`xclip-jax demo`: the whole path on the embedded data set, from rendered clips to answers."""

import time
from pathlib import Path

import jax
import numpy as np

from xclip_jax import evaluate, metrics, report, scoring, train, workdir
from xclip_jax.configs import shapes
from xclip_jax.data import synthetic
from xclip_jax.data.build import build
from xclip_jax.data.jsonl.jsonl_dataset_builder import read_clips
from xclip_jax.records import Shards

CLIPS = 2000  # training clips, their twins among them
EPOCHS = 2.5
QUERIES = 4
SHOWN = 4  # clips a query


def run(out: Path) -> dict[str, float]:
    """Renders, builds, trains, evaluates and searches in the folder `out`; returns the metrics.

    What is there already is not done again.
    """
    start = time.perf_counter()

    def say(text: str) -> None:
        print(f"\n[{time.perf_counter() - start:4.0f} s] {text}", flush=True)

    say("1/5  rendering clips of moving shapes")
    facts = synthetic.render(out / "rendered", train_clips=CLIPS)
    say("2/5  building TFRecord shards")
    build(
        read_clips(out / "rendered" / "captions.jsonl"),
        out / "shards",
        name="shapes",
        short_side=64,
        source="embedded data set",
        vocab=out / "rendered" / "merges.txt",
    )
    say("3/5  training a small X-CLIP from scratch")
    config = shapes.get_config()
    config.data.dir = str(out / "shards")
    config.epochs = EPOCHS
    config.eval_every_steps = config.save_every_steps = 10**6  # at the end only
    scores = train.train_and_evaluate(config, out / "run", progress=True)

    say("4/5  results on clips that were not in training")
    print(metrics.table(scores))
    print(chances(facts))
    say("5/5  searching the test clips and their twins")
    answers = ask(out, synthetic.queries(out / "rendered", count=QUERIES))
    for query, found in answers.items():
        print(f"  {query}")
        for answer in found:
            print(
                f"    {answer.score:7.2f}  {answer.video_id}{'  <- right' if answer.right else ''}"
            )
    page = out / "report.html"
    report.write(
        page,
        title="xclip_jax demo: search in clips of moving shapes",
        summary=f"{CLIPS} training clips, {config.batch_size} pairs a step. {chances(facts)}",
        metrics_file=out / "run" / "metrics.jsonl",
        scores=scores,
        answers=answers,
    )
    say(f"done; open {page}")
    return scores


def chances(facts: dict) -> str:
    """Returns what guessing, and what a model blind to the order of frames, could reach."""
    parts = [
        f"{name}: chance {bound['chance']:g}, blind to order at most {bound['order_blind']:g}"
        for name, bound in facts.items()
        if isinstance(bound, dict) and "chance" in bound
    ]
    return "; ".join(parts) + "."


def ask(out: Path, queries: list[tuple[str, str]]) -> dict[str, list[report.Answer]]:
    """Returns for each query (text, right id) the best of the test clips and their twins."""
    trained = workdir.load(out / "run")
    encoders = evaluate.make_encoders(trained.graphdef)
    records, features = [], []
    for split in ("test", "twins"):
        shards = Shards(out / "shards", split)
        records += [shards[i] for i in range(len(shards))]
        _, video = evaluate.encode_split(
            encoders,
            trained.params,
            shards,
            trained.intake,
            batch_size=trained.config.eval_batch_size,
            progress=False,
        )
        features.append(video)
    video = jax.tree.map(lambda *parts: np.concatenate(parts), *features)
    text = evaluate.encode_texts(
        encoders,
        trained.params,
        trained.tokenizer,
        [query for query, _ in queries],
        max_words=trained.intake.max_words,
        batch_size=len(queries),
    )
    scores = scoring.score(encoders, trained.params, text, video, progress=False)
    answers = {}
    for (query, right), row in zip(queries, scores, strict=True):
        best = np.argsort(-row, kind="stable")[:SHOWN]
        answers[query] = [
            report.Answer(
                records[j].video_id, float(row[j]), records[j].frames, records[j].video_id == right
            )
            for j in best
        ]
    return answers
