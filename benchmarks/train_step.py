"""How fast X-CLIP trains on random data that is on the device already: a JSON line.

python benchmarks/train_step.py [--arch vit_b32] [--batch 8] [--frames 12] [--words 32]
    [--dtype float32] [--precision default] [--remat dots]
    [--micro-batch 0] [--steps 5] [--config.KEY=VALUE ...]

The step is the one that training runs, with the optimizer of the released code; any number of
devices share the batch. On a CPU, XLA_FLAGS and the load of the machine decide a good deal.
"""

import argparse
import tempfile

import jax
import measure
import numpy as np

from xclip_jax import (
    checkpoint,
    config_loader,
    flops,
    models,
    optimizer,
    sharding,
    train,
    train_step,
    workdir,
)

VOCAB = 49408  # of CLIP


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--arch",
        default="vit_b32",
        help=f"{', '.join(models.ARCHS)}, or custom: the jsonl config's",
    )
    parser.add_argument("--batch", type=int, default=8, help="pairs, over all devices")
    parser.add_argument("--frames", type=int, default=12, help="a video")
    parser.add_argument("--words", type=int, default=32, help="a text")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument(
        "--precision",
        default="default",
        choices=["default", "highest"],
        help="of float32 products; the default is tensorfloat32 on a GPU, bfloat16 on a TPU",
    )
    parser.add_argument("--remat", default="dots", choices=["none", "dots", "full"])
    parser.add_argument("--micro-batch", type=int, default=0, help="pairs encoded at a time")
    parser.add_argument("--steps", type=int, default=5, help="steps to time, after one more")
    args, overrides = parser.parse_known_args(argv)
    config = config_loader.load(
        f"jsonl:arch={args.arch}",
        [
            f"--config.batch_size={args.batch}",
            f"--config.data.max_frames={args.frames}",
            f"--config.data.max_words={args.words}",
            f"--config.model.dtype={args.dtype}",
            f"--config.model.remat={args.remat}",
            f"--config.micro_batch={args.micro_batch}",
            *overrides,
        ],
    )
    with jax.default_matmul_precision(args.precision):
        run(config, args)


def run(config, args) -> None:
    """Compiles the step, takes it, and prints what it took."""
    sizes = workdir.model_sizes(config, config.model.vocab_size or VOCAB)
    shapes = train_step.abstract_batch(config, sizes)
    mesh = sharding.make_mesh(config.fsdp)
    graphdef, _ = models.create(config.model.name, **sizes)
    adam = optimizer.create(**config.optimizer, total_steps=1000).transformation
    with (
        jax.set_mesh(mesh),
        tempfile.TemporaryDirectory() as folder,
        checkpoint.open_folder(folder, keep=1) as checkpointer,
    ):
        state, layout = train.initial_state(config, sizes, adam, mesh, checkpointer)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
        operations = flops.train_step(graphdef, state["params"], shapes)
        batch = sharding.to_global(random_batch(shapes, sizes["vocab_size"]), mesh)
        step = train_step.make(
            graphdef, adam, layout, mesh, seed=config.seed, micro_batch=config.micro_batch
        )
        lowered = step.lower(state, batch)
        compiled, compile_seconds = measure.timed(lowered.compile)
        times = []
        for _ in range(args.steps + 1):  # the first is for warming up
            (state, measured), seconds = measure.timed(compiled, state, batch)
            times.append(seconds)
    if not np.isfinite(measured["train/loss"]):
        raise FloatingPointError(f"the loss became {measured['train/loss']}")
    times = measure.spread(times[1:])
    numbers = measure.arithmetic(args.dtype, args.precision)
    videos, frames = shapes["video"].shape[:2]
    measure.report(
        "train_step",
        arch=args.arch,
        batch=args.batch,
        frames=args.frames,
        words=args.words,
        dtype=args.dtype,
        remat=args.remat,
        micro_batch=args.micro_batch,
        parameters=parameters,
        step_seconds=times,
        compile_seconds=round(compile_seconds, 2),
        frames_per_second=round(videos * frames / times["median"], 2),
        pairs_per_second=round(args.batch / times["median"], 2),
        **measure.speed(operations, times["median"], numbers),
        temporary_gib=round(compiled.memory_analysis().temp_size_in_bytes / 2**30, 3),
        **measure.peak_memory(),
    )


def random_batch(shapes: dict, vocab_size: int) -> dict[str, np.ndarray]:
    """Returns videos without padding and texts of all lengths, in the shapes of a batch."""
    rng = np.random.default_rng(0)
    texts, words = shapes["tokens"].shape
    lengths = rng.integers(2, words + 1, texts)
    token_mask = np.arange(words) < lengths[:, None]
    tokens = np.where(token_mask, rng.integers(1, vocab_size - 1, (texts, words)), 0)
    tokens[np.arange(texts), lengths - 1] = vocab_size - 1
    batch = {
        "video": rng.integers(0, 256, shapes["video"].shape, np.uint8),
        "frame_mask": np.ones(shapes["frame_mask"].shape, bool),
        "tokens": tokens.astype(np.int32),
        "token_mask": token_mask,
    }
    if "video_ids" in shapes:
        batch["video_ids"] = np.arange(len(batch["video"]), dtype=np.int32)
    return batch


if __name__ == "__main__":
    main()
