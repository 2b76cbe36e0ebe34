"""Trains every system on the rendered shapes and writes the table of docs/results.md.

python benchmarks/shapes_table.py [--shards shards/shapes] [--runs runs/table] [--seeds 3]
    [--epochs 1] [--out docs/results.md]

Needs `xclip-jax build shapes --out shards/shapes`. A run that was stopped goes on where it was; one
that is done is only evaluated again. With 21 runs this takes an hour or two on two CPU cores.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import NamedTuple

import jax
from measure import usable_cores

from xclip_jax import config_loader, train, workdir


class System(NamedTuple):
    """One row: what it is called, and how it is configured."""

    name: str
    config: str
    overrides: tuple[str, ...] = ()


SYSTEMS = (
    System("CLIP4Clip meanP", "model=clip4clip,head=meanP"),
    System("CLIP4Clip seqLSTM", "model=clip4clip,head=seqLSTM"),
    System("CLIP4Clip seqTransf", "model=clip4clip,head=seqTransf"),
    System("CLIP4Clip tightTransf", "model=clip4clip,head=tightTransf"),
    System("CLIP2Video", "model=clip2video"),
    System("X-CLIP", "model=xclip"),
    System("X-CLIP masked", "model=xclip", ("--config.model.mask_padding=true",)),
)
COLUMNS = {"t2v/r1": 1, "twins/t2v/r1": 1, "twins/accuracy": 3}  # metric -> digits shown


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", default="shards/shapes")
    parser.add_argument("--runs", type=Path, default=Path("runs/table"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=1.0, help="312 steps each")
    parser.add_argument("--out", type=Path, default=Path("docs/results.md"))
    args = parser.parse_args(argv)
    rows = [row(system, args) for system in SYSTEMS]
    command = f"python benchmarks/shapes_table.py --seeds {args.seeds} --epochs {args.epochs:g}"
    text = page(rows, command, machine())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text)
    print(text)


def row(system: System, args) -> str:
    """Trains and evaluates one system with every seed; returns its line of the table."""
    runs = [measure(system, seed, args) for seed in range(args.seeds)]
    cells = [summary([run[name] for run in runs], digits) for name, digits in COLUMNS.items()]
    speed = statistics.median(run["steps_per_second"] for run in runs)
    return f"| {system.name} | {' | '.join(cells)} | {speed:.1f} | {runs[0]['parameters']:,} |"


def measure(system: System, seed: int, args) -> dict[str, float]:
    """Returns the metrics of one run, its median speed and its number of parameters."""
    folder = args.runs / f"{system.name.replace(' ', '_')}-{seed}"
    print(f"\n{system.name}, seed {seed}: {folder}", flush=True)
    config = config_loader.load(
        f"shapes:{system.config},seed={seed}",
        [
            f"--config.data.dir={args.shards}",
            f"--config.epochs={args.epochs}",
            "--config.eval_every_steps=1000000",  # at the end alone
            *system.overrides,
        ],
    )
    scores = train.train_and_evaluate(config, folder, progress=True)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    speeds = [line["train/steps_per_second"] for line in lines if "train/loss" in line]
    trained = workdir.load(folder)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(trained.params))
    return scores | {"steps_per_second": statistics.median(speeds), "parameters": parameters}


def summary(values: list[float], digits: int) -> str:
    """Returns the mean, and every value where there are several."""
    mean, *shown = (f"{value:.{digits}f}" for value in (statistics.mean(values), *values))
    return f"{mean} ({', '.join(shown)})" if len(shown) > 1 else mean


def machine() -> str:
    """Returns what the runs were trained on."""
    kind = jax.devices()[0].device_kind
    cores = f", {len(usable_cores())} core(s)" if jax.default_backend() == "cpu" else ""
    return f"{jax.device_count()} {kind} device(s){cores}"


def page(rows: list[str], command: str, measured_on: str) -> str:
    """Returns the Markdown page."""
    return f"""# Results on the rendered shapes

Every system from scratch, on 4,000 clips with their twins, tested on 100 unseen scenes; mean,
and each seed in brackets. Guessing gives R@1 1.0, with twins in the gallery 0.5, and twin accuracy
0.5, which a model blind to the order of frames cannot exceed.

An epoch is 312 steps, a fifth of what the config trains for by itself: every system learns (the
cross encoder of tightTransf, whose scores start from random weights, has only begun), but at this
length seeds differ by as much as systems do, and the rows are no ranking of them.

```
xclip-jax build shapes --out shards/shapes
{command}
```

| system | R@1 | R@1 with twins | twin accuracy | steps/s | parameters |
|---|---|---|---|---|---|
{chr(10).join(rows)}

Measured on {measured_on}; steps/s is the median of each run's reports, and theirs over the seeds.
"""


if __name__ == "__main__":
    main()
