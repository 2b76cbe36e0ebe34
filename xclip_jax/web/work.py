"""Work in threads of its own, so that the event loop stays free: bounded in number and in time."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from xclip_jax.web.refusals import Refused, busy


class Work:
    """A few threads and a bounded line before them.

    What takes too long is answered with 503, and counts as waiting until it is really over.
    """

    def __init__(self, name: str, *, threads: int, waiting: int, seconds: float):
        self.name, self.most, self.seconds = name, threads + waiting, seconds
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self.count = 0
        self._lock = threading.Lock()

    async def __call__(self, call: Callable, *arguments, **options):
        """Returns call(*arguments, **options); raises Refused where it would wait too long."""
        with self._lock:
            if self.count >= self.most:
                raise busy(f"{self.count} requests wait for {self.name}: try again in a moment.")
            self.count += 1
        future = self.pool.submit(call, *arguments, **options)
        future.add_done_callback(self._done)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.seconds)
        except (RuntimeError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise self._late() from None
            logging.getLogger("uvicorn.error").exception("%s", self.name)
            raise busy(
                f"{self.name} cannot answer now ({type(error).__name__}): see the server's log.", 10
            ) from None

    def _late(self) -> Refused:
        return busy(f"{self.name} took more than {self.seconds:g} s: try again later.")

    def _done(self, _: Future) -> None:
        with self._lock:
            self.count -= 1

    def close(self) -> None:
        """Ends the threads once what they do is done; what waits is given up."""
        self.pool.shutdown(wait=False, cancel_futures=True)
