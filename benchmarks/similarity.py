"""How fast X-CLIP scores texts against videos whose features are at hand: a JSON line.

python benchmarks/similarity.py [--texts 1000] [--videos 1000] [--words 32] [--frames 12]
    [--rows N] [--repeats 3]

The scoring of `xclip-jax eval` and `search`, tiles and all, with the eight learned matrices, on
random unit features of CLIP ViT-B/32's width; no tower is run. `--rows` scores only the first
texts, though all lie in memory: ActivityNet's size in minutes is
`--texts 4917 --videos 4917 --words 64 --frames 64 --rows 64 --repeats 1`.
"""

import argparse

import jax
import measure
import numpy as np

from xclip_jax import evaluate, flops, models, scoring
from xclip_jax.models.similarity import Text, Video

EMBED = 512  # of ViT-B/32 and B/16
# Towers as small as can be: only their names are needed, for the model to be whole.
TOWERS = {
    "image_size": 16,
    "patch_size": 16,
    "vision_layers": 1,
    "vision_width": 64,
    "text_width": 64,
    "text_layers": 1,
    "context_length": 77,
    "vocab_size": 514,
    "temporal_layers": 1,
    "head": "meanP",
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--words", type=int, default=32, help="a text")
    parser.add_argument("--frames", type=int, default=12, help="a video")
    parser.add_argument("--rows", type=int, help="texts to score (default: all)")
    parser.add_argument(
        "--precision",
        default="default",
        choices=["default", "highest"],
        help="of float32 products; the default is tensorfloat32 on a GPU, bfloat16 on a TPU",
    )
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    with jax.default_matmul_precision(args.precision):
        run(args)


def run(args) -> None:
    """Scores a first row of tiles to compile, then everything, and prints what it took."""
    sizes = TOWERS | {
        "embed_dim": EMBED,
        "max_words": args.words,
        "max_frames": args.frames,
    }
    graphdef, _ = models.create("xclip", **sizes)
    params = models.init(jax.random.key(0), "xclip", **sizes)
    encoders = evaluate.make_encoders(graphdef)
    text, video = random_features(args)
    rows = min(args.rows or args.texts, args.texts)

    def score(count: int) -> np.ndarray:
        first = jax.tree.map(lambda x: x[:count], text)
        return scoring.score(encoders, params, first, video, progress=False)

    floats = encoders.pair_floats(params, args.words, args.frames)
    tile, _ = scoring.tile_shape(rows, args.videos, floats)
    _, first = measure.timed(score, tile)
    _, second = measure.timed(score, tile)
    timings = [measure.timed(score, rows) for _ in range(args.repeats)]
    if not np.isfinite(timings[-1][0]).all():
        raise FloatingPointError("the scores are not finite")
    seconds = measure.spread([seconds for _, seconds in timings])
    measure.report(
        "similarity",
        texts=args.texts,
        videos=args.videos,
        words=args.words,
        frames=args.frames,
        embed_dim=EMBED,
        rows_scored=rows,
        seconds=seconds,
        compile_seconds=round(max(first - second, 0), 2),
        pairs_per_second=round(rows * args.videos / seconds["median"]),
        **measure.speed(
            flops.similarity(graphdef, params, jax.tree.map(lambda x: x[:rows], text), video),
            seconds["median"],
            measure.arithmetic("float32", args.precision),
        ),
        **measure.peak_memory(),
    )


def random_features(args) -> tuple[Text, Video]:
    """Returns features of length one, and masks under which nothing is padding."""
    rng = np.random.default_rng(0)

    def unit(*shape: int) -> np.ndarray:
        x = rng.standard_normal((*shape, EMBED), np.float32)
        x /= np.sqrt(np.einsum("...e,...e->...", x, x))[..., None]  # no copy: x may be large
        return x

    words, frames = (args.texts, args.words), (args.videos, args.frames)
    text = Text(unit(args.texts), unit(*words), np.ones(words, bool))
    return text, Video(unit(args.videos), unit(*frames), np.ones(frames, bool))


if __name__ == "__main__":
    main()
