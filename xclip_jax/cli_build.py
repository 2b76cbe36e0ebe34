"""The command `xclip-jax build`: from video files and captions to TFRecord shards."""

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

# As data/catalog.py has them, whose import would need the build extra.
BENCHMARKS = ("msrvtt", "msvd", "lsmdc", "didemo", "activitynet", "vatex")


def add(command: Callable) -> None:
    """Adds the command; `command(name, run, summary, example)` returns a parser."""
    build = command(
        "build",
        _build,
        "turn video files into TFRecord frame shards",
        "xclip-jax build jsonl --captions clips.jsonl --out shards/mine",
    )
    build.epilog += (
        "\n  xclip-jax build msrvtt --annotations notes --videos clips --dry-run"
        "\n  xclip-jax build msrvtt --annotations notes --videos clips --out shards/msrvtt"
    )
    build.add_argument(
        "name",
        choices=[*BENCHMARKS, "jsonl", "shapes"],
        help="a benchmark, your own clips, or the embedded moving shapes",
    )
    build.add_argument("--out", help="folder for the shards")
    build.add_argument("--annotations", help="benchmarks: folder of the annotation files")
    build.add_argument(
        "--captions",
        help='jsonl: a JSON-lines file of {"video": path, "captions": [...], "id"?, "start"?,'
        ' "end"?, "split"?}, a JSON list of them, or a CSV with these columns',
    )
    build.add_argument(
        "--videos", help="folder of the videos; jsonl: that relative paths start from"
    )
    build.add_argument(
        "--dry-run",
        action="store_true",
        help="benchmarks: print what is there and what is missing, write nothing",
    )
    build.add_argument(
        "--split", help="jsonl: put every clip into this split whatever the list says"
    )
    build.add_argument("--short-side", type=int, default=224, help="pixels (default: 224)")
    build.add_argument("--rate", type=int, help="frames kept a second (default: 1)")
    build.add_argument(
        "--policy", help="which frames to keep: clip4clip_1fps, uniform_12, native_5fps, ..."
    )
    build.add_argument("--vocab", help="a vocabulary file to lay beside the shards")
    build.add_argument("--clips", type=int, default=4000, help="shapes: training clips")
    build.add_argument("--test-clips", type=int, default=100, help="shapes: test clips")
    build.add_argument("--seed", type=int, default=0, help="shapes: of the generator")
    build.add_argument("--workers", type=int, help="processes (default: one a core)")
    build.add_argument(
        "--runner",
        help="decode on Apache Beam's DirectRunner, DataflowRunner, FlinkRunner or SparkRunner",
    )
    build.add_argument(
        "--beam-options",
        default="",
        help="Beam's and the runner's, in one: '--project=P --region=R --temp_location=gs://...'",
    )
    build.add_argument(
        "--allow-missing", action="store_true", help="build although over 1 %% of clips fail"
    )


def _build(arguments) -> None:
    for name, least in (("short_side", 1), ("rate", 0), ("workers", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} {value}: expected {least} or more.")
    if arguments.dry_run and arguments.name not in BENCHMARKS:
        raise ValueError(f"--dry-run is for {', '.join(BENCHMARKS)}, not {arguments.name}.")
    if arguments.rate is not None and arguments.policy:
        raise ValueError(f"--rate {arguments.rate} and --policy {arguments.policy}: give one.")
    if not arguments.out and not arguments.dry_run:
        raise ValueError(f"build {arguments.name} needs --out FOLDER, for the shards.")
    if arguments.beam_options and not arguments.runner:
        raise ValueError(f"--beam-options {arguments.beam_options!r} needs a --runner.")
    if not arguments.dry_run:
        needs_build_extra()
    rate = 1 if arguments.rate is None else arguments.rate
    settings = {
        "policy": arguments.policy or f"clip4clip_{rate}fps",
        "short_side": arguments.short_side,
        "workers": arguments.workers,
        "allow_missing": arguments.allow_missing,
        "vocab": arguments.vocab,
    }
    if arguments.runner:
        from xclip_jax.data import beam

        settings["run"] = beam.parallel_on(arguments.runner, arguments.beam_options)
    if arguments.name in BENCHMARKS:
        manifest = _build_benchmark(arguments, settings)
        if manifest is None:
            return
    else:
        manifest = _build_list(arguments, settings)
    for split, counts in manifest["splits"].items():
        print(
            f"{split}: {counts['present']} of {counts['listed']} videos,"
            f" {counts['captions']} captions"
        )
    print(f"{len(manifest['skipped'])} skipped; shards are in {arguments.out}")


def _build_benchmark(arguments, settings: dict) -> dict | None:
    """Returns the manifest, or None of a dry run."""
    from xclip_jax import config_loader
    from xclip_jax.data import catalog, coverage

    for name in ("annotations", "videos"):
        if not getattr(arguments, name):
            raise ValueError(f"build {arguments.name} needs --{name} FOLDER.")
    benchmark = catalog.read(arguments.name, arguments.annotations)
    # The longest caption that the data set's published recipe takes in whole.
    max_words = config_loader.load(arguments.name).data.max_words
    counting = {"max_words": max_words, "count_tokens": _token_counter(arguments.vocab, max_words)}
    if arguments.dry_run:
        paths = catalog.find(benchmark, arguments.videos)
        covered = coverage.cover(benchmark, paths, **counting, workers=arguments.workers)
        print(coverage.table(covered))
        return None
    from xclip_jax.data.build import build_benchmark

    return build_benchmark(
        benchmark,
        arguments.videos,
        arguments.out,
        source=str(arguments.annotations),
        **counting,
        **settings,
    )


def _token_counter(vocab: str | None, max_words: int) -> Callable | None:
    """Returns a function that counts the tokens of captions, up to one more than `max_words`;
    None where no vocabulary is at hand: a survey fetches none."""
    from xclip_jax import tokenizer

    cache = Path.home() / ".cache" / "xclip_jax"
    cached = any((cache / name).is_file() for name in tokenizer.NAMES)
    if not (vocab or cached or os.environ.get(tokenizer.VARIABLE)):
        return None
    words = tokenizer.load(tokenizer.find_vocab(vocab))
    return lambda texts: words(texts, max_words + 1)[1].sum(axis=1)


def _build_list(arguments, settings: dict) -> dict:
    from xclip_jax.data.build import build
    from xclip_jax.data.jsonl.jsonl_dataset_builder import read_clips

    captions, root = arguments.captions, arguments.videos
    if arguments.name == "shapes":
        from xclip_jax.data import synthetic

        rendered = Path(arguments.out) / "rendered"
        facts = synthetic.render(
            rendered,
            train_clips=arguments.clips,
            test_clips=arguments.test_clips,
            seed=arguments.seed,
            workers=arguments.workers,
        )
        print(json.dumps(facts))
        captions, root = rendered / "captions.jsonl", None
        settings |= {"short_side": 64, "vocab": rendered / "merges.txt"}
    elif captions is None:
        raise ValueError("build jsonl needs --captions FILE, the list of clips.")
    clips = read_clips(captions, root, split=arguments.split)
    return build(clips, arguments.out, name=arguments.name, source=str(captions), **settings)


def needs_build_extra() -> None:
    """Raises one line where what only a build needs is not installed."""
    if missing := [name for name in ("tensorflow", "matplotlib") if not find_spec(name)]:
        raise ValueError(
            f"this command needs {' and '.join(missing)}: pip install 'xclip_jax[build]'"
        )
