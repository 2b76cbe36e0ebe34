"""A run whose numbers are no longer finite: which updates it skips, when it ends, what it leaves.

A state is good when the update that made it was finite and so is its own forward pass. The first is
known before it can be saved. The second shows at the next step: where it is not finite, what was
saved of that state is moved out of the way, so that the next start does not go on from there.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

# Of an update, and what to say where one of them is not finite. The norms overflow float32 where
# a value passes 1e19, long before the value itself does.
NUMBERS = {
    "train/loss": "the loss became {} at step {}",
    "train/grad_norm": "the gradient norm became {} at step {}",
    "train/param_norm": "the update of step {1} makes the norm of the parameters {0}",
}


class Diverged(FloatingPointError):
    """The run cannot go on; `state` is the first step whose parameters are at fault, if known."""

    def __init__(self, text: str, state: int | None):
        super().__init__(text)
        self.state = state


def is_finite(measured: Mapping[str, Array]) -> Bool[Array, ""]:
    """Tells, in a jitted step, whether its update may be taken."""
    return jnp.isfinite(jnp.stack([measured[name] for name in NUMBERS])).all()


class Guard:
    """Looks at the numbers of one update after another; `allowed` in a row may be not finite,
    which the step has skipped."""

    def __init__(self, allowed: int):
        if allowed < 0:
            raise ValueError(f"config.skip_nonfinite_updates={allowed}: expected 0 or more.")
        self.allowed, self.row = allowed, 0

    def passes(self, step: int, values: Mapping[str, float]) -> bool:
        """Tells whether update number `step` was made; raises Diverged where the run must end."""
        wrong = [name for name in NUMBERS if not math.isfinite(values[name])]
        self.row = self.row + 1 if wrong else 0
        if self.row > self.allowed:
            text = NUMBERS[wrong[0]].format(values[wrong[0]], step)
            if self.row > 1:
                text += f", the last of {self.row} updates in a row that were not finite"
            raise Diverged(text, step - self.row if wrong[0] == "train/loss" else None)
        return not wrong


@contextlib.contextmanager
def evaluating(step: int) -> Iterator[None]:
    """Makes a Diverged of an evaluation of step `step` whose scores are NaN."""
    try:
        yield
    except FloatingPointError as error:
        text = str(error).rstrip(".")
        raise Diverged(f"the evaluation of step {step} failed: {text}", step) from None


@contextlib.contextmanager
def explained(checkpointer, config) -> Iterator[None]:
    """Adds to a Diverged what is left of the run and what can be done.

    A checkpoint whose parameters are at fault is moved to `diverged-STEP` beside the checkpoints.
    """
    try:
        yield
    except Diverged as error:
        checkpointer.wait()
        steps = sorted(found.step for found in checkpointer.checkpoints)
        bad = [step for step in steps if error.state is not None and step >= error.state]
        moved = [str(_move(checkpointer.directory / str(step))) for step in bad]
        good = [step for step in steps if step not in bad]
        text = f"{error}; " + (
            f"the last good checkpoint is of step {good[-1]}"
            if good
            else "there is no checkpoint from before"
        )
        if moved:
            text += f", and the later one, of those parameters, is now {', '.join(moved)}"
        raise Diverged(
            f"{text}. The same settings would come here again: look at the clips of that batch"
            f" (config.seed={config.seed}), lower config.optimizer.learning_rate in a new"
            " --workdir, or go on with --config.skip_nonfinite_updates=N, which skips up to N in a"
            " row.",
            error.state,
        ) from None


def _move(folder):
    """Moves a checkpoint out of the folder of checkpoints; returns where it is now."""
    aside = folder.parent.parent / f"diverged-{folder.name}"
    if jax.process_index() == 0:
        try:
            if aside.exists():  # of an earlier start, which came to the same state
                aside.rmtree()
            folder.rename(aside)
        except Exception as error:  # each file system has errors of its own
            return f"still {folder}, to be removed by hand ({error})"
    return aside
