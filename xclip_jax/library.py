"""A trained model as an object: `m = xclip_jax.load("runs/mine")`.

Clips are given as paths, folders of frame images, bytes of video files or arrays (`sources`), and
wherever texts or clips are asked for, features that were computed before do as well.
"""

import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from xclip_jax import (
    clip_features,
    evaluate,
    few_shapes,
    fingerprint,
    moments,
    sources,
    video,
    workdir,
)
from xclip_jax.moments import Span
from xclip_jax.sources import Source

MOMENT_FRAMES = 256  # frames that `moments` looks at, spread over the whole video
SHOWN = 10  # of several problems

Features = Any  # what the model's encode_text or encode_video returns: a NamedTuple of arrays


def load(workdir: str | os.PathLike, checkpoint: str = "selected") -> "Model":
    """Returns the model of a run's folder, here or in a bucket.

    Args:
      workdir: what `xclip-jax train` or `convert` wrote.
      checkpoint: "selected", as the run's `select_on` has it, "last", "best" or a step.
    """
    return Model(os.fspath(workdir), checkpoint)


class Model:
    """A trained model, its tokeniser and its frame policy, with jitted functions of few shapes.

    Attributes:
        trained: `workdir.Trained`, all that the run's folder holds.
        encoders: `evaluate.Encoders`, the jitted verbs.
    """

    def __init__(self, workdir_: str | Path, checkpoint: str):
        self.trained = workdir.load(workdir_, checkpoint)
        self.encoders = evaluate.make_encoders(self.trained.graphdef)

    def __repr__(self) -> str:
        config = self.trained.config.model
        return f"<xclip_jax model {config.name}, {config.arch}, step {self.trained.step}>"

    @functools.cached_property
    def fingerprint(self) -> str:
        """What tells this model's features from any other's: a sha256 in hexadecimal."""
        return fingerprint.of(self.trained)

    def encode_text(self, texts: Sequence[str]) -> Features:
        """Returns the features of texts: `sentence` float32 [T, E], `words` [T, W, E], `mask`."""
        return encode_texts(self.trained, self.encoders, texts)

    def encode_video(self, videos: Sequence[Source]) -> Features:
        """Returns the features of clips: `video` float32 [V, E], `frames` [V, F, E], `mask`.

        A video file, by its path or as bytes, is sampled as the model's clips were in training. A
        folder of images and an array uint8 [frames, height, width, 3] hold sampled frames already,
        in time's order, one a second for most models (`trained.frame_policy`). Raises one
        ValueError naming every source that cannot be read.
        """
        clips = encode_sources(self.trained, self.encoders, videos)
        fields = zip(*(clip.features for clip in clips), strict=True)
        return clips[0].features._make(np.stack(field) for field in fields)

    def similarity(
        self, texts: Sequence[str] | Features, videos: Sequence[Source] | Features
    ) -> np.ndarray:
        """Returns the score of every text with every clip, float32 [T, V], in tiles of memory."""
        text = texts if _is_features(texts) else self.encode_text(texts)
        clips = videos if _is_features(videos) else self.encode_video(videos)
        return few_shapes.score(self.encoders, self.trained.params, text, clips, progress=False)

    def search(
        self, queries: Sequence[str] | Features, videos: Sequence[Source] | Features, *, k: int = 5
    ) -> list[list[tuple[int, float]]]:
        """Returns for each query the `k` best clips as (place in `videos`, score), best first."""
        if k < 1:
            raise ValueError(f"k={k}: expected 1 or more.")
        scores = self.similarity(queries, videos)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return [
            [(int(j), float(row[j])) for j in order]
            for row, order in zip(scores, best, strict=True)
        ]

    def moments(self, query: str, source: Source, *, k: int = 5) -> list[Span]:
        """Returns the `k` parts of a clip that fit a text best as (start, end, score), best first.

        Seconds are from the clip's first frame. They are as fine as the frames: those of the
        model's policy, one a second for most, or 256 of them where a video has more.
        """
        if k < 1:
            raise ValueError(f"k={k}: expected 1 or more.")
        text = self.encode_text([query])
        [clip] = encode_sources(self.trained, self.encoders, [source], most_frames=MOMENT_FRAMES)
        windows = moments.encode(
            self.encoders,
            self.trained.params,
            clip.frames,
            clip.frame_times,
            blank=clip_features.blank(self.trained, self.encoders),
            max_frames=self.trained.intake.max_frames,
            duration=clip.duration,
        )
        return moments.rank(self.encoders, self.trained.params, text, windows, k=k)[0]


def encode_texts(
    trained: workdir.Trained, encoders: evaluate.Encoders, texts: Sequence[str]
) -> Features:
    """Returns the features of all texts as NumPy arrays."""
    wrong = [
        f"[{i}] {type(text).__name__}" for i, text in enumerate(texts) if type(text) is not str
    ]
    if isinstance(texts, str) or wrong or not len(texts):
        given = f"{texts!r}" if isinstance(texts, str) else ", ".join(wrong[:SHOWN]) or "none"
        raise ValueError(f"texts: given {given}, expected a list of one string or more.")
    return few_shapes.in_batches(
        lambda *batch: encoders.text(trained.params, *batch),
        trained.tokenizer(list(texts), trained.intake.max_words),
        trained.config.eval_batch_size,
        encoders.mesh,
    )


def encode_sources(
    trained: workdir.Trained,
    encoders: evaluate.Encoders,
    videos: Sequence[Source],
    *,
    most_frames: int | None = None,
) -> list[clip_features.Clip]:
    """Returns the features of clips given in any of the forms, all or none.

    `most_frames` is as in `clip_features.encode_clips`.
    """
    single = isinstance(videos, str | bytes | os.PathLike)
    if single or (isinstance(videos, np.ndarray) and videos.ndim < 5) or not len(videos):
        given = sources.name_of(videos, 0)[4:] if len(videos) else "none"
        raise ValueError(f"videos: given {given}, expected a list of one clip or more.")

    def read(i: int):
        name = sources.name_of(videos[i], i)
        return sources.sample(
            videos[i], name, trained.intake, trained.frame_policy, most=most_frames
        )

    loaded = clip_features.in_threads(read, range(len(videos)))
    quiet = len(videos) == 1 or not sys.stderr.isatty()
    bar = tqdm(loaded, "encoding clips", len(videos), unit="clip", disable=quiet, leave=False)
    clips = list(clip_features.encode(trained, encoders, bar))
    if wrong := [str(clip) for clip in clips if isinstance(clip, video.VideoError)]:
        raise ValueError(unreadable(wrong, len(clips)))
    return clips


def unreadable(wrong: list[str], count: int) -> str:
    """Returns what to say of the clips, of `count`, that cannot be read."""
    more = f"\n  ... and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    return f"{len(wrong)} of {count} clips cannot be read:\n  " + "\n  ".join(wrong[:SHOWN]) + more


def _is_features(given: object) -> bool:
    return hasattr(given, "_fields")
