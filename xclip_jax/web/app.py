"""The application: the JSON API over an index, and the page on top of it."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from xclip_jax.version import __version__
from xclip_jax.web import parameters, refusals, searching, showing
from xclip_jax.web.serving import Serving

PAGE = Path(__file__).parent / "page"
COMMON = (400, 401, 403, 408, 413, 422, 429, 503)  # which any request may get


def make(serving: Serving) -> FastAPI:
    """Returns the application, without the guards that stand before it."""
    app = FastAPI(
        title="xclip-jax",
        version=__version__,
        description="Search a collection of videos by text, by a video, and within a video.",
        docs_url=None,
        redoc_url=None,
        responses=parameters.errors(*COMMON),
    )
    refusals.add(app)
    searching.add(app, serving)
    showing.add(app, serving)
    _page(app)
    return app


def _page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page():
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/static", StaticFiles(directory=PAGE))
