"""The routes that ask the model: search, what is like a video, moments, explanations."""

import time
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query, Request

from xclip_jax.index import query as index_query
from xclip_jax.web import clips, filters, lookups, schema
from xclip_jax.web.parameters import ID, Where, errors, filtered
from xclip_jax.web.refusals import Refused, busy
from xclip_jax.web.serving import Serving

UPLOADS = {"/api/search/video"}
UPLOADS_AT_ONCE = 4
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


def add(app: FastAPI, serving: Serving) -> None:
    """Adds them."""
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
        try:
            hits = await filtered(where, serving.model(answers.search, asked, **options))
        finally:
            answers.forget(asked)
        return _results(asked, hits, start)

    @app.post("/api/search/video", openapi_extra=UPLOAD, responses=errors(415))
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
        hits = await filtered(where, serving.model(answers.like_clip, frames, k=k, where=where))
        return _results(name, hits, start)

    @app.get("/api/videos/{id}/like", responses=errors(404))
    async def like(id: ID, k: count = 24, where: Where = None) -> schema.Results:
        """The videos most like one of the index, which is not among them."""
        start, where = time.perf_counter(), filters.checked(where)
        [video, *_] = await serving.lookups(rows.of, id)
        hits = await filtered(where, serving.model(answers.like, id, k=k, where=where))
        return _results(video.name, hits, start)

    @app.get("/api/videos/{id}/moments", responses=errors(404, 409))
    async def moments(id: ID, q: text, k: count = 5) -> schema.Moments:
        """The parts of a video that match a text best."""
        asked = _text(q)
        [video, *_] = await serving.lookups(rows.of, id)
        spans = await serving.model(answers.spans, id, asked, k=k)
        found = [schema.Moment(**span._asdict()) for span in spans]
        return schema.Moments(query=asked, duration=video.duration, moments=found)

    @app.get("/api/videos/{id}/explain", responses=errors(404))
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


def _text(asked: str) -> str:
    text = " ".join(asked.split())
    if not text:
        raise Refused(422, "q is empty: give what to look for.")
    return text


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
