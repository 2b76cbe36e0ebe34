"""The command `xclip-jax plan`: what a run needs on chips that are not here."""

import json
import sys
from collections.abc import Callable
from pathlib import Path


def add(command: Callable) -> None:
    """Adds the command; `command(name, run, summary, example)` returns a parser."""
    plan = command(
        "plan",
        run,
        "estimate memory, speed and cost on TPUs and GPUs that are not here, by compiling for them",
        "xclip-jax plan --config msrvtt:arch=vit_b16 --config.model.dtype=bfloat16"
        " --topology v5e:8x8 --batch-size 2048 --pairs 180000",
    )
    plan.add_argument(
        "--config", required=True, help="a config's name or path, as of xclip-jax train"
    )
    plan.add_argument(
        "--topology",
        required=True,
        help="v5e:8x8, with :2 for two slices, h100:8, cpu:8 for fake devices; several by commas",
    )
    plan.add_argument(
        "--batch-size", help="of the whole run (default: the config's); several by commas"
    )
    plan.add_argument("--from-clip", help="the weight file of the run; it need not be here")
    plan.add_argument("--pairs", type=int, help="pairs of an epoch (default: those of the shards)")
    plan.add_argument("--price-per-chip-hour", type=float, metavar="PRICE", help="for the cost")
    plan.add_argument(
        "--sweep", action="store_true", help="a table of all topologies and batches, and a plot"
    )
    plan.add_argument("--plot", default="plan.png", help="the sweep's plot (default: plan.png)")
    plan.add_argument("--json", metavar="FILE", help="write everything there too")
    plan.add_argument(
        "--check",
        action="store_true",
        help="exit with 2 where the run does not fit, or fine-tunes without weights",
    )
    plan.epilog += "\n--config.KEY=VALUE overrides any key of the config."


def run(arguments) -> None:
    """Compiles for each topology and batch, and prints what comes of it."""
    from xclip_jax import config_loader
    from xclip_jax.plan import topology

    names = arguments.topology.split(",")
    topology.prepare(names)  # before anything asks JAX for a device
    from xclip_jax.plan import check, compiled, estimate, report

    config = config_loader.load(arguments.config, arguments.overrides)
    config.init.clip = arguments.from_clip or config.init.clip
    pairs = estimate.training_pairs(config, arguments.pairs)
    rows, problems = [], []
    for name in names:
        machine = topology.get(name)
        for batch in _batches(arguments.batch_size, config.batch_size):
            config.batch_size = batch
            if arguments.sweep:
                print(f"compiling for {name}, batch {batch:,}", file=sys.stderr, flush=True)
            try:
                facts = compiled.whole(
                    config,
                    machine,
                    pairs=pairs,
                    price=arguments.price_per_chip_hour,
                    evaluation=not arguments.sweep,
                )
            except ValueError as error:
                if not arguments.sweep:
                    raise
                facts = {"topology": name, "batch_size": batch, "problem": str(error)}
            found = check.problems(config, facts)
            problems += found
            rows.append(facts | {"config": arguments.config, "overrides": arguments.overrides})
            if not arguments.sweep:
                print(report.text(facts), *(f"but {text}" for text in found), sep="\n", flush=True)
    if arguments.sweep:
        print(report.table(rows))
        report.plot(rows, arguments.plot)
        print(f"plot in {arguments.plot}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")
    if arguments.check and problems:
        raise ValueError("; ".join(dict.fromkeys(problems)) + ".")


def _batches(given: str | None, default: int) -> list[int]:
    if given is None:
        return [default]
    batches = given.split(",")
    if wrong := [text for text in batches if not text.isdecimal() or int(text) < 1]:
        raise ValueError(f"--batch-size {','.join(wrong)}: expected whole numbers above 0.")
    return [int(text) for text in batches]
