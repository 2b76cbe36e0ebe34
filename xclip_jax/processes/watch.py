"""Noticing that a process of the run hangs while its machine is fine: a disk or bucket that does
not answer, say. jax's own heartbeat comes from a thread and knows nothing of the work.

Each process tells the coordinator how far it is. One that hangs is behind the others, which wait
for it. Where nothing moves and nobody is behind, all of them compute: a step, a compilation or an
evaluation may take hours.
"""

import sys
import threading
import time

import jax
from jax._src import distributed as runtime  # jax has no public way to the coordinator's store

from xclip_jax.processes.distributed import LOST, leave

STALLED = 15  # times the peers' timeout
TOGETHER = 16  # times as long again for all of them together, whom nothing else would end
PAUSE = 10.0  # seconds between looks
FOLDER = "xclip_jax/moved/"


class Watch:
    """Ends the process when no process of the run has moved for `timeout` seconds and one of them
    is behind."""

    def __init__(self, timeout: float):
        self.timeout = timeout
        self.count, self.doing = 0, "starting"
        threading.Thread(target=self._look, daemon=True).start()

    def moved(self, doing: str) -> None:
        """Says that the process got on, and with what; all say it equally often."""
        self.count, self.doing = self.count + 1, doing

    def _look(self) -> None:
        client = runtime.global_state.client
        counts, since = {}, time.monotonic()
        try:
            while True:
                mine = f"{FOLDER}{jax.process_index()}"
                client.key_value_set(mine, str(self.count), allow_overwrite=True)
                told = client.key_value_dir_get(FOLDER)
                found = {int(key.rpartition("/")[2]): int(count) for key, count in told}
                if found != counts:
                    counts, since = found, time.monotonic()
                waited = time.monotonic() - since
                if hangs(counts, waited, self.timeout):
                    break
                time.sleep(min(PAUSE, self.timeout / 4))
        except RuntimeError:
            return  # the coordinator is gone or all are done, which the main thread tells
        late = ", ".join(map(str, behind(counts)))
        who = f"furthest behind: process {late}" if late else "nobody is behind: all processes"
        print(
            f"xclip-jax: no movement for {waited:.0f} s while {self.doing}; {who} of"
            f" {jax.process_count()}. Nothing is lost beyond the last save. Start all of them"
            " again to go on.",
            file=sys.stderr,
        )
        leave(LOST)


def hangs(counts: dict[int, int], waited: float, timeout: float) -> bool:
    """Tells whether a run in which these counts have stood for `waited` seconds is to be ended."""
    return waited >= timeout * (1 if behind(counts) else TOGETHER)


def behind(counts: dict[int, int]) -> list[int]:
    """Returns the processes that are furthest behind, none where all are equally far."""
    least = min(counts.values())
    return sorted(i for i, n in counts.items() if n == least and least < max(counts.values()))
