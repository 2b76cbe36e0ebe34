"""Training: one jitted, sharded step, and the loop around it.

The same code runs on one CPU, several GPUs or a TPU pod. A checkpoint at step s means s updates
done and batch s next, so a killed run continues bit for bit.
"""

import functools
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from xclip_jax import checkpoint, evaluate, models, optimizer, protocol, sharding, transfer, workdir
from xclip_jax import input as pipeline
from xclip_jax import tokenizer as tokenizers
from xclip_jax.progress import Reporter

TIES = "average"  # of a training run's own evaluations; `xclip-jax eval --ties` has the others


def train_and_evaluate(
    config: ml_collections.ConfigDict, folder: Path | str, *, progress: bool = False
) -> dict[str, float]:
    """Trains for `config.epochs`, going on where `folder` stopped; returns the final metrics.

    They are those of the checkpoint that `config.select_on` chooses, on the split to test on.

    Raises:
      FloatingPointError: the loss is not finite; the message names the step.
    """
    folder = Path(folder)
    data = protocol.open_data(config)
    vocab = tokenizers.find_vocab(config.data.vocab or None, beside=Path(config.data.dir))
    tokenizer = tokenizers.load(vocab)
    sizes = workdir.model_sizes(config, tokenizer.vocab_size)
    pairs = len(pipeline.pairs(data.train))
    total, epoch = total_steps(config, pairs), epoch_steps(config, pairs)
    every = config.eval_every_steps or epoch

    mesh = sharding.make_mesh(config.fsdp)
    graphdef, _ = models.create(config.model.name, **sizes)
    adam = optimizer.create(**config.optimizer, total_steps=total)
    reporter = Reporter(folder, config, total, adam.learning_rate, summary_writer(folder))
    intake = workdir.intake(config, sizes)
    encoders = evaluate.make_encoders(graphdef)

    trained_on = protocol.training(data)

    def scores_of(params, shards, *, step: int, chosen: str) -> tuple[dict[str, float], dict]:
        """Returns the metrics on a split, and what they stand for."""
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
        )
        stands_for = protocol.evaluation(shards, trained_on, step=step, chosen=chosen, ties=TIES)
        return scores, stands_for

    with (
        jax.set_mesh(mesh),
        checkpoint.open_folder(folder, keep=config.keep_checkpoints) as checkpointer,
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
        train_step = make_train_step(
            graphdef, adam.transformation, state_sharding, mesh, seed=config.seed
        )
        first = int(state["step"])
        batches = pipeline.train(
            data.train,
            tokenizer,
            intake,
            batch_size=config.batch_size,
            seed=config.seed,
            first=first,
        )
        plan = protocol.plan(config, data, total=total, epoch=epoch, every=every)
        reporter.start(first, state["params"], plan)
        scores: dict[str, float] = {}
        for step in range(first, total + 1):
            due = step == total or (step > first and step % every == 0)
            if due:
                reporter.flush(step)
                how = "as it is while training" if step < total else protocol.chosen(config, "last")
                scores, stands_for = scores_of(
                    state["params"], data.monitored, step=step, chosen=how
                )
                reporter.evaluated(step, scores, stands_for)
            if due or (step > first and step % config.save_every_steps == 0):
                reporter.flush(step)
                if checkpointer.latest is None or checkpointer.latest.step != step:
                    checkpoint.save(checkpointer, state, metrics=scores if due else None)
            if step == total:
                break
            batch = reporter.timed(next, batches)
            state, measured = train_step(state, sharding.to_global(batch, mesh))
            reporter.add(step + 1, measured)
        if config.select_on == "last":
            return scores
        best = checkpoint.best_step(checkpointer)
        params = state["params"]
        if best != total:
            abstract = _abstract(state, state_sharding)
            del state, params  # there need be no room for two
            params = checkpoint.restore(checkpointer, abstract, best)["params"]
        scores, stands_for = scores_of(
            params, data.test, step=best, chosen=protocol.chosen(config, "best")
        )
        reporter.selected(scores, stands_for)
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

    def fresh(key: jax.Array) -> dict:
        params = models.init(key, config.model.name, **sizes)
        params = optimizer.store(params, config.optimizer.name)
        return {
            "params": params,
            "opt_state": transformation.init(params),
            "step": jnp.int32(0),
        }

    key = jax.random.key(config.seed)
    shapes = jax.eval_shape(fresh, key)
    layout = sharding.shard_params(shapes, mesh)
    state = checkpoint.restore(checkpointer, _abstract(shapes, layout))
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


def _abstract(state: dict, layout: dict) -> dict:
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        state,
        layout,
    )


def make_train_step(
    graphdef, transformation: optax.GradientTransformation, state_sharding, mesh, *, seed: int
):
    """Returns a jitted (state, batch) -> (state, metrics) for the given shardings.

    What a model draws in training, dropout, is a function of `seed` and the step alone.
    """
    batch_sharding = NamedSharding(mesh, sharding.BATCH)

    @functools.partial(
        jax.jit,
        donate_argnames="state",
        in_shardings=(state_sharding, batch_sharding),
        out_shardings=(state_sharding, NamedSharding(mesh, P())),
    )
    def train_step(state, batch):
        def loss_of(params):
            model = nnx.merge(graphdef, params)
            text = model.encode_text(batch["tokens"], batch["token_mask"])
            video = model.encode_video(batch["video"], batch["frame_mask"])
            key = jax.random.fold_in(jax.random.key(seed), state["step"])
            return model.loss(text, video, key)

        loss, grads = jax.value_and_grad(loss_of)(state["params"])
        updates, opt_state = transformation.update(grads, state["opt_state"], state["params"])
        params = optimizer.clamp_logit_scale(optax.apply_updates(state["params"], updates))
        state = {"params": params, "opt_state": opt_state, "step": state["step"] + 1}
        return state, {
            "train/loss": loss,
            "train/grad_norm": optax.tree.norm(optax.tree.cast(grads, jnp.float32)),
        }

    return train_step


def summary_writer(folder: Path):
    """Returns clu's TensorBoard writer, or None where what it needs is not installed."""
    if jax.process_index() or not (find_spec("tensorflow") and find_spec("tensorboard")):
        return None
    from clu import metric_writers

    return metric_writers.SummaryWriter(str(folder / "tensorboard"))
