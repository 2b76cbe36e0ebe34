"""Work on files of strangers in a process of its own, which is ended where it takes too long.

A small file can ask for hours of decoding or for much memory. A thread cannot be stopped; a process
can, and takes nothing else down where a decoder crashes.
"""

import multiprocessing
import signal
from collections.abc import Callable

MEMORY = 4 * 2**30  # bytes that the process may have for data
START_SECONDS = 60.0  # until it is there


class Late(Exception):
    """Work that took longer than it may."""


class Died(Exception):
    """Work that ended its process, as too much memory or a fault of a decoder does."""


class Apart:
    """A function of one argument in a process, started when first needed; for one thread.

    `work(argument, *settings)` has to be a function of a module; what goes in and out is copied.
    """

    def __init__(self, work: Callable, *settings, seconds: float):
        self.work, self.settings, self.seconds = work, settings, seconds
        self._process = self._pipe = None

    def start(self) -> None:
        """Starts the process and waits until it is ready."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_run, args=(theirs, self.work, self.settings), name="xclip-jax", daemon=True
        )
        self._process.start()
        theirs.close()
        if not self._pipe.poll(START_SECONDS):
            self.close()
            raise RuntimeError("a process that decodes files did not start")
        self._pipe.recv()

    def __call__(self, argument):
        """Returns work(argument, *settings); raises Late or Died."""
        if self._process is None or not self._process.is_alive():
            self.start()
        try:
            self._pipe.send(argument)
            if not self._pipe.poll(self.seconds):
                raise Late
            return self._pipe.recv()
        except Late:
            self.close()
            raise
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.close()
            raise Died from None

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _run(pipe, work: Callable, settings: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server ends it
    _bound_memory()
    pipe.send("ready")
    while True:
        try:
            argument = pipe.recv()
        except EOFError:
            return
        pipe.send(work(argument, *settings))


def _bound_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
