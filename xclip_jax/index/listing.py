"""Which videos an index is to hold: those below a folder, or those of a list with metadata."""

import json
from pathlib import Path
from typing import NamedTuple

from xclip_jax.video import VideoError

SUFFIXES = {
    *(".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"),
}
SHOWN = 10  # problems of a list


class Listing(NamedTuple):
    """The videos of one source, each path with its metadata, and the names that cannot be kept."""

    source: str
    videos: dict[str, dict]
    errors: list[VideoError]


def read(place: Path | str) -> Listing:
    """Returns the videos of a folder, or of a list in JSON lines.

    Raises FileNotFoundError where there is neither, ValueError where it holds no video.
    """
    place = Path(place)
    if place.is_dir():
        return folder(place)
    if place.is_file():
        return lines(place)
    raise FileNotFoundError(f"{place} is neither a folder nor a list of videos in JSON lines.")


def folder(place: Path) -> Listing:
    """Returns the videos below a folder."""
    return _listing(place, {str(path.absolute()): {} for path in below(place)})


def below(place: Path) -> list[Path]:
    """Returns every video below a folder, in its subfolders too, by its suffix, in order."""
    found = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(
            f"{place} holds no video: looked for {', '.join(sorted(SUFFIXES))}, in its"
            " subfolders too."
        )
    return found


def lines(place: Path) -> Listing:
    """Returns the videos of a list: an object a line, with the path as "video", absolute or from
    the list's folder; whatever else it holds is metadata to filter by."""
    videos, problems = {}, []
    for number, line in enumerate(place.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            problems.append(f"line {number} is not JSON ({error})")
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("video"), str):
            problems.append(f'line {number} has no "video" with a path')
        elif window := {"start", "end"} & entry.keys():
            problems.append(f'line {number} has "{min(window)}": whole files are indexed; cut it')
        else:
            path = str((place.parent / entry.pop("video")).absolute())
            if path in videos:
                problems.append(f"line {number} names {path} again")
            videos[path] = entry
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError(f"{place}: {'; '.join(problems[:SHOWN])}{more}.")
    if not videos:
        raise ValueError(f'{place} names no video: expected a line such as {{"video": "a.mp4"}}.')
    return _listing(place, videos)


def _listing(place: Path, videos: dict[str, dict]) -> Listing:
    errors = []
    for path in list(videos):
        try:
            path.encode()
        except UnicodeEncodeError:  # a name that is not text cannot be kept in a table
            del videos[path]
            shown = path.encode(errors="backslashreplace").decode()
            errors.append(VideoError(shown, "unreadable", "its name is not UTF-8: rename it"))
    return Listing(str(place.absolute()), videos, errors)
