"""`xclip-jax index` and `xclip-jax search`: a collection of videos, and questions to it."""

import argparse
import json
import sys
import zlib
from pathlib import Path

CHECKPOINT = "selected (default: as the run's select_on has it), last, best or a step"


def add(command) -> None:
    """Adds both commands; `command` makes a parser of name, function, summary and example."""
    index = command(
        "index",
        _index,
        "encode videos into an index, or bring it up to date",
        "xclip-jax index ~/clips --workdir runs/mine --index clips.lance",
    )
    index.add_argument(
        "videos",
        metavar="FOLDER",
        help='folder of videos, or a list in JSON lines: {"video": PATH, and metadata}',
    )
    index.add_argument("--workdir", required=True, help="folder of the run")
    index.add_argument("--index", required=True, help="folder, gs://, s3:// or db:// address")
    index.add_argument("--checkpoint", default="selected", help=CHECKPOINT)
    index.add_argument(
        "--moment-frames",
        type=int,
        metavar="N",
        help="keep features of N frames of each video at most, spread over all of it, to find"
        " moments by; 0 keeps none, which makes indexing faster (default: 64)",
    )

    search = command(
        "search",
        _search,
        "find the videos that match a text, or another video",
        'xclip-jax search --index clips.lance "a dog runs" "a man cooks"',
    )
    search.add_argument("queries", nargs="*", metavar="QUERY", help="what to look for")
    search.add_argument("--queries", dest="file", metavar="FILE", help="queries, one a line")
    search.add_argument("--like", metavar="VIDEO", help="look for videos like this file")
    search.add_argument("--index", help="what xclip-jax index made")
    search.add_argument("--videos", help="folder of videos, indexed in the workdir first")
    search.add_argument("--workdir", help="folder of the run (default: what the index was made by)")
    search.add_argument("--checkpoint", help=CHECKPOINT)
    search.add_argument("-k", type=int, default=5, help="videos a query (default: 5)")
    search.add_argument(
        "--where",
        metavar="SQL",
        help="only such videos, say \"json_get_int(metadata, 'year') > 2000 AND duration < 60\"",
    )
    search.add_argument(
        "--moments",
        action="store_true",
        help="answer with the best parts of the best videos",
    )
    search.add_argument("--exact", action="store_true", help="score all videos, not candidates")
    search.add_argument(
        "--qb-norm",
        metavar="FILE",
        help="set scores against those of other queries, one a line (QB-Norm, arXiv 2112.12777)",
    )
    search.add_argument("--json", action="store_true", help="print a JSON object a query")


def _index(arguments: argparse.Namespace) -> None:
    from xclip_jax import evaluate, workdir
    from xclip_jax.index import listing, making, store

    store.require()  # before the model is loaded
    if arguments.moment_frames is not None and arguments.moment_frames < 0:
        raise ValueError(f"--moment-frames {arguments.moment_frames}: expected 0 or more.")
    listed = listing.read(arguments.videos)
    trained = workdir.load(arguments.workdir, arguments.checkpoint)
    encoders = evaluate.make_encoders(trained.graphdef)
    index = making.open_or_make(
        arguments.index,
        trained,
        encoders,
        arguments.workdir,
        moment_frames=arguments.moment_frames,
    )
    making.fill(index, trained, encoders, listed, progress=sys.stderr.isatty())


def _search(arguments: argparse.Namespace) -> None:
    _check(arguments)
    from xclip_jax import evaluate, startup, workdir
    from xclip_jax.index import listing, making, query, spans, store

    store.require()
    startup.keep_compilations_of_this_cpu()

    queries = [*arguments.queries, *(query.read_queries(arguments.file) if arguments.file else [])]
    bank = query.read_queries(arguments.qb_norm) if arguments.qb_norm else []
    if arguments.videos:
        if not Path(arguments.videos).is_dir():
            raise FileNotFoundError(f"--videos {arguments.videos} is not a folder.")
        listed = listing.folder(Path(arguments.videos))
        trained = workdir.load(arguments.workdir, arguments.checkpoint or "selected")
        encoders = evaluate.make_encoders(trained.graphdef)
        if arguments.index:
            index = making.open_or_make(arguments.index, trained, encoders, arguments.workdir)
        else:
            place = default_place(arguments.workdir, arguments.videos)
            index = making.open_or_replace(place, trained, encoders, arguments.workdir)
        making.fill(index, trained, encoders, listed, progress=sys.stderr.isatty())
    else:
        index = store.open_index(arguments.index)
        only_text = not (arguments.like or arguments.moments)
        trained = making.load_model(
            index, arguments.workdir, arguments.checkpoint, only_text=only_text
        )
        encoders = evaluate.make_encoders(trained.graphdef)
    searcher = query.Searcher(index, trained, encoders)
    options = {"k": arguments.k, "where": arguments.where}
    if arguments.moments:
        answered = spans.find(searcher, queries, exact=arguments.exact, **options)
        for name, parts in zip(queries, answered, strict=True):
            print(_json(name, parts) if arguments.json else _parts(name, parts))
        return
    asked, found = [], []
    if queries:
        asked += queries
        found += query.texts(searcher, queries, exact=arguments.exact, bank=bank, **options)
    if arguments.like:
        asked.append(arguments.like)
        found += query.like(searcher, making.vector(trained, encoders, arguments.like), **options)
    for name, answers in zip(asked, found, strict=True):
        said = {"qb_norm": _norm(answers, bank)} if bank else {}
        print(_json(name, answers.hits, **said) if arguments.json else _table(name, answers, bank))


def _check(arguments: argparse.Namespace) -> None:
    """Raises one ValueError about all that is wrong with the options of a search."""
    problems = []
    if arguments.k < 1:
        problems.append(f"-k {arguments.k}: expected 1 or more")
    if not (arguments.queries or arguments.file or arguments.like):
        problems.append("nothing to look for: give a QUERY, --queries FILE or --like VIDEO")
    if not (arguments.index or arguments.videos):
        problems.append("nowhere to look: give --index, or --videos with --workdir")
    if arguments.moments and (arguments.like or arguments.qb_norm or arguments.videos):
        problems.append("--moments takes texts and an --index: leave out the other options")
    if arguments.videos and not arguments.workdir:
        problems.append("--videos needs --workdir, the run whose model encodes them")
    if problems:
        raise ValueError("; ".join(problems) + ".")


def default_place(run: str, videos: str) -> str:
    """Returns where in a run's folder the index of a folder of videos lies."""
    place = Path(videos).absolute()  # two folders may have one name
    return f"{run.rstrip('/')}/index-{place.name}-{zlib.crc32(str(place).encode()):08x}"


def _table(name: str, answers, bank: list[str]) -> str:
    lines = [f"\n{name}"]
    if bank:
        lines.append(f"     {_norm(answers, bank)}")
    for rank, hit in enumerate(answers.hits, 1):
        about = "  ".join(f"{key}={value}" for key, value in hit.metadata.items())
        lines.append(f"{rank:3d}. {hit.score:8.3f}  {hit.path}" + (f"  {about}" if about else ""))
    if not answers.hits:
        lines.append("     no video")
    return "\n".join(lines)


def _parts(name: str, parts: list) -> str:
    lines = [f"\n{name}"]
    for rank, part in enumerate(parts, 1):
        span = f"{part.start:8.1f} - {part.end:.1f} s"
        lines.append(f"{rank:3d}. {part.score:8.3f}  {span}  {part.path}")
    return "\n".join(lines if parts else [*lines, "     no video"])


def _json(name: str, answers: list, **said) -> str:
    results = [{"rank": rank} | answer._asdict() for rank, answer in enumerate(answers, 1)]
    return json.dumps({"query": name} | said | {"results": results})


def _norm(answers, bank: list[str]) -> str:
    if answers.normalized:
        return f"ordered by QB-Norm against {len(bank)} queries; the scores are the model's"
    return f"QB-Norm against {len(bank)} queries does not apply: none has this first answer"
