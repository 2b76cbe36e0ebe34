"""The frames of an open video stream: all of them, or a few without most of those between.

About half of the frames of a usual H.264 file are needed by no other (nal_ref_idc 0). Unless they
are wanted themselves, their packets need not be decoded, and all others come out the same bit for
bit. Which frame a packet holds is known beforehand only in files of regular tables: an MP4 whose
packets are as many as its header says, each with a time of its own. There ffmpeg also knows from
the start how far frames are reordered, hence gives every one. Whatever is found to be otherwise,
on the way too, is `Irregular`, and such a file has to be decoded whole.
"""

import bisect
import heapq
from collections.abc import Iterable, Iterator

import av
from av.container import InputContainer

TimedFrames = Iterator[tuple[int, av.VideoFrame, float]]
# NAL unit types of H.264 (table 7-1): a picture's slices, and what tells of no other picture.
SLICE = 1
INFORMATION, DELIMITER, FILLER = 6, 9, 12


class Irregular(Exception):
    """A stream whose frames cannot be told by their packets."""


def every(container: InputContainer, stream: av.VideoStream) -> TimedFrames:
    """Yields all frames that can be decoded, numbered, and the time of each from the first.

    Damaged packets are passed over.
    """
    first_time = None
    for i, frame in enumerate(_decoded(container, stream)):
        time = frame.time if frame.time is not None else i / float(stream.guessed_rate or 1)
        first_time = time if first_time is None else first_time
        yield i, frame, time - first_time


def may_be_regular(container: InputContainer, stream: av.VideoStream) -> bool:
    """Returns whether `some` is worth trying, by the headers alone."""
    codec = stream.codec_context
    header = codec.extradata or b""  # avcC: version 1, and lengths of four bytes before NAL units
    counted = "mp4" in container.format.name.split(",") and stream.frames > 0
    lengths = len(header) > 4 and header[0] == 1 and header[4] & 3 == 3
    return counted and codec.name == "h264" and codec.has_b_frames and lengths


def some(container: InputContainer, stream: av.VideoStream, indices: Iterable[int]) -> TimedFrames:
    """Yields what `every` does: the first frame, those of `indices`, and those they refer to.

    It raises where the stream is no longer regular; all that came before is as from `every`. Of a
    packet left out only the outside is looked at: if damage within it would have cost `every` that
    frame, the later ones keep their own numbers here.
    """
    sent = []  # the times of packets whose frames have not come out
    times, first_decoded = _times(container, stream)
    ordered = sorted(times)
    wanted = {ordered[i] for i in (0, *indices) if i < len(ordered)}
    first_time, codec = None, stream.codec_context
    size = codec.width, codec.height
    # Where `every` would get a frame with its errors concealed, whole or not: let them be seen.
    codec.options = {**codec.options, "err_detect": "explode"}
    container.seek(first_decoded, stream=stream)
    for i, packet in enumerate(container.demux(stream)):
        if packet.size:
            if i >= len(times) or packet.pts != times[i]:
                raise Irregular("the packets are others than before")
            if packet.pts not in wanted and _is_needed_by_none(packet):
                continue
            heapq.heappush(sent, packet.pts)
        for frame in packet.decode():
            if not sent or frame.pts != heapq.heappop(sent) or frame.is_corrupt:
                raise Irregular("a frame is missing, damaged or not in its place")
            if (frame.width, frame.height) != size:
                raise Irregular("the frames change their size")
            first_time = frame.time if first_time is None else first_time
            yield bisect.bisect_left(ordered, frame.pts), frame, frame.time - first_time
    if sent:
        raise Irregular("frames are missing at the end")


def _decoded(container: InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            decoded = packet.decode()  # the last packet is empty and flushes the decoder
        except av.error.EOFError:
            return
        except av.FFmpegError:
            continue
        yield from decoded


def _times(container: InputContainer, stream: av.VideoStream) -> tuple[list[int], int]:
    """Returns when the frame of each packet is shown, and when the first one is decoded."""
    times, first_decoded = [], None
    for packet in container.demux(stream):
        if packet.size:
            if packet.is_discard or packet.is_corrupt or packet.has_sidedata("new_extradata"):
                raise Irregular("an edit list, damage or a second header")
            if packet.pts is None or packet.dts is None or len(times) >= stream.frames:
                raise Irregular("packets without times, or more than the header says")
            if not times:
                first_decoded = packet.dts
                if not packet.is_keyframe:
                    raise Irregular("no keyframe at the start")
            times.append(packet.pts)
    if len(times) != stream.frames or len(set(times)) != len(times) or min(times) != times[0]:
        raise Irregular("packets are missing, share a time or are shown before the first")
    return times, first_decoded


def _is_needed_by_none(packet: av.Packet) -> bool:
    """Returns whether a packet is one whole picture to which no other refers."""
    data, at, pictures = memoryview(packet), 0, 0
    while at + 6 <= len(data):
        header, start = data[at + 4], data[at + 5]
        if header == SLICE:  # with a nal_ref_idc of 0 in the bits above
            pictures += start >> 7  # a first_mb_in_slice of 0 is one bit, set
        elif header not in (INFORMATION, DELIMITER, FILLER):
            return False
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    return pictures == 1 and at == len(data)
