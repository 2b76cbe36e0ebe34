"""Uploaded clips: the frames that the model takes of them."""

import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

from xclip_jax import sampling, video
from xclip_jax.input import Intake
from xclip_jax.web import apart
from xclip_jax.web.refusals import Refused


def decoded(decoder: apart.Apart, file: BinaryIO) -> sampling.Sampled:
    """Returns the frames of an uploaded file; raises Refused where there is none to be had.

    `decoder` runs `sampled`, apart.
    """
    with tempfile.NamedTemporaryFile(prefix="xclip_jax_") as copy:
        shutil.copyfileobj(file, copy, 2**20)
        copy.flush()
        try:
            found = decoder(copy.name)
        except apart.Late:
            raise Refused(
                422, f"the clip took more than {decoder.seconds:g} s to decode."
            ) from None
        except apart.Died:
            raise Refused(415, "the clip cannot be decoded within the memory for it.") from None
    if isinstance(found, sampling.Sampled):
        return found
    raise Refused(*found)


def sampled(
    path: str, intake: Intake, policy: dict, longest: float
) -> sampling.Sampled | tuple[int, str]:
    """Returns the frames of a clip, or the status and the line of a refusal."""
    try:
        frames, fps = video.probe(path)
        if frames / fps > longest:
            return 422, f"the clip lasts {frames / fps:.0f} s: {longest:g} s at most."
        return sampling.from_file(Path(path), intake, policy, most=None)
    except video.VideoError as error:
        _, reason, detail = error.args
        said = f"{reason} ({detail})" if detail else reason
        return 415, f"the upload is no video that can be read: {said}."
    except MemoryError:
        return 415, "the clip cannot be decoded within the memory for it."
