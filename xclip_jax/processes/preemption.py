"""Being asked to stop: SIGTERM, which is also how a preempted machine says that it will go.

A process of its own decides by itself. Joined processes have to stop before the same step, for they
save together: whichever is asked, jax's coordinator agrees with all of them on the next step that
none has begun. That goes for one joined process too: jax's handler has replaced Python's, and only
jax knows of the signal.
"""

import signal


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
        """Takes SIGTERM for a notice from now on.

        Not for a process that will be joined. Until it is, it has nothing to save, and SIGTERM
        ends it even where it waits for others; from then on jax listens.
        """
        signal.signal(signal.SIGTERM, self._take)

    def _take(self, *_) -> None:
        self.given = True

    def reached(self) -> bool:
        """Tells whether to stop here: at the same call in every process."""
        import jax  # a process listens before this import, which takes seconds
        from jax.experimental import multihost_utils

        self.asked += 1
        if not self.given and jax.distributed.is_initialized():
            self.given = multihost_utils.reached_preemption_sync_point(self.asked)
        return self.given

    def check(self) -> None:
        """Raises Asked where the run is to stop."""
        if self.reached():
            raise Asked
