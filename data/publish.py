"""The last step of a build: finished files go to where they are read, and the manifest comes last.

A folder that has a manifest is whole, be it on this machine or on gs:// or s3://.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from xclip_jax import remote
from xclip_jax.data.clips import Clip
from xclip_jax.remote import RemotePath

CONNECTIONS = 16


@contextlib.contextmanager
def staging(work: Path | RemotePath) -> Iterator[Path]:
    """Yields a folder of this machine in which to write the shards, on the disk of `work`."""
    if isinstance(work, Path):
        yield work
        return
    with tempfile.TemporaryDirectory(prefix="xclip_jax_") as folder:
        yield Path(folder)


def fetched(decoded: list[tuple[Clip, Path | RemotePath]], folder: Path) -> list[tuple[Clip, Path]]:
    """Returns the clips with their finished files on this machine, copied into `folder`."""
    copies = [(clip, folder / path.name) for clip, path in decoded]
    away = {path: folder / path.name for _, path in decoded if isinstance(path, RemotePath)}
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for task in [pool.submit(path.fetch, copy) for path, copy in away.items()]:
            task.result()
    return copies if away else decoded


def read_manifest(out: Path | RemotePath) -> dict:
    """Returns the manifest of a finished build; empty if there is none that can be read."""
    path = out / "manifest.json"
    with contextlib.suppress(FileNotFoundError):
        text = path.read_text(encoding="utf-8")
        with contextlib.suppress(ValueError):
            return json.loads(text)
    return {}


def publish(written: Path, out: Path | RemotePath, old: dict, manifest: dict) -> None:
    """Moves the finished files into place; the old manifest goes first, the new one comes last."""
    (out / "manifest.json").unlink(missing_ok=True)
    for name in old.get("sha256", {}):
        (out / name).unlink(missing_ok=True)
    for path in sorted(written.iterdir()):
        _move(path, out / path.name)
    last = written / "manifest.json"
    last.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _move(last, out / "manifest.json")
    remote.remove(out / ".work")


def _move(file: Path, target: Path | RemotePath) -> None:
    if isinstance(target, Path):
        os.replace(file, target)
    else:
        target.store(file)
        file.unlink()
