"""Reads the annotation files of a folder as they were downloaded: plain, gzipped or inside a zip.

What is wrong with a file is a ValueError of one line; how much one may unpack to is bounded.
"""

import gzip
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

MAX_BYTES = 2**29  # of one file, unpacked; the largest of the six benchmarks has 60 MB


class Source(NamedTuple):
    """A file, or a member of a zip file."""

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else str(self.path)


def listing(folder: str | Path) -> dict[str, Source]:
    """Returns the files of a folder by the name each has once unpacked; hidden ones are left out.

    Of several with one name the plain file goes before the gzipped one, and both before a zip's.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder of annotations {folder}.")
    paths = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    found = {path.name: Source(path) for path in paths}
    for path in paths:
        if path.suffix.lower() == ".gz":
            found.setdefault(path.stem, Source(path))
    for path in paths:
        if path.suffix.lower() == ".zip":
            for member in _members(path):
                name = member.rpartition("/")[2]
                if name and not name.startswith(".") and not member.startswith("__MACOSX"):
                    found.setdefault(name, Source(path, member))
    return found


def read_text(source: Source) -> str:
    """Returns a file's text; it has to be UTF-8."""
    try:
        return read_bytes(source).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source} is not text in UTF-8 ({error.reason} at byte {error.start}): save it as"
            " UTF-8, or download it again."
        ) from None


def read_text_or_latin_1(source: Source) -> tuple[str, bool]:
    """Returns a file's text, and whether it is in Latin-1 since it cannot be UTF-8."""
    data = read_bytes(source)
    try:
        return data.decode("utf-8-sig"), False
    except UnicodeDecodeError:
        return data.decode("latin-1"), True


def read_json(source: Source) -> Any:
    """Returns what a JSON file holds; an object that has a key twice is an error."""
    return parse_json(read_text(source), str(source))


def parse_json(text: str, where: str) -> Any:
    """Returns what a JSON text holds; an object that has a key twice is an error."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in made if keys.count(key) > 1)
            raise ValueError(f"{where} has the key {twice!r} twice in one object: keep one.")
        return made

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error}).") from None
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply to be an annotation file.") from None


def read_bytes(source: Source) -> bytes:
    """Returns a file's bytes, unpacked."""
    path, member = source
    try:
        if member:
            with zipfile.ZipFile(path) as archive, archive.open(member) as file:
                data = file.read(MAX_BYTES + 1)
        elif path.suffix.lower() == ".gz":
            with gzip.open(path) as file:
                data = file.read(MAX_BYTES + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(MAX_BYTES + 1)
    # A zip with a password is a RuntimeError, an unknown compression a NotImplementedError.
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{source} cannot be read: {error}. Download it again.") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"{source} holds more than {MAX_BYTES} bytes: not an annotation file.")
    return data


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}. Download it again.") from None
