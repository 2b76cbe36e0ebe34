"""A stand-in for gcloud, with a bucket and slices of two workers in the folder $STAND_IN.

It records its arguments and plays what `play.json` says; commands for workers run for real, in a
folder a worker that is the worker's home. There `python3 -m uv` installs an `xclip-jax` that plays
too. Only the standard library: it is started for every command that the launcher runs.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(os.environ["STAND_IN"])
WORKERS = 2

PYTHON3 = f"""#!/bin/sh
echo "$@" >>"$HOME/python3.log"
case "$*" in
*'uv pip install'*)
  mkdir -p .venv/bin
  printf '#!/bin/sh\\nexec {sys.executable} -S {__file__} "$0" "$@"\\n' >.venv/bin/xclip-jax
  chmod +x .venv/bin/xclip-jax ;;
esac
"""


def play(key: str, default):
    return json.loads((HERE / "play.json").read_text()).get(key, default)


def fail(message: str, status: int = 1):
    print(f"ERROR: (gcloud) {message}", file=sys.stderr)
    sys.exit(status)


def homes() -> list[Path]:
    return sorted((HERE / "slice").glob("*/worker-*"))


def runs() -> list[Path]:
    return sorted((HERE / "runs").glob("*.json"))


def create(nodes: list[str]) -> None:
    for node in nodes:
        for number in range(WORKERS):
            home = HERE / "slice" / node / f"worker-{number}"
            (home / "bin").mkdir(parents=True)
            (home / "bin" / "python3").write_text(PYTHON3)
            (home / "bin" / "python3").chmod(0o755)


def wipe() -> None:
    """Takes the machines away, with all that runs on them."""
    for home in homes():
        for pid in home.glob("*/train.pid"):
            try:
                os.kill(int(pid.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                continue
    shutil.rmtree(HERE / "slice", ignore_errors=True)


def describe(family: str, name: str) -> None:
    """Prints a state; preempts a slice when as many runs have started as `preempt` says."""
    if play("describe_fails", ""):
        fail(play("describe_fails", ""))
    if len(runs()) == play("preempt", -1) * WORKERS and not (HERE / "preempted").exists():
        wipe()
        (HERE / "preempted").touch()
        (HERE / "gone").touch()
    waiting = HERE / "waiting"
    if not (HERE / "slice").exists() and not (HERE / "gone").exists():
        fail(f"NOT_FOUND: Resource 'projects/p/locations/z/nodes/{name}' was not found")
    if family == "queued-resources":
        if waiting.exists():
            waiting.unlink()
            print("WAITING_FOR_RESOURCES")
        else:
            print("ACTIVE")
    else:
        gone = (HERE / "gone").exists()
        print("PREEMPTED" if gone and name == play("preempted_node", name) else "READY")


def gcloud(words: list[str]) -> None:
    with (HERE / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    flags = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
    if words[:2] == ["storage", "ls"]:
        if play("storage_fails", ""):
            fail(play("storage_fails", ""))
        pattern = words[2].removeprefix("gs://")
        found = sorted((HERE / "bucket").glob(pattern)) if "*" in pattern else []
        found = found or [path for path in [HERE / "bucket" / pattern] if path.exists()]
        if not found:
            fail("One or more URLs matched no objects.")
        listed = sorted(found[0].iterdir()) if found[0].is_dir() else found
        print("\n".join(map(str, listed)))
    if words[0] == "storage":
        return
    family, verb, name = words[2:5]
    if verb == "describe":
        describe(family, name)
    elif verb == "create":
        (HERE / "gone").unlink(missing_ok=True)
        if "--node-count" in flags:
            create([f"{name}-{i}" for i in range(int(flags["--node-count"]))])
        else:
            create([name])
        if family == "queued-resources":
            (HERE / "waiting").touch()
    elif verb == "delete" and len(list(HERE.glob("failed-delete-*"))) < play("delete_fails", 0):
        (HERE / f"failed-delete-{time.time_ns()}").touch()
        fail("UNAVAILABLE: the service is currently unavailable")
    elif verb == "delete":
        wipe()
        (HERE / "gone").unlink(missing_ok=True)
    elif play("ssh_fails", False):
        fail("[/usr/bin/ssh] exited with return code [255].", 255)
    elif verb == "scp":
        for home in homes():
            shutil.copy(words[4], home / words[5].partition(":")[2])
    elif verb == "ssh":
        reached = homes() if flags["--worker"] == "all" else homes()[:1]
        statuses = [
            subprocess.run(
                ["sh", "-c", flags["--command"]],
                cwd=home,
                env=os.environ | {"HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL,
            ).returncode
            for home in reached
        ]
        sys.exit(max(statuses))


def xclip_jax(words: list[str]) -> None:
    """Trains as the n-th word of `runs` says: `wait` for SIGTERM, `finish`, or an exit code; a list
    has one for each worker.

    With `checkpoints` each run leaves one behind, whole or `half`. Any other command is only
    written down.
    """
    signal.signal(signal.SIGTERM, lambda *_: (print("preempted; saved", flush=True), os._exit(0)))
    home = Path(os.environ["HOME"])
    if words[0] != "train":
        (home / f"{words[0]}.json").write_text(json.dumps(words))
        return
    worker = f"{home.parent.name}-{home.name}"
    turn = len(list((HERE / "runs").glob(f"*-{worker}.json")))
    record = HERE / "runs" / f"{turn:02d}-{worker}.json"
    workdir = HERE / "bucket" / words[words.index("--workdir") + 1].removeprefix("gs://")
    if play("checkpoints", False):
        step = workdir / "checkpoints" / str(turn)
        step.mkdir(parents=True, exist_ok=True)
        (step / "_CHECKPOINT_METADATA").touch()
        if play("checkpoints", False) != "half":
            (step / "commit_success.txt").touch()
    how = play("runs", ["wait"])
    how = how[min(turn, len(how) - 1)]
    how = how[int(home.name.rpartition("-")[2])] if isinstance(how, list) else how
    print("training", flush=True)
    record.with_suffix(".new").write_text(json.dumps(words))
    record.with_suffix(".new").rename(record)
    if how == "finish":
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "finished").write_text("{}")
    while how == "wait":
        signal.pause()
    sys.exit(0 if how == "finish" else how)


if __name__ == "__main__":
    if sys.argv[1].endswith("xclip-jax"):
        xclip_jax(sys.argv[2:])
    else:
        gcloud(sys.argv[2:])
