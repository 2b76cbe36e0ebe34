"""Fetches OpenAI's CLIP weights: resumed where a download stopped, checked by sha256."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from xclip_jax import retry
from xclip_jax.weight_formats import OPENAI_FILES, OPENAI_URL

BLOCK = 2**20
SECONDS = 20.0  # to try again for, where someone is waiting
LIMIT = 4 * 2**30  # bytes; the largest of OpenAI's ViTs has 0.9 GB
MODELS = {
    "clip:ViT-B/32": "ViT-B-32.pt",
    "clip:ViT-B/16": "ViT-B-16.pt",
    "clip:ViT-L/14": "ViT-L-14.pt",
}


def fetch(model: str, out: Path | str | None = None, *, progress: bool) -> Path:
    """Returns the file of a released model, such as `clip:ViT-B/32`, fetched if it is not there.

    Args:
      out: its folder; the cache ~/.cache/xclip_jax where None.
    """
    if model not in MODELS:
        raise ValueError(f"download {model}: expected one of {', '.join(MODELS)}.")
    name = MODELS[model]
    folder = Path(out) if out else Path.home() / ".cache" / "xclip_jax"
    url = OPENAI_URL.format(sha256=OPENAI_FILES[name], name=name)
    return fetch_url(url, folder / name, OPENAI_FILES[name], progress=progress)


def fetch_url(url: str, target: Path, sha256: str, *, progress: bool) -> Path:
    """Returns `target`, which holds what `url` gives; it appears whole and right, or not at all."""
    if target.is_file():
        if _sha256(target) == sha256:
            return target
        raise ValueError(f"{target} is there but its sha256 is not {sha256}: remove it first.")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    try:
        retry.call(
            lambda: _append(url, partial, progress=progress),
            url,
            seconds=min(SECONDS, retry.patience()),
        )
    except (
        OSError,
        http.client.HTTPException,
        retry.StorageUnavailable,
    ) as error:  # no network, no room, no right
        raise FileNotFoundError(
            f"{url} could not be fetched ({error}): run this again to go on where it stopped, or"
            f" fetch it by other means and put it at {target}."
        ) from None
    if (found := _sha256(partial)) != sha256:
        partial.unlink()
        raise ValueError(f"{url} gave a file with sha256 {found}, expected {sha256}: try again.")
    os.replace(partial, target)
    return target


def _append(url: str, partial: Path, *, progress: bool) -> None:
    """Fetches what is not yet in `partial`, and adds it there."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to fetch; the checksum tells
            return
        raise
    with answer:
        if answer.status != 206:  # the server sends all of it again
            have = 0
        length = int(answer.headers.get("Content-Length") or 0)
        with (
            partial.open("ab" if have else "wb") as file,
            tqdm(
                desc=partial.stem,
                total=have + length or None,
                initial=have,
                unit="B",
                unit_scale=True,
                disable=not progress,
            ) as bar,
        ):
            got = 0
            while block := answer.read(BLOCK):
                got += len(block)
                if have + got > LIMIT:
                    raise OSError(f"stopped after {have + got} bytes: that is too long")
                file.write(block)
                bar.update(len(block))
    if got < length:
        raise OSError(f"the connection ended after {got} of {length} bytes")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
