"""The command `xclip-jax train`, alone or as one of the processes of a run."""

import argparse
import contextlib
import logging
import os
import sys

from xclip_jax import cli_processes
from xclip_jax.processes import distributed, preemption

# Modules of Orbax whose errors are those of a save, which we tell ourselves.
SAVING = {"future", "async_checkpointer", "checkpoint_manager"}


def add(command) -> None:
    """Adds the command to the parser by way of cli's `command`."""
    train = command(
        "train",
        run,
        "train a model, or go on with a run that was stopped",
        "xclip-jax train --config shapes:head=meanP --workdir runs/shapes --config.batch_size=32",
    )
    train.add_argument(
        "--config", required=True, help="a config's name or path, with :key=value,... for arguments"
    )
    train.add_argument("--workdir", required=True, help="folder of the run")
    train.add_argument("--from-clip", help="weight file of a CLIP to start from")
    train.add_argument(
        "--profile", metavar="START:STOP", help="steps to trace into WORKDIR/profile, STOP excluded"
    )
    cli_processes.add(train)
    train.epilog += "\n--config.KEY=VALUE overrides any key of the config."


def run(arguments: argparse.Namespace) -> None:
    """Trains; one of several processes does so in a child, whose end is told in a line."""
    cli_processes.run(arguments, lambda where: _train(arguments, where), saves=True)


def _in_a_line(record: logging.LogRecord) -> bool:
    """Keeps the warnings of Orbax and Grain, without their tracebacks.

    A save that fails is left out: Orbax raises it too, and its log has a thousand lines.
    """
    record.exc_info = None
    return record.levelno < logging.ERROR or record.module not in SAVING


def _train(arguments: argparse.Namespace, where: distributed.Place | None) -> None:
    from xclip_jax import startup  # the clock starts before the other imports

    clock, notice = startup.Clock(), preemption.Notice()
    if where is None:
        notice.listen()
    import jax

    from xclip_jax import config_loader, train, transfer
    from xclip_jax.processes import watch

    if not os.environ.get("XCLIP_JAX_TRACEBACK"):
        logging.getLogger("absl").addFilter(_in_a_line)
    clock.mark("imports")
    config = config_loader.load(arguments.config, arguments.overrides)
    if config.get("deterministic", False):
        startup.compute_the_same_bits()
    timeout = arguments.peer_timeout
    told = {}
    if where is not None:
        distributed.start(where, peer_timeout=timeout)
        told = {"moved": watch.Watch(watch.STALLED * timeout).moved}
        clock.mark("joining")
    startup.keep_compilations(arguments.workdir)
    if arguments.from_clip:
        config.init.clip = arguments.from_clip
        config.model.activation = config.model.activation or transfer.find_activation(
            arguments.from_clip
        )
    try:
        train.train_and_evaluate(
            config,
            arguments.workdir,
            progress=sys.stderr.isatty(),
            profile=arguments.profile,
            notice=notice,
            clock=clock,
            **told,
        )
    except FloatingPointError:
        if where is not None:  # all of them have it: none may take the first to go for dead
            with contextlib.suppress(Exception):
                distributed.stop()
        raise
    except preemption.Preempted as end:
        if jax.process_index() == 0:
            print(f"xclip-jax: {end}", flush=True)
    if where is not None:
        distributed.stop()
