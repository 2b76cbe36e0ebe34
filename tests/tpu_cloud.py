"""A clone to launch from, and a cloud of stand-ins to launch into."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "launch_tpu.sh"
RUN = {
    "CONFIG": "msrvtt:arch=vit_b16",
    "WORKDIR": "gs://b/runs/one",
    "DATA": "gs://b/shards/msrvtt",
    "POLL_SECONDS": "0",
    "STOP_SECONDS": "20",
    "PLAN": "skip",
}


class Cloud(NamedTuple):
    """A clone to launch from, and what the stand-in has seen and keeps."""

    script: Path
    folder: Path
    path: str

    def play(self, **what) -> None:
        (self.folder / "play.json").write_text(json.dumps(what))

    def start(self, *words: str, **variables: str) -> subprocess.Popen:
        environment = {"PATH": self.path, "STAND_IN": str(self.folder), "HOME": str(self.folder)}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        environment |= RUN | variables
        return subprocess.Popen([self.script, *words], env=environment, text=True, **pipes)

    def launch(self, *words: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess:
        process = self.start(*words, **variables)
        output, errors = process.communicate(stdin, timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, output, errors)

    def calls(self) -> list[list[str]]:
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def verbs(self) -> list[str]:
        """Returns the steps that change something, in order; ssh by what it is for."""
        purposes = {"uv": "install", "train --distributed": "train", "kill -TERM": "stop"}
        found = []
        for words in self.calls():
            verb = words[3] if words[0] == "compute" else ""
            command = next((word for word in words if word.startswith("--command=")), "")
            purpose = [name for mark, name in purposes.items() if mark in command]
            if verb in ("create", "delete") or purpose:
                found.append(purpose[0] if purpose else verb)
        return found

    def runs(self) -> dict[str, list[str]]:
        files = sorted((self.folder / "runs").glob("*.json"))
        return {file.stem: json.loads(file.read_text()) for file in files}

    def worker(self, number: int, node: str = "xclip") -> Path:
        return self.folder / "slice" / node / f"worker-{number}"


def opened(tmp_path: Path) -> Iterator[Cloud]:
    """Yields a cloud in a folder, and ends in the end what still trains there."""
    clone, folder, path = (tmp_path / name for name in ("a clone", "cloud", "bin"))
    for each in (clone, folder / "runs", path):
        each.mkdir(parents=True)
    shutil.copy(SCRIPT, clone)
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    for name in ("xclip_jax", "configs", "data"):
        (clone / name).mkdir()
        (clone / name / "__init__.py").touch()
    stand_in = Path(__file__).with_name("stand_in_gcloud.py")
    (path / "gcloud").write_text(f'#!/bin/sh\nexec {sys.executable} -S {stand_in} gcloud "$@"\n')
    (path / "gcloud").chmod(0o755)
    cloud = Cloud(clone / "launch_tpu.sh", folder, f"{path}:{os.environ['PATH']}")
    cloud.play()
    yield cloud
    for pid in folder.glob("slice/*/*/*/train.pid"):
        try:
            os.kill(int(pid.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "that never came"
        time.sleep(0.01)


def printed(dry_run: str) -> list[list[str]]:
    """Returns the words of each gcloud command that a dry run printed, as a shell reads them."""
    lines = [line for line in dry_run.splitlines() if line.startswith("gcloud ")]
    return [shlex.split(line)[1:] for line in lines]
