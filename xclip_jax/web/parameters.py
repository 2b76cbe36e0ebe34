"""What the routes of the API have in common: their parameters, their errors, and their rows."""

from typing import Annotated

from fastapi import Path, Query

from xclip_jax.web import filters, schema
from xclip_jax.web.refusals import Refused

ID = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="sha256 of the content")]
Where = Annotated[
    str | None,
    Query(
        max_length=filters.LETTERS,
        description="only videos of which this is true: SQL over size, duration and metadata, such"
        " as json_get_int(metadata, 'year') > 2000 AND duration < 60",
    ),
]


def errors(*statuses: int) -> dict:
    """Returns how OpenAPI describes answers of these statuses."""
    return {status: {"model": schema.Error} for status in statuses}


async def filtered(where: str | None, answering):
    """Returns what is awaited; what the index says of a filter is refused in its words."""
    try:
        return await answering
    except ValueError as error:
        if not where:
            raise
        raise Refused(422, str(error).replace("--where", "where", 1)) from None


def shown(video) -> dict:
    """Returns what all rows tell of a video."""
    return {"name": video.name, "duration": video.duration, "metadata": video.metadata}
