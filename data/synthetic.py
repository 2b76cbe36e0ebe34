"""The embedded data set `shapes`: rendered clips of moving shapes, with captions and facts.

Every clip has a twin, the same frames played backwards and captioned accordingly, so that only a
model that sees the order of the frames can tell them apart. No test scene, nor its twin, is ever
trained on. The same seed gives the same bytes, whatever the number of workers.
"""

import io
import itertools
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from tqdm import tqdm

from xclip_jax.data import grammar, scenes
from xclip_jax.data.scenes import Scene

CAPTIONS = 5  # per clip
# Every frame is coded for itself with one quantiser: a clip and its twin decode to the same pixels.
CODEC = {
    "preset": "veryfast",
    "qp": "24",
    "x264-params": "keyint=1:bframes=0:scenecut=0:rc-lookahead=0:sync-lookahead=0:threads=1",
}


class Clip(NamedTuple):
    """One clip to render; its twin has the same frames, reversed, and captions of its own."""

    name: str
    split: str
    twin_split: str
    scene: Scene
    seed: tuple[int, ...]


def render(
    out, *, train_clips: int, test_clips: int = 100, seed: int = 0, workers: int | None = None
) -> dict:
    """Writes videos/, captions.jsonl, merges.txt and facts.json to the folder `out`; returns facts.

    `train_clips` counts clips and twins. A broken run goes on where it stopped.
    """
    if train_clips < 2 or train_clips % 2 or test_clips < 1:
        raise ValueError(
            f"train_clips={train_clips}, test_clips={test_clips}: give an even train_clips of 2 or"
            " more (half of them are the twins of the others) and a test_clips of 1 or more."
        )
    if "libx264" not in av.codecs_available:
        raise ValueError(
            "this build of PyAV cannot write H.264: install its wheel from PyPI (pip install av)."
        )
    out = Path(out)
    clips = plan(train_clips, test_clips, seed=seed)
    listing = "".join(json.dumps(entry) + "\n" for entry in entries(clips))
    listed = out / "captions.jsonl"
    if listed.exists() and listed.read_text() != listing:
        raise ValueError(
            f"{out} holds another rendering (other sizes, seed or version): remove it, or choose"
            " another folder."
        )
    (out / "videos").mkdir(parents=True, exist_ok=True)
    _replace(listed, listing.encode())
    rules = "".join(f"{first} {second}\n" for first, second in grammar.merges())
    _replace(out / "merges.txt", ("#version: 0.2\n" + rules).encode())

    missing = [clip for clip in clips if not all(p.exists() for p in _paths(out, clip))]
    _render_all(out, missing, workers=min(workers or os.cpu_count() or 1, len(missing) or 1))

    facts = {"seed": seed, **facts_of(clips)}
    _replace(out / "facts.json", (json.dumps(facts, indent=2) + "\n").encode())
    return facts


def plan(train_clips: int, test_clips: int, *, seed: int) -> list[Clip]:
    """Returns the clips to render, without their twins: those of the test first.

    Test scenes are all different as long as a quarter of all there are suffices for them.
    """
    rng = np.random.default_rng(seed)
    # One of each pair of twins, whatever its size and place: the other is held out with it.
    kinds = [
        Scene(colour, form, "", "", actions)
        for colour, form, actions in itertools.product(
            scenes.COLOURS, scenes.FORMS, scenes.action_sequences()
        )
    ]
    kinds = [kind for kind in kinds if kind <= scenes.twin(kind)]
    kinds = [kinds[i] for i in rng.permutation(len(kinds))]
    held_out = min(test_clips, len(kinds) // 4)

    def clip(number, split, twin_split, kinds):
        kind = kinds[number % len(kinds)]
        scene = kind if rng.integers(2) else scenes.twin(kind)
        scene = scene._replace(
            size=str(rng.choice(scenes.sizes(scene.actions))),
            place=str(rng.choice(scenes.places(scene.actions))),
        )
        name = f"{split}-{number:05d}"
        return Clip(name, split, twin_split, scene, (seed, int(split == "train"), number))

    test = [clip(i, "test", "twins", kinds[:held_out]) for i in range(test_clips)]
    train = [clip(i, "train", "train", kinds[held_out:]) for i in range(train_clips // 2)]
    return test + train


def entries(clips: list[Clip]) -> Iterable[dict]:
    """Yields the lines of captions.jsonl: each clip, and after it its twin."""
    for clip in clips:
        for name, split, scene, is_twin in (
            (clip.name, clip.split, clip.scene, 0),
            (f"{clip.name}-twin", clip.twin_split, scenes.twin(clip.scene), 1),
        ):
            captions = grammar.captions(
                scene, np.random.default_rng((*clip.seed, 1 + is_twin)), count=CAPTIONS
            )
            yield {"video": f"videos/{name}.mp4", "captions": captions, "id": name, "split": split}


def facts_of(clips: list[Clip]) -> dict:
    """Returns sizes, and for each figure the chance level and the best that two models can reach.

    `order_blind` sees the frames of a clip as a bag; `perfect` sees all, and is beaten only by
    scenes that occur twice in the gallery. Recall is in percent, twin accuracy from 0 to 1.
    """
    test = [clip.scene for clip in clips if clip.split == "test"]
    train = {clip.scene for clip in clips if clip.split == "train"}
    twins = [scenes.twin(scene) for scene in test]
    models = {"order_blind": scenes.sampled_bag, "perfect": lambda scene: scene}
    longest = max(grammar.tokens(text) for entry in entries(clips) for text in entry["captions"])
    return {
        "train_clips": 2 * sum(clip.split == "train" for clip in clips),
        "test_clips": len(test),
        "train_scenes": len(train | {scenes.twin(scene) for scene in train}),
        "longest_caption_tokens": longest,
        "vocabulary": 512 + len(grammar.merges()) + 2,
        "t2v/r1": {"chance": 100 / len(test)}
        | {name: best_recall(test, test, key) for name, key in models.items()},
        "t2v/r1_with_twins": {"chance": 50 / len(test)}
        | {name: best_recall(test, test + twins, key) for name, key in models.items()},
        "twin_accuracy": {"chance": 0.5}
        | {name: best_twin_accuracy(test, key) for name, key in models.items()},
    }


def best_recall(queries: list[Scene], gallery: list[Scene], key: Callable) -> float:
    """Returns the R@1 in percent, ties broken at random, of a model that sees only `key(scene)`."""
    alike = Counter(map(key, gallery))
    return 100 * float(np.mean([1 / alike[key(query)] for query in queries]))


def best_twin_accuracy(queries: list[Scene], key: Callable) -> float:
    """Returns how often a model that sees only `key(scene)` prefers a clip to its twin."""
    return float(np.mean([1 if key(q) != key(scenes.twin(q)) else 0.5 for q in queries]))


def queries(folder, *, count: int = 4) -> list[tuple[str, str]]:
    """Returns sample queries for a rendered folder: (first caption, id of its clip) of test clips.

    They are spread evenly over the test; what shows the opposite of a query is `<id>-twin`.
    """
    lines = (Path(folder) / "captions.jsonl").read_text().splitlines()
    test = [entry for entry in map(json.loads, lines) if entry["split"] == "test"]
    step = max(len(test) // count, 1)
    return [(entry["captions"][0], entry["id"]) for entry in test[::step][:count]]


def encode(frames: np.ndarray) -> bytes:
    """Returns an .mp4 file of the frames [F, H, W, 3]."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=scenes.FPS, options=CODEC)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _render_all(out: Path, clips: list[Clip], *, workers: int) -> None:
    bar = tqdm(total=2 * len(clips), desc="rendering", unit="clip", disable=not clips)
    with bar:
        if workers == 1:
            for clip in clips:
                _render_one(out, clip)
                bar.update(2)
            return
        # Spawned, not forked: the caller may hold threads, of JAX say, that a fork would break.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for _ in pool.map(_render_one, itertools.repeat(out), clips, chunksize=8):
                bar.update(2)


def _render_one(out: Path, clip: Clip) -> None:
    frames = scenes.draw(clip.scene, np.random.default_rng((*clip.seed, 0)))
    path, twin_path = _paths(out, clip)
    _replace(path, encode(frames))
    _replace(twin_path, encode(frames[::-1]))


def _paths(out: Path, clip: Clip) -> tuple[Path, Path]:
    return tuple(out / "videos" / f"{clip.name}{end}.mp4" for end in ("", "-twin"))


def _replace(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all: what exists after a broken run can be trusted."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)
