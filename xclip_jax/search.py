"""Answers text queries over a folder of clips: encoded once, kept in one file.

The file holds the features of every clip with its path, size and time of change, so a second search
encodes only what is new. Features of another model are never mixed in.
"""

import hashlib
import json
import sys
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from xclip_jax import clip_features, evaluate, scoring, video
from xclip_jax.workdir import Trained

SUFFIXES = {
    *(".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"),
}
# What NumPy and zipfile raise for a file that is cut short, altered, or something else.
_DAMAGE = (
    *(OSError, EOFError, KeyError, RuntimeError, SyntaxError, TypeError, ValueError),
    *(zipfile.BadZipFile, zlib.error),
)


class Index(NamedTuple):
    """The clips of a folder and their features, in the order of `paths`.

    `features` is what the model's `encode_video` returns, a NamedTuple of arrays.
    """

    paths: list[str]
    features: tuple


def index_folder(
    trained: Trained, encoders: evaluate.Encoders, folder: Path | str, file: Path | str
) -> Index:
    """Returns the features of every clip below `folder`, encoding only what `file` lacks.

    A clip that cannot be read is named on stderr and left out.
    """
    folder, file = Path(folder), Path(file)
    if not folder.is_dir():
        raise FileNotFoundError(f"--videos {folder} is not a folder.")
    clips = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not clips:
        raise ValueError(
            f"{folder} holds no video: looked for {', '.join(sorted(SUFFIXES))}, in its"
            " subfolders too."
        )
    model = fingerprint(trained)
    known = _read(file, model, _kind(trained, encoders))
    keys = {path: _key(path) for path in clips}
    missing = [path for path in clips if keys[path] not in known]
    if missing:
        known |= _encode(trained, encoders, missing, keys)
        kept = {keys[path]: known[keys[path]] for path in clips if keys[path] in known}
        if not kept:
            raise ValueError(f"none of the {len(clips)} clips in {folder} can be read.")
        _write(file, model, kept)
    paths = [path for path in clips if keys[path] in known]
    rows = [known[keys[path]] for path in paths]
    return Index([str(path) for path in paths], jax.tree.map(lambda *x: np.stack(x), *rows))


def search(
    trained: Trained, encoders: evaluate.Encoders, index: Index, queries: list[str], *, k: int
) -> list[list[tuple[str, float]]]:
    """Returns for each query the `k` best clips as (path, score), best first."""
    text = evaluate.encode_texts(
        encoders,
        trained.params,
        trained.tokenizer,
        queries,
        max_words=trained.intake.max_words,
        batch_size=min(len(queries), trained.config.eval_batch_size),
    )
    scores = scoring.score(encoders, trained.params, text, index.features, progress=False)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [
        [(index.paths[j], float(row[j])) for j in order]
        for row, order in zip(scores, best, strict=True)
    ]


def fingerprint(trained: Trained) -> str:
    """Returns what tells this model's features from any other's: a hash of its weights."""
    digest = hashlib.sha256(json.dumps(trained.frame_policy, sort_keys=True).encode())
    for leaf in jax.tree.leaves(trained.params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _encode(trained: Trained, encoders, paths: list[Path], keys: dict[Path, str]) -> dict:
    """Returns key -> features of the clips that can be read."""
    known = {}
    for path, clip in clip_features.encode_clips(trained, encoders, paths, progress=True):
        if isinstance(clip, video.VideoError):
            tqdm.write(f"left out: {clip}", file=sys.stderr)
        else:
            known[keys[path]] = clip.features
    return known


def _key(path: Path) -> str:
    stat = path.stat() if path.exists() else path.lstat()  # a link may lead nowhere
    return f"{path.absolute()}|{stat.st_size}|{stat.st_mtime_ns}"


def _kind(trained: Trained, encoders: evaluate.Encoders) -> type:
    """Returns the NamedTuple that this model's features of videos come in."""
    intake = trained.intake
    square = (intake.image_size, intake.image_size, 3)
    pixels = jax.ShapeDtypeStruct((1, intake.max_frames, *square), np.uint8)
    mask = jax.ShapeDtypeStruct((1, intake.max_frames), bool)
    return type(jax.eval_shape(encoders.video, trained.params, pixels, mask))


def _read(file: Path, model: str, kind: type) -> dict[str, tuple]:
    if not file.exists():
        return {}
    try:
        with np.load(file, allow_pickle=False) as stored:
            if str(stored["model"]) != model:
                print(f"{file} is of another model: encoding anew.", file=sys.stderr)
                return {}
            rows = zip(*(stored[field] for field in kind._fields), strict=True)
            return {str(key): kind(*row) for key, row in zip(stored["keys"], rows, strict=True)}
    except _DAMAGE as error:
        raise ValueError(
            f"{file} is not a features file ({error}): delete it, or give another --features."
        ) from None


def _write(file: Path, model: str, known: dict[str, tuple]) -> None:
    features = jax.tree.map(lambda *rows: np.stack(rows), *known.values())
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(file.name + ".tmp")
    with temporary.open("wb") as stream:
        np.savez(stream, model=model, keys=np.array(list(known)), **features._asdict())
    temporary.replace(file)
