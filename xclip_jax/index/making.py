"""Indexes from a model: opened or made for it, filled, and a single video's vector."""

import sys
from pathlib import Path

import numpy as np

from xclip_jax import clip_features, evaluate, fingerprint, remote, video, workdir
from xclip_jax.index import lock, store
from xclip_jax.index.listing import Listing
from xclip_jax.index.update import Changes, shapes, update
from xclip_jax.workdir import Trained

MOMENT_FRAMES = 64  # of each video, in a new index: a frame a second of a minute


def open_or_make(
    place: str | Path,
    trained: Trained,
    encoders: evaluate.Encoders,
    run: str | Path,
    *,
    moment_frames: int | None = None,
) -> store.Index:
    """Returns the index at `place`, made for the model where there is none; `run` is the workdir
    that the model came from, `moment_frames` as in `make`, or None for what there is or, in a new
    one, `MOMENT_FRAMES`.

    Raises ValueError where the index is of another model, or keeps another number of frames.
    """
    if not store.exists(place):
        frames = MOMENT_FRAMES if moment_frames is None else moment_frames
        return make(place, trained, encoders, run, moment_frames=frames)
    index = store.open_index(place)
    store.check_model(index, fingerprint.of(trained), f"--workdir {run}")
    kept = index.facts["moment_frames"]
    if moment_frames is not None and moment_frames != kept:
        raise ValueError(
            f"--moment-frames {moment_frames}: --index {place} keeps {kept} of each video; leave"
            " the option out, or choose another --index."
        )
    return index


def open_or_replace(
    place: str | Path, trained: Trained, encoders: evaluate.Encoders, run: str | Path
) -> store.Index:
    """Returns the same, but makes the index anew where it is of another model."""
    if store.exists(place):
        index = store.open_index(place)
        if index.facts["model"] == fingerprint.of(trained):
            return index
        print(f"{place} is of another model: encoding anew.", file=sys.stderr)
    return make(place, trained, encoders, run)


def load_model(index: store.Index, run: str | None, which: str | None, *, only_text: bool):
    """Returns the model that an index was made with, a `Trained`: of the workdir it was made from,
    or of `run` at checkpoint `which`.

    With `only_text` the image tower may be missing. Raises ValueError where it is another model.
    """
    facts = index.facts
    if run is None and which is None:
        run, which = facts["workdir"], str(facts["step"])
        if facts["stamp"] and facts["stamp"] == fingerprint.stamp(run, facts["step"]):
            return workdir.load(run, which, only_text=only_text)
    run = run or facts["workdir"]
    try:
        trained = workdir.load(run, which or "selected")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} --index {index.place} was made by the model in {facts['workdir']}: give"
            " --workdir where that lies now."
        ) from None
    store.check_model(index, fingerprint.of(trained), f"--workdir {run}")
    return trained


def make(
    place: str | Path,
    trained: Trained,
    encoders: evaluate.Encoders,
    run: str | Path,
    *,
    moment_frames: int = 0,
) -> store.Index:
    """Returns a new, empty index for a model; of each video it keeps the raw features of at most
    `moment_frames` frames, to find moments by."""
    facts = {
        "model": fingerprint.of(trained),
        "of": fingerprint.words(trained),
        "workdir": str(run) if remote.is_remote(run) else str(Path(run).absolute()),
        "step": trained.step,
        "stamp": fingerprint.stamp(run, trained.step),
        "moment_frames": moment_frames,
    }
    with lock.held(place):
        return store.create(place, facts, shapes(trained, encoders))


def fill(
    index: store.Index,
    trained: Trained,
    encoders: evaluate.Encoders,
    listing: Listing,
    *,
    progress: bool,
) -> Changes:
    """Brings the index up to date, says on stderr what came of it, and names what was left out.

    Raises ValueError where it holds no video then, or where another process is changing it.
    """
    with lock.held(index.place):
        changes = update(index, trained, encoders, listing, progress=progress)
    for line in changes.unreadable:
        print(f"left out: {line}", file=sys.stderr)
    count = index.videos.count_rows()
    if not count:
        total = len(listing.videos) + len(listing.errors)
        raise ValueError(f"none of the {total} clips in {listing.source} can be read.")
    print(f"{index.place}: {count} videos; {changes.line()}", file=sys.stderr)
    return changes


def vector(trained: Trained, encoders: evaluate.Encoders, file: str | Path) -> np.ndarray:
    """Returns the vector of one video file, [1, E]; raises VideoError."""
    [(_, clip)] = clip_features.encode_clips(trained, encoders, [Path(file)], progress=False)
    if isinstance(clip, video.VideoError):
        raise clip
    return np.asarray(clip.features.video, np.float32)[None]
