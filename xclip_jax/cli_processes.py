"""The flags by which the processes of `xclip-jax train` and `eval` find each other."""

import argparse
from collections.abc import Callable

from xclip_jax import one_line
from xclip_jax.processes import distributed, supervise


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the flags to a command's parser."""
    many = parser.add_argument_group("several processes, one a host, all with the same command")
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


def run(
    arguments: argparse.Namespace,
    work: Callable[[distributed.Place | None], None],
    *,
    saves: bool,
) -> None:
    """Calls `work(where)`; one of several processes does so in a child, whose end is told in a
    line. `where` is None for a process on its own, else what `distributed.start` takes; `saves` is
    that of `supervise.run`."""
    where = distributed.place(
        arguments.distributed, arguments.coordinator, arguments.processes, arguments.process
    )
    if where is None:
        work(None)
    else:
        supervise.run(lambda: work(where), one_line.answer, saves=saves)
