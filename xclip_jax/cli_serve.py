"""`xclip-jax serve`: an index as a web page and a JSON API."""

import argparse
import importlib.util
import os
import sys
from pathlib import Path

TOKEN = "XCLIP_JAX_TOKEN"
PACKAGES = ("fastapi", "uvicorn", "python_multipart", "fastapi_swagger")
RATE = 20.0  # requests a second from one address, where others can reach the server


def add(command, checkpoint: str) -> None:
    """Adds the command to the parser by way of cli's `command`; `checkpoint` is that option's
    help."""
    serve = command(
        "serve",
        _serve,
        "a page and a JSON API to search an index by",
        "xclip-jax serve clips.lance",
    )
    serve.add_argument("index", metavar="INDEX", help="what xclip-jax index made")
    serve.add_argument("--workdir", help="folder of the run (default: what the index was made by)")
    serve.add_argument("--checkpoint", help=checkpoint)
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine only); others need a token",
    )
    serve.add_argument("--port", type=int, default=8000, help="0 for any (default: 8000)")
    serve.add_argument(
        "--token-file",
        metavar="FILE",
        help=f"the token that clients must show (or ${TOKEN}; default with --host: a random one)",
    )
    serve.add_argument(
        "--rate",
        type=float,
        metavar="N",
        help=f"requests a second from one address (default: any; with --host {RATE:g})",
    )
    serve.add_argument(
        "--upload-mb", type=float, default=200, metavar="N", help="of a clip (default: 200)"
    )
    serve.add_argument(
        "--upload-seconds", type=float, default=600, metavar="N", help="likewise (default: 600)"
    )


def _serve(arguments: argparse.Namespace) -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"serve needs {', '.join(missing)}: pip install 'xclip_jax[index,web]'.")
    _check(arguments)
    from xclip_jax import evaluate, startup
    from xclip_jax.index import making, query, store
    from xclip_jax.web import access, run
    from xclip_jax.web.limits import Limits

    store.require()
    local = access.is_loopback(arguments.host)
    token = _token(arguments, local, run)
    index = store.open_index(arguments.index)
    opened = run.bound_socket(arguments.host, arguments.port)
    limits = Limits(
        upload_bytes=int(arguments.upload_mb * 2**20),
        upload_seconds=arguments.upload_seconds,
        rate=arguments.rate or (None if local else RATE),
    )

    def load() -> query.Searcher:
        startup.keep_compilations_of_this_cpu()
        print("loading the model ...", file=sys.stderr, flush=True)
        trained = making.load_model(index, arguments.workdir, arguments.checkpoint, only_text=False)
        return query.Searcher(index, trained, evaluate.make_encoders(trained.graphdef))

    with opened:
        run.serve(load, opened, limits, token=token)


def _check(arguments: argparse.Namespace) -> None:
    """Raises one ValueError about all that is wrong with the options."""
    problems = [
        f"--{name} {value:g}: expected a number above 0"
        for name in ("rate", "upload-mb", "upload-seconds")
        if (value := getattr(arguments, name.replace("-", "_"))) is not None and not 0 < value < 1e9
    ]
    if not 0 <= arguments.port < 2**16:
        problems.append(f"--port {arguments.port}: expected 0 to 65535")
    if arguments.token_file and not Path(arguments.token_file).is_file():
        problems.append(f"--token-file {arguments.token_file}: no such file")
    if problems:
        raise ValueError("; ".join(problems) + ".")


def _token(arguments: argparse.Namespace, local: bool, run) -> str | None:
    """Returns the token that clients must show, None for none."""
    if arguments.token_file:
        text = Path(arguments.token_file).read_text(encoding="utf-8", errors="replace")
        return run.checked_token(text, f"--token-file {arguments.token_file}")
    if TOKEN in os.environ:
        return run.checked_token(os.environ[TOKEN], f"${TOKEN}")
    return None if local else run.random_token()
