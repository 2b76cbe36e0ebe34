"""The command `xclip-jax eval`, alone or as one of several processes that share the work."""

import argparse
import json
import sys
from pathlib import Path

from xclip_jax import cli_processes
from xclip_jax.cli_index import CHECKPOINT
from xclip_jax.processes import distributed


def add(command) -> None:
    """Adds the command to the parser by way of cli's `command`."""
    evaluate = command(
        "eval",
        run,
        "score a trained model on a split",
        "xclip-jax eval --workdir runs/mine --split test",
    )
    evaluate.add_argument("--workdir", required=True, help="folder of the run")
    evaluate.add_argument("--data", help="shards (default: those of training)")
    evaluate.add_argument("--split", help="split (default: the run's evaluation split)")
    evaluate.add_argument("--checkpoint", default="selected", help=CHECKPOINT)
    evaluate.add_argument(
        "--report", metavar="FILE.html", help="page of ranks, recalls and the worst failures"
    )
    evaluate.add_argument(
        "--ties",
        default="average",
        choices=["average", "reference", "optimistic", "pessimistic"],
        help="what equal scores count as (default: average)",
    )
    evaluate.add_argument(
        "--dual-softmax",
        action="store_true",
        help="print the metrics after dual softmax too, which looks at all queries of the test set"
        " at once (arXiv 2109.04290): not to be compared with a model's own",
    )
    cli_processes.add(evaluate)


def run(arguments: argparse.Namespace) -> None:
    """Evaluates; with several processes, each of them reads and encodes its share."""
    page = arguments.report and Path(arguments.report)
    if page and (page.suffix.lower() != ".html" or not page.parent.is_dir()):
        raise ValueError(f"--report {page}: expected a name that ends in .html, in a folder there.")
    cli_processes.run(arguments, lambda where: _evaluate(arguments, page, where), saves=False)


def _evaluate(
    arguments: argparse.Namespace, page: Path | None, where: distributed.Place | None
) -> None:
    import jax

    from xclip_jax import (
        dual_softmax,
        eval_report,
        evaluate,
        metrics,
        protocol,
        sharding,
        startup,
        workdir,
    )
    from xclip_jax.records import Shards
    from xclip_jax.training import padded_batch

    if where is not None:
        # There is nothing to save: SIGTERM ends the process, as it does without other processes.
        jax.config.update("jax_enable_preemption_service", False)
        distributed.start(where, peer_timeout=arguments.peer_timeout)
    startup.keep_compilations()
    mesh = sharding.make_mesh()
    trained = workdir.load(arguments.workdir, arguments.checkpoint, mesh=mesh)
    padded_batch.check_evaluation(trained.config, mesh.size)
    data = trained.config.data
    folder = arguments.data or data.dir
    split = arguments.split or data.eval_split
    twins = data.twin_split if split == data.eval_split and data.twin_split else None
    shards = Shards(folder, split)
    reversed_clips = Shards(folder, twins) if twins else None
    speaks = jax.process_index() == 0
    matrix = evaluate.score_split(
        evaluate.make_encoders(trained.graphdef, mesh),
        trained.params,
        shards,
        trained.tokenizer,
        trained.intake,
        twins=reversed_clips,
        batch_size=trained.config.eval_batch_size,
        progress=speaks and sys.stderr.isatty(),
    )
    if speaks:
        scores = evaluate.measure(matrix, shards, reversed_clips, ties=arguments.ties)
        if arguments.dual_softmax:
            counts = shards.captions_per_video
            own = matrix[: counts.sum(), : len(counts)]  # without the twins
            scores |= dual_softmax.retrieval(own, counts, ties=arguments.ties)
        stands_for = protocol.evaluation(
            shards,
            trained.trained_on,
            step=trained.step,
            chosen=trained.chosen,
            ties=arguments.ties,
            arithmetic=protocol.arithmetic(trained.config),
            post_processing=dual_softmax.PROTOCOL if arguments.dual_softmax else "none",
        )
        print(f"{protocol.lines(stands_for)}\n{metrics.table(scores)}")
        print(json.dumps(scores | {"protocol": stands_for}))
        if page:
            name = f"{arguments.workdir}, step {trained.step}, on {split}"
            said = protocol.lines(stands_for).splitlines()
            table = metrics.table(scores)
            eval_report.write(page, name, said, table, matrix, shards, ties=arguments.ties)
            print(f"wrote {page}", file=sys.stderr)
    if where is not None:
        distributed.stop()
