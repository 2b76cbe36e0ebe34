"""How fast the training stream turns frame shards into batches, on one core: a JSON line.

python benchmarks/input_pipeline.py [--shards FOLDER] [--split train] [--cores 1] [--seconds 10]

Without a folder it renders clips of 12 frames of 224 x 224 pixels and builds shards from them:
noise with the spectrum of photographs, 17 KB a JPEG. Frames of real clips are wider than high and
cost more in proportion. The stages are timed one after another, without threads; what they leave of
the stream's time goes to shuffling, batching and threads.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import av
import measure
import numpy as np
from PIL import Image

from xclip_jax import input as pipeline
from xclip_jax import tokenizer as tokenizers
from xclip_jax.records import Shards

CLIPS, FRAMES, SIDE = 64, 12, 224
WORDS = ["a", "man", "woman", "dog", "plays", "guitar", "on", "the", "beach"]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=Path, help="a folder of shards, instead of rendered ones")
    parser.add_argument("--split", default="train")
    parser.add_argument("--batch", type=int, default=64, help="pairs")
    parser.add_argument("--frames", type=int, default=12, help="at most, a video")
    parser.add_argument("--words", type=int, default=32, help="a text")
    parser.add_argument("--cores", type=int, default=1, help="to be pinned to; 0: not at all")
    parser.add_argument("--seconds", type=float, default=5, help="of each repeat")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    if args.shards:
        run(args.shards, args)
        return
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        run(Path(folder) / "shards", args)


def run(folder: Path, args) -> None:
    """Draws batches for a while, then times the stages alone, and prints the rates."""
    shards = Shards(folder, args.split)
    tokenizer = tokenizers.load(tokenizers.find_vocab(beside=folder))
    side = shards.manifest["frame_policy"]["short_side"]
    intake = pipeline.Intake(args.words, args.frames, side, slice_position=2)
    cores = measure.usable_cores()
    if args.cores:
        pin(sorted(cores)[: args.cores])
    batches = pipeline.train(shards, tokenizer, intake, batch_size=args.batch, seed=0, first=0)
    next(batches)  # starts the threads
    repeats = [rates(batches, args.seconds) for _ in range(args.repeats)]
    wall, cpu = zip(*repeats, strict=True)
    used = args.cores or len(cores)
    seconds = stages(shards, tokenizer, intake)
    if args.cores:
        pin(cores)
    measure.report(
        "input_pipeline",
        shards=str(args.shards.name) if args.shards else f"{CLIPS} clips of noise",
        side=side,
        frames=args.frames,
        batch=args.batch,
        jpeg_bytes=round(np.mean([len(jpeg) for jpeg in shards[0].frames])),
        pinned_to=args.cores or None,
        frames_per_second_a_core=measure.spread([rate / used for rate in wall], 1),
        frames_per_cpu_second=measure.spread(cpu, 1),
        stage_microseconds_a_frame={name: round(1e6 * x, 1) for name, x in seconds.items()},
        stage_share={name: round(x / sum(seconds.values()), 3) for name, x in seconds.items()},
        **measure.peak_memory(),
    )


def pin(cores) -> None:
    """Keeps every thread of this process, and those they start, on the cores."""
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError("this system cannot pin a process to cores: give --cores 0")
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), cores)


def rates(batches, seconds: float) -> tuple[float, float]:
    """Returns frames a second and frames a second of processor time."""
    frames, start, cpu = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - start) < seconds:
        frames += int(next(batches)["frame_mask"].sum())
    return frames / elapsed, frames / (time.process_time() - cpu)


def stages(shards: Shards, tokenizer, intake: pipeline.Intake) -> dict[str, float]:
    """Returns the seconds of processor time a frame of each stage of the stream's `load`."""
    spent, frames = dict.fromkeys(("read", "parse", "decode", "tokenize"), 0.0), 0
    clock = time.thread_time
    for i in range(min(len(shards), 200)):
        start = clock()
        shards._payload(i)  # the first half of shards[i]: bytes and checksums
        read = clock()
        record = shards[i]
        parsed = clock()
        _, mask = pipeline.load_frames(
            record.frames, intake, intake.evaluation, stored="", rng=np.random.default_rng(0)
        )
        decoded = clock()
        tokenizer(record.captions[:1], intake.max_words)
        spent["read"] += read - start
        spent["parse"] += max((parsed - read) - (read - start), 0)
        spent["decode"] += decoded - parsed
        spent["tokenize"] += clock() - decoded
        frames += int(mask.sum())
    return {name: seconds / frames for name, seconds in spent.items()}


def build(folder: Path) -> None:
    """Renders clips and builds their shards with a vocabulary of single bytes."""
    from xclip_jax.data.build import build
    from xclip_jax.data.clips import Clip

    rng = np.random.default_rng(0)
    clips = []
    for i in range(CLIPS):
        path = folder / f"{i}.mp4"
        render(path, rng)
        captions = [" ".join(rng.choice(WORDS, 9)) for _ in range(2)]
        clips.append(Clip(str(i), path, captions, None, None, "train"))
    vocab = folder / "merges.txt"
    vocab.write_text("#version: 0.2, no merges\n")
    build(clips, folder / "shards", name="noise", short_side=SIDE, vocab=vocab)


def render(path: Path, rng: np.random.Generator) -> None:
    """Writes a clip of one frame a second over which a scene drifts."""
    scene = natural(rng, SIDE + 4 * FRAMES)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": "10"})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for i in range(FRAMES):
            pixels = np.ascontiguousarray(scene[4 * i : 4 * i + SIDE, 2 * i : 2 * i + SIDE])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def natural(rng: np.random.Generator, side: int) -> np.ndarray:
    """Returns noise whose amplitude falls with its frequency, as in photographs, uint8 RGB."""
    total = np.zeros((side, side, 3), np.float32)
    cells = 2
    while cells <= side:
        octave = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        octave = octave.resize((side, side), Image.Resampling.BICUBIC)
        total += (np.asarray(octave, np.float32) - 127.5) / cells**0.5
        cells *= 2
    return np.clip(127.5 + 0.6 * total, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
