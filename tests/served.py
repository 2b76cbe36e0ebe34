"""A server over an index of five rendered clips, for the tests of the web API."""

import shutil

import pytest

pytest.importorskip("fastapi", reason="needs xclip_jax[web]")

from starlette.testclient import TestClient

from xclip_jax import evaluate, workdir
from xclip_jax.index import listing, making, query, update
from xclip_jax.web import run as web_run
from xclip_jax.web.limits import Limits
from xclip_jax.web.serving import Serving

CLIPS = 5
ADDRESS = "http://127.0.0.1:8000"


def index_of(shapes, run, folder) -> query.Searcher:
    """Makes the index in `folder`; returns it with its model. One clip has a copy."""
    (folder / "clips").mkdir(parents=True)
    for i in range(CLIPS):
        shutil.copy(shapes / "rendered" / "videos" / f"test-{i:05d}.mp4", folder / "clips")
    shutil.copy(folder / "clips" / "test-00001.mp4", folder / "clips" / "twin.mp4")
    trained = workdir.load(run)
    encoders = evaluate.make_encoders(trained.graphdef)
    lines = [
        f'{{"video": "clips/{path.name}", "number": {i}}}\n'
        for i, path in enumerate(sorted((folder / "clips").iterdir()))
    ]
    (folder / "clips.jsonl").write_text("".join(lines))
    index = making.open_or_make(folder / "index", trained, encoders, run, moment_frames=6)
    update.update(index, trained, encoders, listing.read(folder / "clips.jsonl"), progress=False)
    return query.Searcher(index, trained, encoders)


def serving(searcher: query.Searcher, **limits) -> Serving:
    """Returns what a server of these limits holds; close it at the end."""
    return Serving(searcher, Limits(**limits))


def client(made: Serving, *, token: str | None = None, local: bool = True) -> TestClient:
    """Returns a client that reaches the application in this process, as from this machine."""
    app = web_run.guarded(made, token=token, local=local)
    return TestClient(app, base_url=ADDRESS, follow_redirects=False)
