"""What one client, one request and all of them together may cost."""

from typing import NamedTuple


class Limits(NamedTuple):
    """Bounds of a server; sizes in bytes, times in seconds.

    Attributes:
        upload_bytes: of the body of a request with a clip.
        body_bytes: of the body of any other request.
        upload_seconds: how long an uploaded clip may last.
        query_characters: of a text to search by.
        results: videos an answer.
        exact_videos: how many an index may hold for all of them to be scored.
        idle_seconds: between two pieces of a request's body.
        body_seconds: until a request's body is there.
        header_seconds: until a request's headers are there.
        linger_seconds: in which the rest of a refused request is read, so that the refusal arrives.
        answer_seconds: until an answer by the model is there, waiting included.
        decode_seconds: for the frames of an uploaded clip.
        picture_seconds: for the frames of one picture.
        copied_seconds: how much of a video that browsers cannot play is copied for them, and
            `copy_seconds` how long that may take.
        waiting: how many requests may wait for the model, and how many for pictures.
        connections: open at a time.
        rate: requests a second from one address, None for any number.
    """

    upload_bytes: int = 200 * 2**20
    body_bytes: int = 2**16
    upload_seconds: float = 600.0
    query_characters: int = 1000
    results: int = 100
    exact_videos: int = 50_000
    idle_seconds: float = 10.0
    body_seconds: float = 120.0
    header_seconds: float = 10.0
    linger_seconds: float = 5.0
    answer_seconds: float = 30.0
    decode_seconds: float = 30.0
    picture_seconds: float = 8.0
    copied_seconds: float = 600.0
    copy_seconds: float = 60.0
    waiting: int = 128
    connections: int = 512
    rate: float | None = None
