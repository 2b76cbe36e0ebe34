"""The routes that show videos: lists, files, pictures, and copies that browsers play."""

from typing import Annotated

from fastapi import FastAPI, Header, Query, Request
from fastapi.responses import Response

from xclip_jax.web import files, filters, pictures, playing, schema
from xclip_jax.web.parameters import ID, Where, errors, filtered, shown
from xclip_jax.web.serving import Serving

JPEG = {200: {"content": {"image/jpeg": {}}, "description": "a JPEG picture"}}
FILE = {
    200: {"content": {"video/*": {}}, "description": "the whole file"},
    206: {"content": {"video/*": {}}, "description": "the part that was asked for"},
}


def add(app: FastAPI, serving: Serving) -> None:
    """Adds them."""
    _rows(app, serving)
    _media(app, serving)


def _rows(app: FastAPI, serving: Serving) -> None:
    rows = serving.rows

    @app.get("/api/videos")
    async def videos(
        offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
        limit: Annotated[int, Query(ge=1, le=serving.limits.results)] = 24,
        where: Where = None,
    ) -> schema.VideoPage:
        """The videos of the index, some at a time; `total` counts what the filter lets through."""
        where = filters.checked(where)
        asked = serving.lookups(rows.page, offset, limit, where=where)
        found, total = await filtered(where, asked)
        listed = [schema.VideoRow(id=video.sha256, **shown(video)) for video in found]
        return schema.VideoPage(total=total, offset=offset, videos=listed)

    @app.get("/api/videos/{id}", responses=errors(404))
    async def video(id: ID) -> schema.VideoDetails:
        """One video."""
        found = await serving.lookups(rows.of, id)
        playable = await serving.drawing(playing.playable, found)
        return schema.VideoDetails(
            id=id, **shown(found[0]), times=found[0].times, playable=playable
        )


def _media(app: FastAPI, serving: Serving) -> None:
    rows, limits = serving.rows, serving.limits

    answered = FILE | errors(404, 410, 416)

    @app.get("/api/videos/{id}/file", response_class=Response, responses=answered)
    async def file(
        request: Request,
        id: ID,
        range: Annotated[str | None, Header()] = None,
        if_range: Annotated[str | None, Header()] = None,
    ):
        """The file, or a part of it (Range), while it is the one that was indexed."""
        found = await serving.lookups(rows.of, id)
        return files.response(found, range, if_range, head=request.method == "HEAD")

    app.head("/api/videos/{id}/file", include_in_schema=False)(file)

    @app.get("/api/videos/{id}/play.mp4", response_class=Response, responses=answered)
    async def play(
        id: ID,
        range: Annotated[str | None, Header()] = None,
        if_range: Annotated[str | None, Header()] = None,
    ):
        """The video as H.264 in MP4, without sound, for those that browsers cannot play."""
        found = await serving.lookups(rows.of, id)
        copy = await serving.copying(serving.copies.of, found)
        return files.response([copy], range, if_range, head=False)

    @app.get("/api/videos/{id}/frame", response_class=Response, responses=JPEG | errors(404, 410))
    async def frame(
        id: ID,
        t: Annotated[float | None, Query(ge=0, le=10**7, description="seconds")] = None,
        height: Annotated[int, Query(ge=16, le=720)] = 180,
    ):
        """The frame shown at a second, or one from within where none is given."""
        found = await serving.lookups(rows.of, id)
        seconds = found[0].duration * pictures.POSTER if t is None else t

        def draw(path: str) -> bytes:
            return pictures.frame(path, seconds, height=height, allowed=limits.picture_seconds)

        return await _picture(serving, (id, seconds, height), found, draw)

    @app.get("/api/videos/{id}/preview", response_class=Response, responses=JPEG | errors(404, 410))
    async def preview(id: ID):
        """Ten frames side by side, from all over the video."""
        found = await serving.lookups(rows.of, id)

        def draw(path: str) -> bytes:
            return pictures.preview(path, found[0].duration, allowed=limits.picture_seconds)

        return await _picture(serving, (id, "preview"), found, draw)


async def _picture(serving: Serving, key: tuple, found: list, draw) -> Response:
    def made() -> bytes:
        return serving.pictures.of(key, lambda: draw(files.path_of(found)), len)

    jpeg = serving.pictures.get(key) or await serving.drawing(made)
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": files.FOREVER})
