"""A process of a distributed run, watched from outside by the process that started it.

When another process of the run dies, jax's C++ may abort this one from a thread of its own, which
no Python code can catch. So the work is done in a child, and the parent, which never touches jax,
says in one line what ended it and exits with a status that a launcher understands.
"""

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from xclip_jax.processes.distributed import GONE, LOST, leave

EARLY = "asked to stop before the processes were joined; run the same command again to go on."
# The first lines of the page that jax's C++ prints when it learns of a death.
PAGE = re.compile(
    r"[EFW]\d{4} .*(coordination_service|preemption_sync_manager|\bclient\.h:|distributed service)"
)


def run(work: Callable[[], None], answer: Callable[[BaseException], int], *, saves: bool) -> None:
    """Runs `work` in a child process and exits as it does; with 3 where other processes died.

    Work that `saves` takes SIGTERM itself as soon as there is something to save: ended by it before
    that, it has done all it could, and the status is 0.
    `answer` says what an error of the work means and returns the status to exit with.
    """
    alive, keep_alive = os.pipe()
    told, tell = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()  # before jax, its threads and its devices are there
    if child == 0:
        os.close(keep_alive)
        os.close(told)
        os.dup2(tell, 2)
        os.close(tell)
        threading.Thread(target=_end_with_parent, args=[alive], daemon=True).start()
        _work(work, answer)
    os.close(alive)
    os.close(tell)
    signal.signal(signal.SIGTERM, lambda number, _: _forward(child, number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal gives it to both
    said, page = _pass_on(told)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == LOST or (status == -signal.SIGABRT and page):
        if not said:
            print(f"xclip-jax: {GONE}", file=sys.stderr)
        sys.exit(LOST)
    sys.stderr.write(page)
    if status == -signal.SIGTERM and saves:  # which jax takes as soon as the processes are joined
        print(f"xclip-jax: {EARLY}", flush=True)
        sys.exit(0)
    if status < 0:
        name = signal.Signals(-status).name
        hint = ", often for want of memory" if -status == signal.SIGKILL else ""
        print(f"xclip-jax: the process was ended by {name}{hint}.", file=sys.stderr)
        sys.exit(128 - status)
    sys.exit(status)


def _work(work: Callable[[], None], answer: Callable[[BaseException], int]) -> NoReturn:
    """Does the child's work and ends it, by `leave` in every case."""
    try:
        work()
    except SystemExit as end:
        leave(end.code if isinstance(end.code, int) else int(end.code is not None))
    except BaseException as error:
        try:
            leave(answer(error))
        except BaseException:  # a fault of ours, to be seen in full
            sys.excepthook(*sys.exc_info())
            leave(1)
    leave(0)


def _end_with_parent(alive: int) -> None:
    """Ends the child when the parent is gone, SIGKILL included: the pipe's other end closes."""
    os.read(alive, 1)
    os._exit(LOST)


def _forward(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def _pass_on(told: int) -> tuple[bool, str]:
    """Passes the child's stderr on; returns whether a line of ours was in it, and the page of C++
    that was held back."""
    said, page = False, ""
    with open(told, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            if (page or PAGE.match(line)) and not line.startswith("xclip-jax: "):
                page += line
                continue
            said |= line.startswith("xclip-jax: ")
            sys.stderr.write(line)
            sys.stderr.flush()
    return said, page
