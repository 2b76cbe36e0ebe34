"""The steps that the devices were given and have not finished: at most two, and who waits for whom.

A step is dispatched without waiting for it. Unbounded, the host would run ahead of the devices with
all batches that it can read, each of which takes device memory.
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import jax

MOST = 2  # one that runs, and the next one ready behind it


class InFlight:
    """Hands out batches when there is room for them; `waited` are the seconds in which the devices
    had nothing to do because a batch was still being read."""

    def __init__(self):
        self.waited = 0.0
        self.ends: deque[Future[float]] = deque(maxlen=MOST)  # when each step was finished
        self.pool = ThreadPoolExecutor(1, "steps in flight")

    def next(self, batches: Iterator):
        """Returns the next batch once all steps but the last are finished.

        Raises what a step failed with.
        """
        start = time.perf_counter()
        batch = next(batches)
        end = time.perf_counter()
        if not self.ends:
            self.waited += end - start
        elif self.ends[-1].done():
            self.waited += max(0.0, end - max(start, self.ends[-1].result()))
        if len(self.ends) == MOST:
            self.ends[0].result()
        return batch

    def add(self, measured) -> None:
        """Takes what a step that was dispatched returns beside the state."""
        self.ends.append(self.pool.submit(_end, measured))

    def close(self) -> None:
        """Lets go of the thread, which ends with the last step."""
        self.pool.shutdown(wait=False)


def _end(measured) -> float:
    """Returns the time at which a step was finished; a thread of its own waits for that."""
    jax.block_until_ready(measured)
    return time.perf_counter()
