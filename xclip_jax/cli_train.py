"""The command `xclip-jax train`, alone or as one of the processes of a run."""

import argparse
import contextlib
import logging
import os
import sys

from xclip_jax import one_line
from xclip_jax.processes import distributed, preemption, supervise

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
    many = train.add_argument_group("several processes, one a host, all with the same command")
    many.add_argument(
        "--distributed",
        action="store_true",
        help="join them as jax finds them: TPU pod, SLURM, Open MPI, Kubernetes",
    )
    many.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, or by hand")
    many.add_argument("--processes", type=int, metavar="N", help="how many there are")
    many.add_argument("--process", type=int, metavar="I", help="which of them this is, from 0")
    many.add_argument(
        "--peer-timeout",
        type=int,
        metavar="SECONDS",
        default=distributed.PEER_TIMEOUT,
        help="silence after which a process counts as dead (default: %(default)s)",
    )
    train.epilog += "\n--config.KEY=VALUE overrides any key of the config."


def run(arguments: argparse.Namespace) -> None:
    """Trains; one of several processes does so in a child, whose end is told in a line."""
    where = distributed.place(
        arguments.distributed, arguments.coordinator, arguments.processes, arguments.process
    )
    if where is None:
        _train(arguments, None)
    else:
        supervise.run(lambda: _train(arguments, where), one_line.answer)


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
