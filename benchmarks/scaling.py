"""What training needs on TPU slices and on a machine of GPUs, compiled for them: a JSON line each.

python benchmarks/scaling.py [--only ViT-B/32] [--markdown] [--processes shards/shapes]

With `--processes` the line of processes.py comes first: a second process on CPUs, trained with.
Needs libtpu and JAX's CUDA plugin (`pip install '.[plan,plan-gpu]'`), no TPU and no GPU. Each line
is one `xclip-jax plan` in a process of its own; half a minute to minutes on two cores. `--markdown`
prints the rows of docs/scaling.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import processes

GIB = 2**30
HALF = "--config.model.dtype=bfloat16"
# How a TPU is trained on: bfloat16 products, and of each block the input kept alone.
COMPUTE = (HALF, "--config.model.remat=full")


class Line(NamedTuple):
    """One row: what is trained, on which chips, with how many pairs a step."""

    name: str
    config: str
    topology: str
    batch: int
    overrides: tuple[str, ...] = COMPUTE

    @property
    def command(self) -> list[str]:
        """The words after `xclip-jax`."""
        return [
            *("plan", "--config", self.config, "--topology", self.topology),
            *("--batch-size", str(self.batch), *self.overrides),
        ]


LINES = (
    Line("ViT-B/16", "msrvtt:arch=vit_b16", "v5e:8x8", 2048),
    Line("ViT-B/32", "msrvtt", "v5e:8x8", 16384),
    Line("ViT-L/14", "didemo:arch=vit_l14", "v5p:4x4x4", 512),
)
WEAK = (
    Line("ViT-B/16", "msrvtt:arch=vit_b16", "v5e:2x4", 256),
    Line("ViT-B/16", "msrvtt:arch=vit_b16", "v5e:16x16", 8192),
)
# The machine that most have: eight GPUs, the recipe's batch or what fills them.
GPUS = (
    Line("ViT-B/32", "msrvtt", "a100:8", 304, (HALF,)),
    Line("ViT-B/32", "msrvtt", "h100:8", 304, (HALF,)),
    Line("ViT-B/32", "msrvtt", "b200:8", 304, (HALF,)),
    Line("ViT-B/32", "msrvtt", "h100:8", 304, ()),
    Line("ViT-B/16", "msrvtt:arch=vit_b16", "h100:8", 2048),
    Line("ViT-L/14", "didemo:arch=vit_l14", "h100:8", 64),
)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="lines of this name")
    parser.add_argument("--markdown", action="store_true", help="rows of a table instead")
    parser.add_argument("--processes", metavar="SHARDS", help="shards of the data set shapes")
    args = parser.parse_args(argv)
    if args.processes:
        processes.main(["--data", args.processes])
    with tempfile.TemporaryDirectory() as folder:
        for line in LINES + WEAK + GPUS:
            if args.only in (None, line.name):
                facts = plan(line, Path(folder))
                print(row(line, facts) if args.markdown else json.dumps(summary(line, facts)))
                sys.stdout.flush()


def plan(line: Line, folder: Path) -> dict:
    """Returns the facts of the step that `xclip-jax plan` writes for a line."""
    file = folder / "plan.json"
    # A flag for the CPU's compiler, which the tests have, would slow the TPU's program down.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    words = [*line.command, "--sweep", "--plot", str(folder / "plan.png"), "--json", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", "xclip_jax", *words], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(line.command)}: {done.stderr}")
    [facts] = json.loads(file.read_text())
    return facts


def summary(line: Line, facts: dict) -> dict:
    """Returns the figures of a line that a table has."""
    step = facts["step"]
    values = {
        "benchmark": "scaling",
        "name": line.name,
        "topology": line.topology,
        "chips": facts["chips"],
        "batch": line.batch,
        "fits": step["fits"],
        "temporary_gib": round(
            step["memory"].get("temp", step["memory"].get("needed", 0)) / GIB, 2
        ),
    }
    if "estimate" in facts:
        values |= {
            "peak_gib": round(step["memory"]["peak"] / GIB, 2),
            "compile_seconds": step["compile_seconds"],
            "tflop": round(step["flops"] / 1e12, 2),
            "executed_tflop": round(step["executed_flops"] / 1e12, 2),
            "traffic_gb": round(step["hbm_bytes"] / 1e9, 1),
            "sent_mb": round(sum(one["sent"] for one in step["collectives"]) / 1e6, 1),
            "bound": facts["estimate"]["bound"],
        }
        for name in ("step_seconds", "mfu", "videos_per_second"):
            values[name] = {end: round(x, 4) for end, x in facts["estimate"][name].items()}
    return values


def row(line: Line, facts: dict) -> str:
    """Returns a line of the table in docs/scaling.md."""
    values = summary(line, facts)
    cells = [line.name, f"{line.batch:,}", line.topology, "yes" if values["fits"] else "no"]
    cells.append(f"{values['temporary_gib']:.2f}")
    if "estimate" in facts:
        milliseconds = [1000 * x for x in values["step_seconds"].values()]
        cells += [
            f"{values['peak_gib']:.2f}",
            f"{values['executed_tflop']:.1f}",
            f"{values['traffic_gb']:.0f}",
            f"{values['sent_mb']:,.0f}",
            f"{milliseconds[0]:.0f} to {milliseconds[1]:.0f} ({values['bound']})",
            " to ".join(f"{100 * x:.0f}" for x in values["mfu"].values()),
            " to ".join(f"{x:,.0f}" for x in values["videos_per_second"].values()),
        ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
