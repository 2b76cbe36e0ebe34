"""What went wrong, in one line: a user's mistake, a full disk, a bucket that does not answer,
another process that is gone."""

import errno
import os
import sys

from xclip_jax import retry
from xclip_jax.processes import distributed

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def answer(error: BaseException) -> int:
    """Prints what an error means and returns the exit status that goes with it.

    Raises the error again where it is a fault of ours, or XCLIP_JAX_TRACEBACK is set.
    """
    if os.environ.get("XCLIP_JAX_TRACEBACK"):
        raise error
    if isinstance(error, KeyboardInterrupt):
        text, status = "interrupted; run the same command again to go on.", 130
    elif retry.is_storage(error):
        text = (
            f"{error if isinstance(error, retry.StorageUnavailable) else retry.said(error)}."
            " Nothing is lost beyond the last save: run the same command again to go on."
        )
        status = retry.EXIT_STATUS
    elif distributed.started() and distributed.lost_peer(error):
        text, status = f"{distributed.GONE} ({distributed.first_line(error)})", distributed.LOST
    elif isinstance(error, ValueError | FileNotFoundError | FloatingPointError):
        text, status = str(error), 2
    elif isinstance(error, OSError) and error.errno in FULL:
        text, status = f"{error}: make room, then run the same command again to go on.", 2
    else:
        raise error
    print(f"xclip-jax: {text}", file=sys.stderr, flush=True)
    if status == 2 and distributed.started():
        distributed.all_refuse()
    return status


def quiet_threads() -> None:
    """Drops what TensorStore's threads print when an answer comes that nobody waits for any more:
    where one request of a save has failed, Orbax closes the event loop of all."""
    before = sys.unraisablehook

    def hook(unraisable) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook
