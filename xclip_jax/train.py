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

from xclip_jax import checkpoint, evaluate, models, optimizer, sharding, transfer, workdir
from xclip_jax import input as pipeline
from xclip_jax import tokenizer as tokenizers
from xclip_jax.progress import Reporter
from xclip_jax.records import Shards


def train_and_evaluate(
    config: ml_collections.ConfigDict, folder: Path | str, *, progress: bool = False
) -> dict[str, float]:
    """Trains for `config.epochs`, going on where `folder` stopped; returns the final metrics.

    Raises:
      FloatingPointError: the loss is not finite; the message names the step.
    """
    folder = Path(folder)
    shards = Shards(config.data.dir, config.data.train_split)
    held_out = Shards(config.data.dir, config.data.eval_split)
    twins = Shards(config.data.dir, config.data.twin_split) if config.data.twin_split else None
    vocab = tokenizers.find_vocab(config.data.vocab or None, beside=Path(config.data.dir))
    tokenizer = tokenizers.load(vocab)
    sizes = workdir.model_sizes(config, tokenizer.vocab_size)
    total = total_steps(config, len(pipeline.pairs(shards)))

    mesh = sharding.make_mesh(config.fsdp)
    graphdef, _ = models.create(config.model.name, **sizes)
    adam = optimizer.create(**config.optimizer, total_steps=total)
    reporter = Reporter(folder, config, total, adam.learning_rate, summary_writer(folder))
    intake = workdir.intake(config, sizes)
    encoders = evaluate.make_encoders(graphdef)

    def scores_of(params) -> dict[str, float]:
        return evaluate.run(
            encoders,
            params,
            held_out,
            tokenizer,
            intake,
            twins=twins,
            batch_size=config.eval_batch_size,
            progress=progress,
        )

    with (
        jax.set_mesh(mesh),
        checkpoint.open_folder(folder, keep=config.keep_checkpoints) as checkpointer,
    ):
        if jax.process_index() == 0:
            workdir.write(
                folder,
                config,
                vocab=vocab,
                frame_policy=shards.manifest["frame_policy"],
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
            shards, tokenizer, intake, batch_size=config.batch_size, seed=config.seed, first=first
        )
        reporter.start(first, state["params"])
        scores: dict[str, float] = {}
        for step in range(first, total + 1):
            due = step == total or (step > first and step % config.eval_every_steps == 0)
            if due:
                reporter.flush(step)
                scores = scores_of(state["params"])
                reporter.evaluated(step, scores)
            if due or (step > first and step % config.save_every_steps == 0):
                reporter.flush(step)
                if checkpointer.latest is None or checkpointer.latest.step != step:
                    checkpoint.save(checkpointer, state, metrics=scores if due else None)
            if step == total:
                break
            batch = reporter.timed(next, batches)
            state, measured = train_step(state, sharding.to_global(batch, mesh))
            reporter.add(step + 1, measured)
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
    abstract = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        layout,
    )
    state = checkpoint.restore(checkpointer, abstract)
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
