"""Joining the processes of a run: by address and number, or as the cluster has it.

Each host runs one process (or one a GPU) of the same command. They must be joined before anything
else touches jax; without any of the flags nothing is joined and a process is a run of its own.
"""

import contextlib
import os
import sys
from typing import NamedTuple, NoReturn

from xclip_jax import retry

LOST = 3  # exit status of a run that other processes have left
PEER_TIMEOUT = 60  # seconds without a sign of life after which a process counts as dead
REFUSED = 5  # seconds in which the others come to what one of them refuses
JOIN = 5  # times as long may the last process take to appear
# What the errors of collectives, of Gloo on CPUs, NCCL on GPUs and libtpu, have in common when a
# process at the other end is gone; they come as ValueError, RuntimeError or JaxRuntimeError.
SIGNS = (
    *("gloo", "nccl", "coordination", "heartbeat", "barrier failed", "closed by peer"),
    *("connection reset", "connection refused", "deadline_exceeded", "unavailable:"),
)


GONE = (
    "another process of this run has died or cannot be reached, so this one ends too; nothing is"
    " lost beyond the last save. Start all of them again to go on."
)


class Place(NamedTuple):
    """Which of a run's processes this is; `coordinator` None lets jax ask the cluster."""

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


def place(
    detect: bool, coordinator: str | None, processes: int | None, process: int | None
) -> Place | None:
    """Returns the place that the flags ask for, None where a process runs on its own.

    Raises ValueError naming all that does not go together.
    """
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in given.items() if value is None]
    if detect and len(missing) < 3:
        raise ValueError(
            "--distributed lets jax ask the cluster for coordinator, number and place: leave out"
            f" {', '.join(name for name in given if name not in missing)}, or --distributed."
        )
    if detect:
        return Place()
    if len(missing) == 3:
        return None
    problems = []
    if missing:
        problems.append(f"{', '.join(missing)} missing beside the other two")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        problems.append(f"--coordinator {coordinator}: expected HOST:PORT of process 0")
    if processes is not None and processes < 1:
        problems.append(f"--processes {processes}: expected 1 or more")
    elif process is not None and not 0 <= process < (processes or process + 1):
        problems.append(f"--process {process}: expected 0 to {(processes or 1) - 1}")
    if problems:
        raise ValueError("; ".join(problems) + ".")
    return Place(coordinator, processes, process)


def start(where: Place, *, peer_timeout: int) -> None:
    """Joins this process with the others of its run; waits until all have come.

    Raises:
      ValueError: --distributed was given where jax knows no cluster.
      ConnectionError: some did not come within JOIN times the timeout.
    """
    import jax

    detected = {} if where.coordinator is None else {"cluster_detection_method": "deactivate"}
    try:
        jax.distributed.initialize(
            *where,
            initialization_timeout=JOIN * peer_timeout,
            heartbeat_timeout_seconds=peer_timeout,
            shutdown_timeout_seconds=peer_timeout,
            **detected,
        )
    except ValueError as error:
        if where.coordinator is not None:
            raise
        raise ValueError(
            f"--distributed: jax finds no TPU pod, SLURM, Open MPI or Kubernetes here ({error}):"
            " give --coordinator HOST:PORT --processes N --process I."
        ) from None
    except RuntimeError as error:
        raise ConnectionError(
            f"not all processes came to {where.coordinator or 'the coordinator'} within"
            f" {JOIN * peer_timeout} s ({first_line(error)})"
        ) from None


def started() -> bool:
    """Tells whether this process has been joined with others."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def stop() -> None:
    """Waits for the others to be done too, and parts from them."""
    import jax

    jax.distributed.shutdown()


def all_refuse() -> None:
    """Waits, for a few seconds, until all processes of the run have come here too.

    What a setting is refused for, all of them find: each is to say so, and none to take another
    one, which has left, for dead.
    """
    from jax._src import distributed as runtime  # as in watch

    with contextlib.suppress(RuntimeError):
        runtime.global_state.client.wait_at_barrier("xclip_jax/refused", REFUSED * 1000)


def lost_peer(error: BaseException) -> bool:
    """Tells whether an error says that another process is gone, and not what is wrong here.

    A bucket that resets a connection or answers "unavailable" is no process of the run.
    """
    from jax.errors import JaxRuntimeError

    if retry.is_storage(error):
        return False
    text = str(error).lower()
    if isinstance(error, ConnectionError):
        return True
    technical = isinstance(error, ValueError | RuntimeError | JaxRuntimeError)
    return technical and any(sign in text for sign in SIGNS)


def first_line(error: BaseException) -> str:
    """Returns the first line of what an error says; of a long one, where it begins and ends."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 240 else f"{line[:80]} ... {line[-150:]}"


def leave(status: int) -> NoReturn:
    """Ends this process at once.

    jax's own way out, an atexit hook, meets the others at a barrier; where one of them is dead it
    waits for minutes, and then aborts with a page of C++.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
