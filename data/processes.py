"""One function over many jobs, in processes: a job that kills its process costs that job only."""

import collections
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Hashable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool


def parallel(
    work: Callable, jobs: dict[Hashable, tuple], workers: int | None = None
) -> Iterator[tuple[Hashable, object]]:
    """Calls `work(*jobs[key])` for each key; yields the key and what came back, as it comes.

    A job that takes its process down (a crash in the decoder, no memory left) costs that job only,
    and gives a BrokenProcessPool: those under way at the time are tried again, each alone in a new
    process. By default there are as many processes as cores.
    """
    workers = workers or cores()
    waiting = collections.deque(jobs)
    while waiting:
        suspects = []
        with _pool(min(workers, len(waiting))) as pool:
            running, broken = {}, False
            while running or (waiting and not broken):
                while waiting and not broken and len(running) < 2 * workers:
                    try:
                        task = pool.submit(work, *jobs[waiting[0]])
                    except BrokenProcessPool:
                        broken = True
                    else:
                        running[task] = waiting.popleft()
                for task in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
                    key = running.pop(task)
                    if isinstance(task.exception(), BrokenProcessPool):
                        broken = True
                        suspects.append(key)
                    else:
                        yield key, task.result()
        for key in suspects:
            with _pool(1) as pool:
                task = pool.submit(work, *jobs[key])
                died = isinstance(task.exception(), BrokenProcessPool)
                yield key, task.exception() if died else task.result()


def cores() -> int:
    """Returns how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _pool(workers: int) -> futures.ProcessPoolExecutor:
    # Spawned, since a fork of a process that runs threads (JAX, ffmpeg) can deadlock.
    context = multiprocessing.get_context("spawn")
    pool = futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent)
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool:
        raise ValueError(
            "The decoding processes do not start: a script that builds shards must do so below"
            ' `if __name__ == "__main__":`.'
        ) from None
    return pool


def _follow_parent() -> None:
    """Ends this process when the one that started it is killed; it would wait for work forever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that waits for us

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
