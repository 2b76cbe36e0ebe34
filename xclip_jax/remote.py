"""Files on gs://, s3:// and all else that fsspec knows, beside those of this machine.

`place` gives a pathlib.Path for a local name and a `RemotePath`, with the few methods that builds
and shards use, for one with "://". What needs a real file gets a copy from `local`. A request that
fails in a way that passes is made again (xclip_jax.retry).
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TypeVar

import fsspec

from xclip_jax import retry

# What to install for an address; fsspec itself knows more.
PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "s3a": "s3fs"}
T = TypeVar("T")
MAX_FOLDER_BYTES = 2**32  # of annotations, the largest of which have a few hundred megabytes


def is_remote(name: object) -> bool:
    """Tells whether a name is an address and not a path of this machine."""
    return "://" in str(name)


def place(name: "str | Path | RemotePath") -> "Path | RemotePath":
    """Returns where a name points to, as an object with pathlib's methods."""
    if isinstance(name, RemotePath):
        return name
    return RemotePath(str(name)) if is_remote(name) else Path(name)


class RemotePath:
    """An address: a pathlib.Path as far as builds and shards need one.

    `known` is what a listing said of the file, which saves asking again.
    """

    def __init__(self, address: str, known: dict | None = None):
        self.address, self.known = address.rstrip("/"), known

    def __str__(self) -> str:
        return self.address

    def __repr__(self) -> str:
        return f"RemotePath({self.address!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self.address == other.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.address}/{name}")

    @property
    def name(self) -> str:
        return self.address.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "RemotePath":
        return RemotePath(self.address.rpartition("/")[0])

    def resolve(self) -> "RemotePath":
        return self

    absolute = resolve

    def mkdir(self, **_) -> None:
        """Makes the folder; on gs:// and s3:// folders are but the beginnings of names."""
        if self.address.partition("://")[0] in PACKAGES:
            return  # these would make a bucket
        self._do(lambda system, path: system.makedirs(path, exist_ok=True))

    def info(self) -> dict:
        """Returns what the system says of the file: its size, and what tells its version."""
        if self.known is None:
            self.known = self._do(lambda system, path: system.info(path))
        return self.known

    def is_dir(self) -> bool:
        return self._type() == "directory"

    def is_file(self) -> bool:
        return self._type() == "file"

    def files(self) -> "list[RemotePath]":
        """Returns all files below, in all folders, by their names."""

        def find(system, path):
            system.invalidate_cache()  # other machines write here too
            found = system.find(path, detail=True)
            return [(system.unstrip_protocol(name), found[name]) for name in sorted(found)]

        return [RemotePath(name, known) for name, known in self._do(find)]

    def read_bytes(self) -> bytes:
        return self._do(lambda system, path: system.cat_file(path))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def read_range(self, start: int, length: int) -> bytes:
        """Returns so many bytes from `start`; fewer where the file ends."""
        return self._do(lambda system, path: system.cat_file(path, start=start, end=start + length))

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self._do(lambda system, path: system.rm_file(path))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove(self) -> None:
        """Removes the folder with all that is in it."""
        self._do(lambda system, path: system.exists(path) and system.rm(path, recursive=True))

    def fetch(self, file: Path) -> None:
        """Copies to a file of this machine."""
        self._do(lambda system, path: system.get_file(path, str(file)))

    def store(self, file: Path) -> None:
        """Takes a copy of a file of this machine; on gs:// and s3:// it is there whole or not."""
        self._do(lambda system, path: system.put_file(str(file), path))

    def _type(self) -> str | None:
        """Returns "file" or "directory", None where there is neither.

        fsspec's own isfile and isdir take a failed request for absence.
        """
        with contextlib.suppress(FileNotFoundError):
            return self._do(lambda system, path: system.info(path))["type"]
        return None

    def _do(self, act: Callable[[fsspec.AbstractFileSystem, str], T]) -> T:
        """Returns what `act` does in the file system, at the path there.

        Raises:
          FileNotFoundError: there is no such file.
          retry.StorageUnavailable: the system does not answer, in many tries.
          ValueError: what else fails there, in one line: a missing package or right, say.
        """
        return retry.call(lambda: self._once(act), self.address)

    def _once(self, act: Callable[[fsspec.AbstractFileSystem, str], T]) -> T:
        try:
            return act(*fsspec.core.url_to_fs(self.address))
        except FileNotFoundError:
            raise FileNotFoundError(f"No {self.address}.") from None
        except ImportError as error:
            scheme = self.address.partition("://")[0]
            package = PACKAGES.get(scheme)
            hint = f"pip install {package}" if package else str(error)
            raise ValueError(f"{self.address}: {scheme}:// needs a package: {hint}.") from None
        except Exception as error:  # each system has errors of its own
            if retry.is_transient(error):
                raise
            raise ValueError(f"{self.address}: {retry.said(error)}") from None


def version(path: Path | RemotePath) -> list:
    """Returns the size of a file and what changes when it is written anew."""
    if isinstance(path, Path):
        stat = path.stat()
        return [stat.st_size, stat.st_mtime_ns]
    info = path.info()
    told = ("ETag", "etag", "generation", "md5Hash", "mtime", "LastModified", "updated", "created")
    return [info.get("size"), *(str(info[key]) for key in told if key in info)]


@contextlib.contextmanager
def local(path: Path | RemotePath) -> Iterator[Path]:
    """Yields the file on this machine's disk: itself, or a copy that goes away afterwards."""
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="xclip_jax_") as folder:
        file = Path(folder, path.name)
        path.fetch(file)
        yield file


@contextlib.contextmanager
def local_folder(name: str | Path) -> Iterator[Path]:
    """Yields a folder of annotations on this machine's disk: itself, or a copy for the while."""
    if not is_remote(name):
        yield Path(name)
        return
    files = place(name).files()
    if not files:
        raise FileNotFoundError(f"No files below {name}.")
    if (size := sum(file.info().get("size") or 0 for file in files)) > MAX_FOLDER_BYTES:
        raise ValueError(f"{name} holds {size / 2**30:.0f} GiB: give the annotation files alone.")
    with tempfile.TemporaryDirectory(prefix="xclip_jax_") as folder:
        for file in files:
            inside = PurePosixPath(os.path.relpath(_path(file.address), _path(str(name))))
            if ".." in inside.parts:
                raise ValueError(f"{file} does not lie in {name}: its name leads out of it.")
            copy = Path(folder, inside)
            copy.parent.mkdir(parents=True, exist_ok=True)
            file.fetch(copy)
        yield Path(folder)


def _path(address: str) -> str:
    """Returns an address as its file system writes it, with neither scheme nor doubled slashes."""
    return fsspec.core.url_to_fs(address)[1]


@contextlib.contextmanager
def written(path: Path | RemotePath) -> Iterator[Path]:
    """Yields a file to write, which becomes `path` at the end, whole or not at all."""
    if isinstance(path, Path):
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            yield partial
            os.replace(partial, path)
        except BaseException:  # what was begun takes room on a disk that may be full
            partial.unlink(missing_ok=True)
            raise
        return
    with tempfile.TemporaryDirectory(prefix="xclip_jax_") as folder:
        file = Path(folder, path.name)
        yield file
        path.store(file)


def names(folder: Path | RemotePath) -> set[str]:
    """Returns the names of the files in a folder."""
    if isinstance(folder, Path):
        return {entry.name for entry in os.scandir(folder)}
    return {file.name for file in folder.files()}


def remove(folder: Path | RemotePath) -> None:
    """Removes a folder with all that is in it."""
    if isinstance(folder, Path):
        shutil.rmtree(folder)
    else:
        folder.remove()
