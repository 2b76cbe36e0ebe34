"""What a training run says about itself: the progress line, metrics.jsonl and TensorBoard."""

import datetime
import math
import time

import jax
import numpy as np

from xclip_jax import metrics, protocol, throughput
from xclip_jax.lines import Lines
from xclip_jax.processes.distributed import first_line
from xclip_jax.training import divergence


class Reporter:
    """Keeps time, prints the progress line, writes metrics.jsonl and, through clu, TensorBoard.

    Losses stay on the device until a report is due, so that steps are not held up by fetching them.
    """

    def __init__(
        self, folder, config, total: int, epoch: int, learning_rate, rates, tensorboard, flight
    ):
        self.config, self.total, self.learning_rate = config, total, learning_rate
        self.epoch, self.rates, self.flight = epoch, rates, flight
        self.guard = divergence.Guard(config.get("skip_nonfinite_updates", 0))
        self.writes = jax.process_index() == 0
        self.lines = Lines(folder / "metrics.jsonl")
        self.tensorboard = tensorboard
        self.pending: list[tuple[int, dict]] = []
        self.losses: list[float] = []  # of the epoch

    def start(self, step: int, params, plan: str) -> None:
        """Says what is about to happen; drops lines of steps that will be done again."""
        self.say(plan)
        if self.writes:
            self.lines.start(step)
        self.since, self.done = time.perf_counter(), step
        self.epoch_since = self.since
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        self.say(
            f"{self.config.model.name} of {size:,} parameters on {jax.device_count()}"
            f" {jax.devices()[0].platform} device(s)"
            f"{f' of {jax.process_count()} processes' if jax.process_count() > 1 else ''};"
            f" {'starts' if step == 0 else f'goes on at step {step}'}, {self.total} steps of"
            f" {self.config.batch_size} pairs"
        )

    def add(self, step: int, measured: dict) -> None:
        """Takes the metrics of the step that made update number `step`; reports when due."""
        self.flight.add(measured)
        self.pending.append((step, measured))
        if step % self.config.report_every_steps == 0 or step == self.total or step == 1:
            self.flush(step)

    def flush(self, step: int) -> None:
        """Reports what is pending; raises divergence.Diverged where the run cannot go on."""
        if not self.pending:
            return
        steps, measured = zip(*self.pending, strict=True)
        self.pending = []
        measured = jax.device_get(measured)
        made = [self.guard.passes(at, values) for at, values in zip(steps, measured, strict=True)]
        skipped = made.count(False)
        seconds = time.perf_counter() - self.since
        rate = (step - self.done) / seconds
        columns = {name: [float(values[name]) for values in measured] for name in measured[0]}
        finite = {name: list(filter(math.isfinite, column)) for name, column in columns.items()}
        means = {name: float(np.mean(column)) for name, column in finite.items() if column}
        report = means | {
            "train/skipped_updates": skipped,
            "train/steps_per_second": rate,
            "train/data_wait": self.flight.waited / seconds,
            "train/learning_rate": float(self.learning_rate(step - 1)),
            **self.rates.of(rate),
        }
        left = datetime.timedelta(seconds=int((self.total - step) / rate))
        eta = "-" if step == 1 else left  # the first step's time is its compilation's
        clip_rate = report["train/learning_rate"] * self.config.optimizer.clip_multiplier
        self.say(
            f"step {step}/{self.total}  loss {means.get('train/loss', math.nan):.4f}"
            f"{f'  skipped {skipped}' if skipped else ''}  {rate:.2f} steps/s"
            f"  ETA {eta}  data wait {report['train/data_wait']:.0%}"
            f"  lr {report['train/learning_rate']:.1e} (CLIP {clip_rate:.1e})"
            f"  {throughput.words(report)}"
        )
        self._write(step, report)
        self.since, self.done, self.flight.waited = time.perf_counter(), step, 0.0
        for at, loss in zip(steps, columns["train/loss"], strict=True):
            self.losses += [loss] if math.isfinite(loss) else []
            if at % self.epoch == 0:
                self._epoch_ends(at)

    def _epoch_ends(self, step: int) -> None:
        """Sums an epoch up; its time, evaluations included, is told at the report that follows."""
        now = time.perf_counter()
        number, seconds = step // self.epoch, now - self.epoch_since
        of = f" of its {self.epoch}" if len(self.losses) < self.epoch else ""
        mean = float(np.mean(self.losses or [math.nan]))
        self.say(
            f"epoch {number}/{self.total / self.epoch:g}  mean loss {mean:.4f} over"
            f" {len(self.losses)}{of} steps  {seconds:.1f} s"
        )
        summary = {"epoch/loss": mean, "epoch/steps": len(self.losses), "epoch/seconds": seconds}
        self._write(step, {"epoch": number} | summary)
        self.losses, self.epoch_since = [], now

    def evaluated(self, step: int, scores: dict[str, float], stands_for: dict) -> None:
        """Prints and writes the retrieval metrics and their protocol; the clock starts anew."""
        self.say(f"step {step}/{self.total}  evaluated")
        self.say(f"{protocol.lines(stands_for)}\n{metrics.table(scores)}")
        self._write(step, scores, protocol=stands_for)
        self.upload()
        self.since, self.flight.waited = time.perf_counter(), 0.0

    def selected(self, scores: dict[str, float], stands_for: dict) -> None:
        """Prints and writes the metrics of the checkpoint that was chosen, which need not be the
        last, on the split to test on."""
        self.say(f"the run's result, of step {stands_for['step']}")
        self.say(f"{protocol.lines(stands_for)}\n{metrics.table(scores)}")
        chosen = {f"selected/{name}": value for name, value in scores.items()}
        self._write(self.total, chosen, protocol=stands_for)
        self.upload()

    def upload(self) -> None:
        """Writes what metrics.jsonl lacks of the lines, which in a bucket come by the minute."""
        if self.writes:
            self.lines.upload()

    def say(self, text: str) -> None:
        """Prints, in process 0."""
        if self.writes:
            print(text, flush=True)

    def _write(self, step: int, values: dict[str, float], **more) -> None:
        if self.writes:
            self.lines.add({"step": step} | values | more)
        if not self.tensorboard:
            return
        try:
            self.tensorboard.write_scalars(step, values)
            self.tensorboard.flush()
        except Exception as error:  # TensorFlow has errors and ways to buckets of its own
            self.say(without_tensorboard(error))
            self.tensorboard = None


def without_tensorboard(error: Exception) -> str:
    """Returns what to say where TensorBoard's files cannot be written."""
    return (
        f"TensorBoard's files cannot be written ({first_line(error)}): the run goes on without;"
        " metrics.jsonl has all of it."
    )
