"""Noticing that a process of the run hangs while its machine is fine: a disk or bucket that does
not answer, say. jax's own heartbeat comes from a thread and knows nothing of the work.

Each process tells the coordinator how far it is; one that waits for long looks who is behind.
"""

import sys
import threading
import time

import jax
from jax._src import distributed as runtime  # jax has no public way to the coordinator's store

from xclip_jax.processes.distributed import LOST, leave

STALLED = 15  # times the peers' timeout: compiling and restoring take minutes, and are no hang
FOLDER = "xclip_jax/moved/"


class Watch:
    """Ends the process when nothing has moved in it for `timeout` seconds.

    Without movement means that the others wait for it, or that it waits for one of them.
    """

    def __init__(self, timeout: float):
        self.timeout = timeout
        self.count, self.at, self.doing = 0, time.monotonic(), "starting"
        threading.Thread(target=self._look, daemon=True).start()

    def moved(self, doing: str) -> None:
        """Says that the process got on, and with what."""
        self.count, self.at, self.doing = self.count + 1, time.monotonic(), doing

    def _look(self) -> None:
        client = runtime.global_state.client
        mine = f"{FOLDER}{jax.process_index()}"
        try:
            while (waited := time.monotonic() - self.at) < self.timeout:
                client.key_value_set(mine, str(self.count), allow_overwrite=True)
                time.sleep(min(1.0, self.timeout / 4))
            told = client.key_value_dir_get(FOLDER)
        except RuntimeError:
            return  # the coordinator is gone or all are done, which the main thread tells
        counts = {int(key.rpartition("/")[2]): int(count) for key, count in told}
        behind = [process for process, count in counts.items() if count == min(counts.values())]
        print(
            f"xclip-jax: no movement for {waited:.0f} s while {self.doing}; furthest behind:"
            f" process {', '.join(map(str, sorted(behind)))} of {jax.process_count()}. Nothing is"
            " lost beyond the last save. Start all of them again to go on.",
            file=sys.stderr,
        )
        leave(LOST)
