"""Features of a folder of clips, or of the lines of a file, in one file for other programs."""

import os
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from xclip_jax import clip_features, library, video
from xclip_jax.feature_file import ROWS, Parts
from xclip_jax.index import listing


def clips(model: library.Model, folder: Path, out: Path) -> str:
    """Writes the features of every clip below `folder` and returns what to say of it.

    Columns: `path`, `times` float32 [F] (seconds of each frame, NaN where padded), and the fields
    of what the model's `encode_video` returns, of X-CLIP `video` [E], `frames` [F, E], `mask` [F].
    A clip that cannot be read is named on stderr and left out.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"--videos {folder} is not a folder.")
    paths = listing.below(folder)
    parts = Parts(out, model.fingerprint)
    keys = {path: key_of(path) for path in paths}
    missing = [path for path in paths if keys[path] not in parts.done]
    left_out = 0
    encoded = clip_features.encode_clips(
        model.trained, model.encoders, missing, progress=sys.stderr.isatty()
    )
    with parts:
        for path, clip in encoded:
            if isinstance(clip, video.VideoError):
                tqdm.write(f"left out: {clip}", file=sys.stderr)
                left_out += 1
                continue
            times = np.full(model.trained.intake.max_frames, np.nan, np.float32)
            times[: len(clip.times)] = clip.times
            name = os.fsencode(path).decode("utf-8", "backslashreplace")  # as Parquet wants it
            row = {"key": keys[path], "path": name, "times": times}
            parts.add(row | clip.features._asdict())
    if left_out == len(paths):
        raise ValueError(f"none of the {len(paths)} clips in {folder} can be read.")
    count = parts.finish(set(keys.values()))
    before = len(paths) - len(missing)
    return f"{count} clips in {out}; {left_out} left out, {before} encoded before"


def texts(model: library.Model, file: Path, out: Path) -> str:
    """Writes the features of every line of `file` that is not blank; returns what to say of it.

    Columns: `text`, and the fields of what the model's `encode_text` returns: `sentence` [E],
    `words` [W, E] and `mask` [W] of X-CLIP.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"--texts {file} is not in UTF-8: {error}.") from None
    lines = [line for line in lines if line]
    if not lines:
        raise ValueError(f"--texts {file} holds no text: expected one a line.")
    parts = Parts(out, model.fingerprint)
    keys = {f"{i}|{line}": line for i, line in enumerate(lines)}
    missing = [key for key in keys if key not in parts.done]
    starts = range(0, len(missing), ROWS)
    with parts:
        for i in tqdm(starts, "encoding texts", disable=not sys.stderr.isatty(), leave=False):
            own = missing[i : i + ROWS]
            features = model.encode_text([keys[key] for key in own])
            for key, *row in zip(own, *features, strict=True):
                fields = dict(zip(features._fields, row, strict=True))
                parts.add({"key": key, "text": keys[key]} | fields)
    return f"{parts.finish(set(keys))} texts in {out}"


def key_of(path: Path) -> str:
    """Returns what tells a file in this state from all others: path, size, time of change."""
    stat = path.stat() if path.exists() else path.lstat()  # a link may lead nowhere
    return f"{path.absolute()}|{stat.st_size}|{stat.st_mtime_ns}"
