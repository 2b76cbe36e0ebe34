"""Training: the loop around one jitted, sharded step.

The same code runs on one CPU, several GPUs or a TPU pod. A checkpoint at step s means s updates
done and batch s next, so a killed run continues bit for bit.
"""

import functools
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import jax
import ml_collections

from xclip_jax import (
    checkpoint,
    evaluate,
    models,
    optimizer,
    profiling,
    protocol,
    remote,
    sharding,
    startup,
    throughput,
    train_step,
    transfer,
    workdir,
)
from xclip_jax import input as pipeline
from xclip_jax import tokenizer as tokenizers
from xclip_jax.parallel import row_sharding
from xclip_jax.processes import preemption
from xclip_jax.progress import Reporter, without_tensorboard
from xclip_jax.runs import checkpoint_folder
from xclip_jax.training import divergence, in_flight, padded_batch, random_weights

TIES = "average"  # of a training run's own evaluations; `xclip-jax eval --ties` has the others


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    folder: Path | str,
    *,
    progress: bool = False,
    profile: str | None = None,
    notice: preemption.Notice | None = None,
    moved: Callable[[str], None] = lambda doing: None,
    clock: startup.Clock | None = None,
) -> dict[str, float]:
    """Trains for `config.epochs`, going on where `folder` stopped; returns the final metrics.

    They are those of the checkpoint that `config.select_on` chooses, on the split to test on. Each
    process of a run calls this, reads its share of the data and ends with the same metrics.

    Args:
      profile: "START:STOP", the steps to trace.
      notice: what tells that the run is to stop.
      moved: is told what has begun, at every step and batch.
      clock: has the times of what came before.

    Raises:
      FloatingPointError: loss, gradients or parameters are not finite; the message names the step
        and the last good checkpoint.
      preemption.Preempted: the run was asked to stop, and has saved.
    """
    folder, clock = remote.place(folder), clock or startup.Clock()
    notice = notice or preemption.Notice()
    startup.check_bits(config)
    checkpoint_folder.of(folder)  # refuses a place where nothing can be saved
    data = protocol.open_data(config)
    vocab = tokenizers.find_vocab(config.data.vocab or None, beside=Path(config.data.dir))
    tokenizer = tokenizers.load(vocab)
    sizes = workdir.model_sizes(config, tokenizer.vocab_size)
    captions = config.data.captions_per_video
    pairs = captions * len(pipeline.examples(data.train, captions))
    total, epoch = total_steps(config, pairs), epoch_steps(config, pairs)
    every = config.eval_every_steps or epoch
    window = profiling.Window(profile, folder / "profile")
    clock.mark("data")

    mesh = sharding.make_mesh(config.fsdp)
    padded = padded_batch.pad(config, mesh.size)
    padded_batch.check_evaluation(config, mesh.size)
    graphdef, _ = models.create(config.model.name, **sizes)
    adam = optimizer.create(**config.optimizer, total_steps=total)
    tensorboard = summary_writer(folder)
    clock.mark("TensorBoard")
    rates = throughput.Rates(config, sizes)
    flight = in_flight.InFlight()
    reporter = Reporter(
        folder, config, total, epoch, adam.learning_rate, rates, tensorboard, flight
    )
    intake = workdir.intake(config, sizes)
    encoders = evaluate.make_encoders(graphdef, mesh)

    trained_on = protocol.training(data)

    def scores_of(params, shards, *, step: int, chosen: str) -> tuple[dict[str, float], dict]:
        """Returns the metrics on a split, and what they stand for."""

        def between() -> None:
            moved(f"evaluating step {step}")
            notice.check()

        scores = evaluate.run(
            encoders,
            params,
            shards,
            tokenizer,
            intake,
            twins=data.twins if shards is data.test else None,
            batch_size=config.eval_batch_size,
            ties=TIES,
            progress=progress,
            between=between,
        )
        stands_for = protocol.evaluation(
            shards,
            trained_on,
            step=step,
            chosen=chosen,
            ties=TIES,
            arithmetic=protocol.arithmetic(config),
        )
        return scores, stands_for

    with (
        jax.set_mesh(mesh),
        checkpoint.closing(
            folder, keep=config.keep_checkpoints, metric=config.best_metric
        ) as checkpointer,
        divergence.explained(checkpointer, config),
    ):
        if jax.process_index() == 0:
            workdir.write(
                folder,
                config,
                vocab=vocab,
                frame_policy=data.train.manifest["frame_policy"],
                trained_on=trained_on,
                goes_on=checkpointer.latest is not None,
            )
        state, state_sharding = initial_state(
            config, sizes, adam.transformation, mesh, checkpointer
        )
        first = int(state["step"])
        clock.mark("restoring" if checkpointer.latest else "initial weights")
        step_once = train_step.make(
            graphdef,
            adam.transformation,
            state_sharding,
            mesh,
            seed=config.seed,
            micro_batch=padded.micro_batch,
            padding=padded.padding,
            skip_nonfinite=config.get("skip_nonfinite_updates", 0) > 0,
        )
        batches = pipeline.train(
            data.train,
            tokenizer,
            intake,
            batch_size=config.batch_size,
            seed=config.seed,
            first=first,
            rows=row_sharding.own(padded.size // captions, mesh),
            captions_per_video=captions,
            same_video_negatives=config.data.same_video_negatives,
        )
        plan = protocol.plan(config, data, total=total, epoch=epoch, every=every)
        notes = [padded_batch.describe(padded, mesh.size)]
        if not checkpointer.latest:
            notes.append(random_weights.warning(config))
        reporter.start(first, state["params"], "\n".join([plan, *filter(None, notes)]))

        def save(step: int, scores: dict[str, float] | None) -> None:
            reporter.flush(step)  # which stops the run where an update was not finite
            reporter.upload()  # a run that goes on from here has these lines only
            moved(f"saving step {step}")
            latest = checkpointer.latest
            if latest is None or latest.step != step:
                checkpoint.save(checkpointer, state, metrics=scores)
            elif scores and not latest.metrics:  # the run was asked to stop before it had them
                checkpoint.rate(checkpointer, step, scores)

        scores: dict[str, float] = {}
        unrated = first % every == 0 and first > 0 and not checkpointer.latest.metrics
        try:
            for step in range(first, total + 1):
                moved(f"at step {step}")
                notice.check()
                due = step == total or (step % every == 0 and (step > first or unrated))
                if due:
                    reporter.flush(step)
                    how = (
                        "as it is while training"
                        if step < total
                        else protocol.chosen(config, "last")
                    )
                    with divergence.evaluating(step):
                        scores, stands_for = scores_of(
                            state["params"], data.monitored, step=step, chosen=how
                        )
                    reporter.evaluated(step, scores, stands_for)
                if at_save := step > first and step % config.save_every_steps == 0:
                    reporter.flush(step)
                # What a skipped update leaves is there already, or at fault itself: saved again
                # and again it would drive the good ones out.
                if due or (at_save and not reporter.guard.row):
                    save(step, scores if due else None)
                if step == total:
                    break
                window.at(step, state)
                batch = flight.next(batches)
                moved(f"at step {step}, whose batch is read")
                state, measured = step_once(state, sharding.to_global(batch, mesh))
                if step == first:
                    jax.block_until_ready(measured)
                    clock.mark("first step, compiled")
                    reporter.say(clock.line())
                reporter.add(step + 1, measured)
            if config.select_on != "last":
                best = checkpoint.best_step(checkpointer, config.best_metric)
                params = state["params"]
                if best != total:
                    abstract, _ = train_step.abstract_state(
                        config, sizes, adam.transformation, mesh
                    )
                    del state, params  # there need be no room for two
                    params = checkpoint.restore(checkpointer, abstract, best)["params"]
                scores, stands_for = scores_of(
                    params, data.test, step=best, chosen=protocol.chosen(config, "best")
                )
                reporter.selected(scores, stands_for)
        except preemption.Asked:
            save(step, None)
            reporter.upload()
            checkpoint.wait(checkpointer)
            raise preemption.Preempted(step) from None
        finally:
            window.close()
            flight.close()
    if jax.process_index() == 0:
        workdir.finish(folder, total, scores)
    return scores


def total_steps(config: ml_collections.ConfigDict, pairs: int) -> int:
    """Returns the steps of the whole run."""
    return max(1, int(config.epochs * epoch_steps(config, pairs)))


def epoch_steps(config: ml_collections.ConfigDict, pairs: int) -> int:
    """Returns the steps of an epoch; a last partial batch does not count.

    parity: the references' sampler repeats pairs until each of their GPUs has as many, which on
    ActivityNet makes one step more (SPEC 13.1).
    """
    if pairs < config.batch_size:
        raise ValueError(
            f"{config.data.dir} has {pairs} (video, caption) pairs, fewer than one batch of"
            f" {config.batch_size}: set config.batch_size to {pairs} or less."
        )
    gpus = config.reference_gpus
    return -(-pairs // gpus) * gpus // config.batch_size


def initial_state(config, sizes: dict, transformation, mesh, checkpointer) -> tuple[dict, dict]:
    """Returns the latest checkpoint's state, or a fresh one, and how it is laid out on the mesh."""
    fresh = functools.partial(train_step.fresh_state, config, sizes, transformation)
    key = jax.random.key(config.seed)
    shapes, layout = train_step.abstract_state(config, sizes, transformation, mesh)
    state = checkpoint.restore(checkpointer, shapes)
    if state is None:
        state = jax.jit(fresh, out_shardings=layout)(key)
        if config.init.clip:
            state["params"] = transfer.start_from_clip(
                config.init.clip,
                config.model.name,
                sizes,
                state["params"],
                resize=config.init.resize,
            )
    return state, layout


def summary_writer(folder):
    """Returns clu's TensorBoard writer, or None where what it needs is not installed, or where its
    files cannot be written, which is said."""
    if jax.process_index() or not (find_spec("tensorflow") and find_spec("tensorboard")):
        return None
    from clu import metric_writers

    try:
        return metric_writers.SummaryWriter(str(folder / "tensorboard"))
    except Exception as error:  # TensorFlow has errors and ways to buckets of its own
        print(without_tensorboard(error), flush=True)
        return None
