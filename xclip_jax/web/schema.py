"""What the API answers, as OpenAPI describes it."""

from pydantic import BaseModel, Field


class Error(BaseModel):
    error: str = Field(description="what was given, what was expected, what to change")


class Bounds(BaseModel):
    upload_bytes: int
    upload_seconds: float
    query_characters: int
    results: int


class IndexFacts(BaseModel):
    videos: int
    model: str = Field(description="the model in words")
    fingerprint: str
    moments: bool = Field(description="whether moments can be asked for")
    scores: list[str] = Field(description="the granularities that a score is made of")
    limits: Bounds


class VideoRow(BaseModel):
    id: str = Field(description="sha256 of the file's content")
    name: str = Field(description="the file's name, without its folder")
    duration: float = Field(description="seconds")
    metadata: dict


class VideoDetails(VideoRow):
    times: list[float] = Field(description="seconds of the frames that the features are of")
    playable: bool = Field(description="whether browsers commonly play the file as it is")


class VideoPage(BaseModel):
    total: int
    offset: int
    videos: list[VideoRow]


class Result(VideoRow):
    rank: int
    score: float = Field(description="the model's; a cosine where a video was asked for")


class Results(BaseModel):
    query: str
    milliseconds: float = Field(description="in the server, waiting included")
    results: list[Result]


class Moment(BaseModel):
    start: float = Field(description="seconds from the first frame")
    end: float
    score: float


class Moments(BaseModel):
    query: str
    duration: float
    moments: list[Moment]


class Why(BaseModel):
    query: str
    score: float
    scale: float = Field(description="what the similarities are multiplied by")
    parts: dict[str, float] = Field(description="points of each granularity; they add up to score")
    words: list[str] = Field(description="the tokens of the text, padding left out")
    times: list[float] = Field(description="seconds of the frames, padding left out")
    similarities: list[list[float]] = Field(description="words x frames, before the scale")
    attention: list[list[float]] = Field(description="words x frames, the weight of each")
    absent: str = Field(description="what of this the model does not have")
