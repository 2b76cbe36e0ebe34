"""metrics.jsonl, on this machine's disk or in a bucket."""

import json
import time

from xclip_jax import remote

EVERY = 60.0  # seconds between uploads


class Lines:
    """JSON lines, each with a step, that a run goes on writing where it was stopped.

    A file is appended to. An object in a bucket cannot be: it is written anew, whole, at most once
    a minute and whenever `upload` is called.
    """

    def __init__(self, place: "remote.Path | remote.RemotePath"):
        self.place, self.remote = place, remote.is_remote(place)
        self.text, self.uploaded = "", 0.0

    def start(self, step: int) -> None:
        """Drops the lines of steps that will be done again, and half a line of a killed run."""
        kept = []
        if step and self.place.is_file():
            lines = self.place.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [
                line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step
            ]
        self.text = "".join(kept)
        self.upload()

    def add(self, values: dict) -> None:
        """Writes one line more."""
        line = json.dumps(values) + "\n"
        if not self.remote:
            with self.place.open("a", encoding="utf-8") as file:
                file.write(line)
            return
        self.text += line
        if time.monotonic() - self.uploaded > EVERY:
            self.upload()

    def upload(self) -> None:
        """Writes what is held in memory, which is all of an object and nothing of a file's end."""
        if self.remote or not self.uploaded:
            with remote.written(self.place) as file:
                file.write_text(self.text, encoding="utf-8")
            self.uploaded = time.monotonic()
