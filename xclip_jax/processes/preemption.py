"""Being asked to stop: SIGTERM, which is also how a preempted machine says that it will go.

One process decides by itself. Several have to stop before the same step, for they save together:
whichever is asked, jax's coordinator agrees with all of them on the next step that none has begun.
"""

import signal

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):
    """The run was asked to stop and has saved; `step` is what it will go on from."""

    def __init__(self, step: int):
        super().__init__(f"preempted at step {step}; saved; run the same command again to go on.")
        self.step = step


class Asked(Exception):
    """The run is to stop here, and has not saved yet."""


class Notice:
    """Whether the run has been asked to stop; all processes must ask at the same points."""

    def __init__(self):
        self.given = False
        self.asked = 0

    def listen(self) -> None:
        """Takes SIGTERM for a notice from now on."""
        signal.signal(signal.SIGTERM, self._take)

    def _take(self, *_) -> None:
        self.given = True

    def hand_over(self) -> None:
        """Tells jax, whose own handler replaces ours when processes are joined, of a notice that
        came before."""
        if self.given:
            signal.raise_signal(signal.SIGTERM)

    def reached(self) -> bool:
        """Tells whether to stop here: at the same call in every process."""
        self.asked += 1
        if jax.process_count() == 1:
            return self.given
        if not self.given:
            self.given = multihost_utils.reached_preemption_sync_point(self.asked)
        return self.given

    def check(self) -> None:
        """Raises Asked where the run is to stop."""
        if self.reached():
            raise Asked
