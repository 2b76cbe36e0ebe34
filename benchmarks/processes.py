"""What a second process costs: training throughput of one and of two, a core each.

python benchmarks/processes.py --data shards/shapes [--batch 16] [--steps 60]
    [--config.KEY=VALUE ...]

Each process has one core and one device of the CPU, and its own `--batch` pairs a step, so that two
of them do twice the work of one. One JSON line: videos a second, and the share of twice one's.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import measure


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="shards of the data set shapes")
    parser.add_argument("--batch", type=int, default=16, help="pairs a step and process")
    parser.add_argument("--steps", type=int, default=60, help="steps of a run")
    args, overrides = parser.parse_known_args(argv)
    processes(Path(args.data), args.batch, args.steps, overrides)


def processes(data: Path, batch: int, steps: int, overrides: list[str]) -> None:
    """Trains with one process and with two, and prints how their throughput compares."""
    cores = sorted(measure.usable_cores())
    if len(cores) < 2:
        raise ValueError(f"{len(cores)} usable core: two processes need two.")
    with tempfile.TemporaryDirectory() as folder:
        rates = {
            count: throughput(
                data, Path(folder, str(count)), cores[:count], batch, steps, overrides
            )
            for count in (1, 2)
        }
    one, two = (statistics.median(rates[count]) for count in (1, 2))
    measure.report(
        "processes",
        batch_per_process=batch,
        steps=steps,
        videos_per_second_1=measure.spread(rates[1], 2),
        videos_per_second_2=measure.spread(rates[2], 2),
        efficiency=round(two / (2 * one), 3),
    )


def throughput(
    data: Path, workdir: Path, cores: list[int], batch: int, steps: int, overrides: list[str]
) -> list[float]:
    """Returns the videos a second of a run with a process on each core, at each of its reports but
    the first two, in which it compiles."""
    count = len(cores)
    pairs = json.loads((data / "manifest.json").read_text())["splits"]["train"]["captions"]
    every = max(steps // 12, 1)
    command = [
        *(sys.executable, "-m", "xclip_jax", "train", "--config", "shapes"),
        *("--workdir", str(workdir), f"--config.data.dir={data}"),
        f"--config.batch_size={batch * count}",
        f"--config.epochs={(steps + 0.5) / (pairs // (batch * count))}",
        f"--config.report_every_steps={every}",
        "--config.save_every_steps=1000000",
        "--config.eval_every_steps=1000000",
        *overrides,
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = "--xla_force_host_platform_device_count=1"
    members = []
    for i, core in enumerate(cores):
        place = f"--coordinator 127.0.0.1:{port} --processes {count} --process {i}".split()
        members.append(
            subprocess.Popen(
                [*command, *(place if count > 1 else [])],
                env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
                stdout=subprocess.DEVNULL,
                preexec_fn=lambda core=core: os.sched_setaffinity(0, {core}),
            )
        )
    if any([member.wait() for member in members]):
        raise RuntimeError(f"a run of {count} processes failed; it says above why.")
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    rates = [line["train/videos_per_second_per_chip"] for line in lines if "train/loss" in line]
    return [rate * count for rate in rates[2:]]


if __name__ == "__main__":
    main()
