"""A server from its start to its end: guards, warm-up, the address, and a clean stop."""

import asyncio
import logging
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from urllib.parse import quote

import uvicorn

from xclip_jax.index import query
from xclip_jax.web import access, app, bounds, connection, docs, searching
from xclip_jax.web.limits import Limits
from xclip_jax.web.serving import Serving

LEAST_TOKEN = 16  # characters
EVERYWHERE = {"0.0.0.0", "::"}
STOP_SECONDS = 5.0  # that requests under way have to end


def guarded(serving: Serving, *, token: str | None, local: bool):
    """Returns the whole application."""
    made = app.make(serving)
    docs.add(made)
    bounded = bounds.Bounds(made, limits=serving.limits, uploads=searching.UPLOADS)
    return access.Access(bounded, token=token, local=local)


def checked_token(token: str, source: str) -> str:
    """Returns a token that can travel in a header and is too long to be guessed."""
    token = token.strip()
    plain = token.isascii() and token.isprintable() and not set(token) & set(' ";,\\')
    if len(token) < LEAST_TOKEN or not plain:
        raise ValueError(
            f"{source}: expected a token of {LEAST_TOKEN} letters and digits or more, such as"
            f" {random_token()}."
        )
    return token


def random_token() -> str:
    """Returns a token that nobody can guess."""
    return secrets.token_urlsafe(24)


def bound_socket(host: str, port: int) -> socket.socket:
    """Returns a socket that listens there; raises ValueError in one line where it cannot."""
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        # With its protocol named asyncio sends small answers at once: 40 ms less.
        opened = socket.socket(family, kind, protocol)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
            opened.listen(1024)
        except OSError:
            opened.close()
            raise
    except OSError as error:
        raise ValueError(
            f"--host {host} --port {port}: {error.strerror or error}; is another server there?"
            " Give another --port (0 for any that is free)."
        ) from None
    return opened


def serve(
    load: Callable[[], query.Searcher], opened: socket.socket, limits: Limits, *, token: str | None
) -> None:
    """Serves until it is told to stop, by Ctrl-C or SIGTERM.

    `load` gives the searcher; the socket is bound before that, so that a port in use is told of at
    once.
    """
    host, port = opened.getsockname()[:2]
    start = time.perf_counter()
    serving = Serving(load(), limits)

    def say(line: str) -> None:
        print(f"{line} ...", file=sys.stderr, flush=True)

    # What is wrong with a form is told to the one who sent it.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    try:
        serving.warm(say)
        # Who has the token may come by any name, through a proxy say.
        local = token is None
        config = uvicorn.Config(
            guarded(serving, token=token, local=local),
            http=connection.protocol(limits),
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=int(STOP_SECONDS),
        )
        count = serving.rows.count()
        name = socket.gethostname() if host in EVERYWHERE else f"[{host}]" if ":" in host else host
        address = f"http://{name}:{port}/" + (f"?token={quote(token)}" if token else "")
        print(
            f"{serving.rows.index.place}: {count} videos, ready in"
            f" {time.perf_counter() - start:.1f} s; stop with Ctrl-C",
            file=sys.stderr,
        )
        print(f"open {address}", flush=True)
        server = uvicorn.Server(config)
        # uvicorn stops by these signals and raises them once more when it has stopped.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: setattr(server, "should_exit", True))
        asyncio.run(server.serve(sockets=[opened]))
        print("stopped", file=sys.stderr)
    finally:
        serving.close()
