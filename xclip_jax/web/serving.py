"""What a running server holds: the answers, the threads they are made in, and what is kept."""

from collections.abc import Callable

from xclip_jax.index import query
from xclip_jax.web import clips
from xclip_jax.web.answers import Answers
from xclip_jax.web.apart import Apart
from xclip_jax.web.limits import Limits
from xclip_jax.web.lookups import Rows
from xclip_jax.web.playing import Copies
from xclip_jax.web.recent import Recent
from xclip_jax.web.work import Work

PICTURES = 64 * 2**20  # bytes of pictures that are kept


class Serving:
    """All of it.

    Attributes:
        rows: for what does not need the model.
        model: the one thread that calls JAX; `lookups`, those that read rows; `drawing`, those
            that decode pictures; `decoding`, the one that waits for the `decoder` of uploads;
            `copying`, the one that waits for `copies` of what browsers cannot play.
        uploads: how many are under way.
    """

    def __init__(self, searcher: query.Searcher, limits: Limits):
        self.limits, self.answers = limits, Answers(searcher)
        self.rows = Rows(searcher.index.place)
        waiting, seconds = limits.waiting, limits.answer_seconds
        self.model = Work("the model", threads=1, waiting=waiting, seconds=seconds)
        self.lookups = Work("the index", threads=2, waiting=4 * waiting, seconds=seconds)
        self.drawing = Work("pictures", threads=2, waiting=waiting, seconds=seconds)
        # One after the other: all that can wait is as long as each may take.
        seconds = 5 * limits.decode_seconds
        self.decoding = Work("uploaded clips", threads=1, waiting=8, seconds=seconds)
        self.decoder = Apart(
            clips.sampled,
            searcher.trained.intake,
            searcher.trained.frame_policy,
            limits.upload_seconds,
            seconds=limits.decode_seconds,
        )
        self.copying = Work("copies to play", threads=1, waiting=8, seconds=2 * limits.copy_seconds)
        self.copies = Copies(longest=limits.copied_seconds, seconds=limits.copy_seconds)
        self.pictures = Recent(PICTURES)
        self.uploads = 0

    def warm(self, say: Callable[[str], None]) -> None:
        """Makes ready all that a first request would wait for; `say` is told what is under way."""
        # In the threads that will do it again.
        started = self.decoding.pool.submit(self.decoder.start)
        self.model.pool.submit(self.answers.warm, say).result()
        started.result()

    def close(self) -> None:
        """Ends threads and processes."""
        for work in (self.model, self.lookups, self.drawing, self.decoding, self.copying):
            work.close()
        self.decoder.close()
        self.copies.close()
