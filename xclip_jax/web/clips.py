"""Uploaded clips: decoded in a process of its own, which is ended where it takes too long.

Files come from strangers, and a small one can ask for hours of decoding or much memory. A thread
cannot be stopped; a process can, and takes nothing else down where a decoder crashes.
"""

import multiprocessing
import shutil
import signal
import tempfile
from pathlib import Path
from typing import BinaryIO

from xclip_jax import sampling, video
from xclip_jax.input import Intake
from xclip_jax.web.refusals import Refused

MEMORY = 4 * 2**30  # bytes that the process may have for data
START_SECONDS = 60.0  # until it is there


class Decoder:
    """The process, started when it is first needed; for one thread."""

    def __init__(self, intake: Intake, policy: dict, *, longest: float, seconds: float):
        self.settings = intake, policy, longest
        self.longest, self.seconds = longest, seconds
        self._process = self._pipe = None

    def start(self) -> None:
        """Starts the process and waits until it is ready."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, *self.settings), name="xclip-jax-decoder", daemon=True
        )
        self._process.start()
        theirs.close()
        if not self._pipe.poll(START_SECONDS) or self._pipe.recv() != "ready":
            self.close()
            raise RuntimeError("the process that decodes uploaded clips did not start")

    def __call__(self, file: BinaryIO) -> sampling.Sampled:
        """Returns the frames that the model takes of a clip; raises Refused."""
        if self._process is None or not self._process.is_alive():
            self.start()
        with tempfile.NamedTemporaryFile(prefix="xclip_jax_") as copy:
            shutil.copyfileobj(file, copy, 2**20)
            copy.flush()
            self._pipe.send(copy.name)
            try:
                if not self._pipe.poll(self.seconds):
                    self.close()
                    raise Refused(422, f"the clip took more than {self.seconds:g} s to decode.")
                found = self._pipe.recv()
            except EOFError:
                self.close()
                raise Refused(415, "the clip cannot be decoded within the memory for it.") from None
        if isinstance(found, sampling.Sampled):
            return found
        raise Refused(*found)

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _work(pipe, intake: Intake, policy: dict, longest: float) -> None:
    """Answers each path with frames, or with the status and the line of a refusal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server ends it
    _bound_memory()
    pipe.send("ready")
    while True:
        try:
            path = pipe.recv()
        except EOFError:
            return
        pipe.send(_sampled(Path(path), intake, policy, longest))


def _sampled(
    path: Path, intake: Intake, policy: dict, longest: float
) -> sampling.Sampled | tuple[int, str]:
    try:
        frames, fps = video.probe(path)
        if frames / fps > longest:
            return 422, f"the clip lasts {frames / fps:.0f} s: {longest:g} s at most."
        return sampling.from_file(path, intake, policy, most=None)
    except video.VideoError as error:
        _, reason, detail = error.args
        said = f"{reason} ({detail})" if detail else reason
        return 415, f"the upload is no video that can be read: {said}."
    except MemoryError:
        return 415, "the clip cannot be decoded within the memory for it."


def _bound_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
