"""A trace of some steps, for TensorBoard's profiler or Perfetto."""

import jax


class Window:
    """Traces the steps START to STOP, STOP excluded, into a folder; "" or None traces none."""

    def __init__(self, steps: str | None, folder):
        self.folder, self.open = folder, False
        start, _, stop = (steps or "0:0").partition(":")
        if not (start.isdigit() and stop.isdigit()) or (steps and int(start) >= int(stop)):
            raise ValueError(
                f"--profile {steps}: expected START:STOP, two steps of which the first is less."
            )
        self.start, self.stop = int(start), int(stop)

    def at(self, step: int, state) -> None:
        """Starts or ends the trace where `step`, which is about to be done, says so.

        A step is dispatched long before it is computed, so both wait for `state`, which is what the
        step before returns. A run that goes on within the window traces what is left of it.
        """
        if self.start <= step < self.stop and not self.open:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self.folder))
            self.open = True
        elif step >= self.stop and self.open:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends the trace, if one is under way."""
        if self.open:
            jax.profiler.stop_trace()
            self.open = False
