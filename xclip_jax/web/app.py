"""The JSON API over an index, and the page on top of it."""

import time
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Header, Query, Request
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles

from xclip_jax.index import query as index_query
from xclip_jax.version import __version__
from xclip_jax.web import clips, files, filters, lookups, pictures, playing, refusals, schema
from xclip_jax.web.refusals import Refused, busy
from xclip_jax.web.serving import Serving

PAGE = Path(__file__).parent / "page"
UPLOADS = {"/api/search/video"}
UPLOADS_AT_ONCE = 4
COMMON = (400, 401, 403, 408, 413, 422, 429, 503)  # which any request may get
ID = Annotated[str, PathParameter(pattern="^[0-9a-f]{64}$", description="sha256 of the content")]
JPEG = {200: {"content": {"image/jpeg": {}}, "description": "a JPEG picture"}}
FILE = {
    200: {"content": {"video/*": {}}, "description": "the whole file"},
    206: {"content": {"video/*": {}}, "description": "the part that was asked for"},
}
Where = Annotated[
    str | None,
    Query(
        max_length=filters.LETTERS,
        description="only videos of which this is true: SQL over size, duration and metadata, such"
        " as json_get_int(metadata, 'year') > 2000 AND duration < 60",
    ),
]
UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["video"],
                    "properties": {"video": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


def make(serving: Serving) -> FastAPI:
    """Returns the application, without the guards that stand before it."""
    app = FastAPI(
        title="xclip-jax",
        version=__version__,
        description="Search a collection of videos by text, by a video, and within a video.",
        docs_url=None,
        redoc_url=None,
        responses=_errors(*COMMON),
    )
    refusals.add(app)
    _search(app, serving)
    _videos(app, serving)
    _media(app, serving)
    _page(app)
    return app


def _errors(*statuses: int) -> dict:
    return {status: {"model": schema.Error} for status in statuses}


def _search(app: FastAPI, serving: Serving) -> None:
    limits, answers, rows = serving.limits, serving.answers, serving.rows
    text = Annotated[
        str,
        Query(min_length=1, max_length=limits.query_characters, description="what to look for"),
    ]
    count = Annotated[int, Query(ge=1, le=limits.results, description="how many answers")]

    @app.get("/api/index")
    async def index() -> schema.IndexFacts:
        """What is searched, and by which model."""
        facts = serving.rows.index.facts
        return schema.IndexFacts(
            videos=await serving.lookups(rows.count),
            model=facts["of"],
            fingerprint=facts["model"],
            moments=bool(facts["moment_frames"]),
            scores=answers.parts,
            limits=schema.Bounds(**{k: getattr(limits, k) for k in schema.Bounds.model_fields}),
        )

    @app.get("/api/search")
    async def search(
        q: text,
        k: count = 24,
        where: Where = None,
        exact: Annotated[bool, Query(description="score all videos, not candidates")] = False,
    ) -> schema.Results:
        """The videos that match a text best."""
        start = time.perf_counter()
        asked, where = _text(q), filters.checked(where)
        if exact and await serving.lookups(rows.count) > limits.exact_videos:
            raise Refused(422, f"exact: for {limits.exact_videos:,} videos at most.")
        answers.expect(asked)
        options = {"k": k, "where": where, "exact": exact}
        hits = await _filtered(where, serving.model(answers.search, asked, **options))
        return _results(asked, hits, start)

    @app.post("/api/search/video", openapi_extra=UPLOAD, responses=_errors(415))
    async def search_by_video(
        request: Request, k: count = 24, where: Where = None
    ) -> schema.Results:
        """The videos most like an uploaded clip, by the cosine of whole videos."""
        start, where = time.perf_counter(), filters.checked(where)
        if serving.uploads >= UPLOADS_AT_ONCE:
            raise busy(f"{serving.uploads} clips are being uploaded: try again in a moment.")
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise Refused(415, "expected multipart/form-data with the clip in the field 'video'.")
        serving.uploads += 1
        try:
            async with request.form(max_files=1, max_fields=4) as form:
                clip = form.get("video")
                if clip is None or isinstance(clip, str):
                    raise Refused(422, "the field 'video' is missing, or is no file.")
                frames = await serving.decoding(clips.decoded, serving.decoder, clip.file)
                name = Path(clip.filename or "clip").name
        except OSError as error:
            raise busy(f"the clip cannot be kept: {error.strerror}.", 60) from None
        finally:
            serving.uploads -= 1
        hits = await _filtered(where, serving.model(answers.like_clip, frames, k=k, where=where))
        return _results(name, hits, start)

    @app.get("/api/videos/{id}/like", responses=_errors(404))
    async def like(id: ID, k: count = 24, where: Where = None) -> schema.Results:
        """The videos most like one of the index, which is not among them."""
        start, where = time.perf_counter(), filters.checked(where)
        [video, *_] = await serving.lookups(rows.of, id)
        hits = await _filtered(where, serving.model(answers.like, id, k=k, where=where))
        return _results(video.name, hits, start)

    @app.get("/api/videos/{id}/moments", responses=_errors(404, 409))
    async def moments(id: ID, q: text, k: count = 5) -> schema.Moments:
        """The parts of a video that match a text best."""
        asked = _text(q)
        [video, *_] = await serving.lookups(rows.of, id)
        spans = await serving.model(answers.spans, id, asked, k=k)
        found = [schema.Moment(**span._asdict()) for span in spans]
        return schema.Moments(query=asked, duration=video.duration, moments=found)

    @app.get("/api/videos/{id}/explain", responses=_errors(404))
    async def explain(id: ID, q: text) -> schema.Why:
        """Why a video has its score for a text: its parts, and words x frames."""
        asked = _text(q)
        why = await serving.model(answers.why, id, asked)
        found = why.found
        return schema.Why(
            query=asked,
            score=found.score,
            scale=found.scale,
            parts=found.points(),
            words=why.words,
            times=why.times,
            similarities=why.similarities,
            attention=why.attention,
            absent=found.absent,
        )


def _videos(app: FastAPI, serving: Serving) -> None:
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
        found, total = await _filtered(where, asked)
        listed = [schema.VideoRow(id=video.sha256, **_shown(video)) for video in found]
        return schema.VideoPage(total=total, offset=offset, videos=listed)

    @app.get("/api/videos/{id}", responses=_errors(404))
    async def video(id: ID) -> schema.VideoDetails:
        """One video."""
        found = await serving.lookups(rows.of, id)
        playable = await serving.drawing(playing.playable, found)
        return schema.VideoDetails(
            id=id, **_shown(found[0]), times=found[0].times, playable=playable
        )


def _media(app: FastAPI, serving: Serving) -> None:
    rows, limits = serving.rows, serving.limits

    answered = FILE | _errors(404, 410, 416)

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

    @app.get("/api/videos/{id}/frame", response_class=Response, responses=JPEG | _errors(404, 410))
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

    @app.get(
        "/api/videos/{id}/preview", response_class=Response, responses=JPEG | _errors(404, 410)
    )
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


def _page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page():
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/static", StaticFiles(directory=PAGE))


def _text(asked: str) -> str:
    text = " ".join(asked.split())
    if not text:
        raise Refused(422, "q is empty: give what to look for.")
    return text


async def _filtered(where: str | None, answering):
    """Returns what is awaited; what the index says of a filter is refused in its words."""
    try:
        return await answering
    except ValueError as error:
        if not where:
            raise
        raise Refused(422, str(error).replace("--where", "where", 1)) from None


def _shown(video) -> dict:
    return {"name": video.name, "duration": video.duration, "metadata": video.metadata}


def _results(asked: str, hits: list[index_query.Hit], start: float) -> schema.Results:
    found = [
        schema.Result(
            rank=rank,
            id=hit.sha256,
            name=lookups.name_of(hit.path),
            score=hit.score,
            duration=hit.duration,
            metadata=hit.metadata,
        )
        for rank, hit in enumerate(hits, 1)
    ]
    took = round(1000 * (time.perf_counter() - start), 1)
    return schema.Results(query=asked, milliseconds=took, results=found)
