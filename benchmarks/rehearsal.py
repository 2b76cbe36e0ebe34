"""A benchmark's whole protocol at full size without its videos: build, train, evaluate; JSON lines.

python benchmarks/rehearsal.py msvd --annotations FOLDER [--vocab FILE] [--work FOLDER]
    [--config.KEY=VALUE ...]

A small clip of coloured noise stands under the name of each official video. What then runs are the
commands of a user, with the official captions and a small model: `build`, `train` for a few steps
and its evaluation, and `eval` under the references' ties. Each line says what the command took and
the most memory that it held. The scores are a guess's; what is looked at are the counts, the memory
and, on MSVD, what ties do to video-to-text.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from xclip_jax.data import benchmark, catalog

SUFFIX = {"msvd": ".avi"}  # what the data set's own files are; the others' are .mp4
BOUND = 4.0  # GiB of any one process


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=catalog.NAMES)
    parser.add_argument("--annotations", required=True, help="folder of the annotation files")
    parser.add_argument("--vocab", help="CLIP's vocabulary file (default: searched for)")
    parser.add_argument("--work", type=Path, help="folder to keep (default: a temporary one)")
    args, overrides = parser.parse_known_args(argv)
    if wrong := [word for word in overrides if not word.startswith("--config.")]:
        parser.error(f"unknown: {' '.join(wrong)}")
    with tempfile.TemporaryDirectory() as folder:
        rehearse(args, args.work or Path(folder), overrides)


def rehearse(args, work: Path, overrides: list[str]) -> None:
    """Runs every command and prints a line for each; exits with 1 where one took too much."""
    start = time.perf_counter()
    ids = benchmark.videos(catalog.read(args.name, args.annotations))
    read = time.perf_counter() - start
    report(args.name, "read", seconds=round(read, 2), videos=len(ids))
    render_all(ids, work / "videos", SUFFIX.get(args.name, ".mp4"))
    vocab = ["--vocab", args.vocab] if args.vocab else []
    places = ["--annotations", args.annotations, "--videos", work / "videos"]
    shards, run = work / "shards", work / "run"
    settings = [f"--config.data.dir={shards}", "--config.eval_batch_size=64", *overrides]
    commands = {
        "build": ["build", args.name, *places, "--out", shards, *vocab],
        "train": ["train", "--config", f"{args.name}:smoke", *settings, "--workdir", run],
        "eval": ["eval", "--workdir", run, "--ties", "reference"],
    }
    most = 0.0
    for stage, arguments in commands.items():
        seconds, gib, output = command(*map(str, arguments))
        facts = {}
        if stage == "build":
            manifest = json.loads((shards / "manifest.json").read_text())
            facts = {"splits": manifest["splits"], "skipped": len(manifest["skipped"])}
        elif found := [line for line in output.splitlines() if line.startswith("{")]:
            facts = {"result": json.loads(found[-1])}
        report(args.name, stage, seconds=round(seconds, 1), peak_gib=round(gib, 3), **facts)
        most = max(most, gib)
    if most > BOUND:
        sys.exit(f"a command held {most:.2f} GiB, more than {BOUND:g}")


def report(name: str, stage: str, **values) -> None:
    print(json.dumps({"rehearsal": name, "stage": stage, **values}), flush=True)


def command(*arguments: str) -> tuple[float, float, str]:
    """Runs `xclip-jax` with these arguments; returns its seconds, the GiB that its largest process
    held at most, and what it printed. Its progress stays on screen.

    Linux counts what this process held when it started the other, too: at least that comes back.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
        process = subprocess.Popen([sys.executable, "-m", "xclip_jax", *arguments], stdout=printed)
        _, status, usage = os.wait4(process.pid, 0)
        printed.seek(0)
        output = printed.read()
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(f"{output}\nxclip-jax {' '.join(arguments)} ended with {code}")
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - start, usage.ru_maxrss * unit / 2**30, output


def render_all(ids, folder: Path, suffix: str) -> None:
    """Writes a clip under each id; one that is there is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    there = {path.name for path in folder.iterdir()}
    for video_id in tqdm(ids, "render", unit="clip"):
        if f"{video_id}{suffix}" not in there:
            render(folder / f"{video_id}{suffix}")


def render(path: Path) -> None:
    """Writes two to five seconds of coloured noise that the file's name alone decides."""
    rng = np.random.default_rng(list(hashlib.sha256(path.stem.encode()).digest()))
    partial = path.with_name(f".partial{path.suffix}")
    with av.open(str(partial), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(1))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(rng.integers(2, 6)):
            blocks = rng.integers(0, 256, (6, 8, 3), np.uint8)
            pixels = blocks.repeat(8, axis=0).repeat(8, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    partial.replace(path)


if __name__ == "__main__":
    main()
