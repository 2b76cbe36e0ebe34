"""The command line: `xclip-jax demo | build | doctor | train | eval | search | ...`.

A user's mistake, a ValueError or FileNotFoundError from anywhere below, becomes one line without a
traceback. Imports stand in the commands, so that `--help` answers at once.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from xclip_jax import (
    cli_build,
    cli_eval,
    cli_explain,
    cli_features,
    cli_index,
    cli_plan,
    cli_serve,
    cli_shards,
    cli_train,
    cli_weights,
    one_line,
    retry,
)
from xclip_jax.processes import distributed

EXAMPLES = """examples:
  xclip-jax demo                                    see all of it work, in four minutes on a CPU
  xclip-jax build jsonl --captions clips.jsonl --out shards/mine
  xclip-jax doctor shards/mine                      look for damage, draw some frames
  xclip-jax train --config jsonl --config.data.dir=shards/mine --workdir runs/mine
  xclip-jax eval --workdir runs/mine --split test
  xclip-jax search --workdir runs/mine --videos ~/clips "a man is cooking"
  xclip-jax index ~/clips --workdir runs/mine --index clips.lance
  xclip-jax search --index clips.lance "a man is cooking" --json
  xclip-jax serve clips.lance                       a page to search it by, on this machine
  xclip-jax embed --workdir runs/mine --videos ~/clips --out clips.parquet
  xclip-jax explain clip.mp4 "a man is cooking" --workdir runs/mine --out why.html
  xclip-jax compress videos --out videos-small      where disk or network is scarce
  xclip-jax download clip:ViT-B/32                  for train --from-clip FILE
  xclip-jax convert pytorch_model.bin.4 --out runs/released
  xclip-jax plan --config msrvtt --topology v5e:4x4 --batch-size 512 --pairs 180000
  xclip-jax export runs/mine --to huggingface
"""


def main(argv: list[str] | None = None) -> None:
    """Runs one command; exits with 2 after a line on stderr where the input is at fault."""
    # TensorFlow, which writes shards and TensorBoard's files, has nothing to tell our users.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    if not os.environ.get("XCLIP_JAX_TRACEBACK"):
        # A request that fails comes with pages of these before we can say it in one line.
        for name in ("fsspec", "gcsfs"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        one_line.quiet_threads()
    try:
        arguments = _parse(sys.argv[1:] if argv is None else argv)
        arguments.run(arguments)
    except (Exception, KeyboardInterrupt) as error:
        status = one_line.answer(error)
        if status == retry.EXIT_STATUS:
            distributed.leave(status)  # threads of Orbax or gcsfs may wait for the bucket for ever
        sys.exit(status)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="xclip-jax",
        description="Text-video retrieval in JAX: find the video for a sentence.",
        epilog=EXAMPLES + "\nXCLIP_JAX_TRACEBACK=1 shows where an error came from.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")

    def command(name: str, run, summary: str, example: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run, overrides=[])
        return added

    demo = command("demo", _demo, "render, build, train, evaluate, search", "xclip-jax demo")
    demo.add_argument("--out", default="demo", help="folder for all of it (default: demo)")

    cli_build.add(command)
    cli_shards.add(command)

    cli_train.add(command)

    cli_eval.add(command)
    cli_index.add(command)
    cli_serve.add(command, cli_index.CHECKPOINT)
    cli_features.add(command)
    cli_explain.add(command, cli_index.CHECKPOINT)
    cli_weights.add(command)
    cli_plan.add(command)

    arguments, rest = parser.parse_known_args(argv)
    takes_overrides = arguments.run in (cli_train.run, cli_weights.convert, cli_plan.run)
    strange = [word for word in rest if not (takes_overrides and word.startswith("--config."))]
    if strange:
        parser.error(f"unknown argument {' '.join(strange)}; see xclip-jax --help")
    arguments.overrides = rest
    return arguments


def _demo(arguments) -> None:
    from xclip_jax import demo

    demo.run(Path(arguments.out))
