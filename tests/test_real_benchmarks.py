"""The real clips built as what they are: official ids and captions, and the references' frames."""

import io
import json
import math

import av
import numpy as np
import pytest
from PIL import Image

from xclip_jax import video
from xclip_jax.data import catalog
from xclip_jax.data.build import build_benchmark
from xclip_jax.records import Shards

CLIPS = {"msrvtt": 1, "msvd": 13, "activitynet": 2}


@pytest.fixture(scope="module", params=CLIPS)
def built(request, shared, tmp_path_factory):
    """Returns a benchmark, the real clips of it by id, and its shards by split."""
    (annotations,) = (shared / "data/annotations").glob(f"{request.param}-*")
    benchmark = catalog.read(request.param, annotations)
    out = tmp_path_factory.mktemp(request.param)
    manifest = build_benchmark(benchmark, shared / "data/videos", out, allow_missing=True)
    paths = catalog.find(benchmark, shared / "data/videos")
    return benchmark, paths, {split: Shards(out, split) for split in manifest["splits"]}


def sampled(path, end) -> list[Image.Image]:
    """Returns the frames of SPEC 10.2 at one a second, by going through the file frame by frame."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        count, rate = stream.frames, int(stream.average_rate)
        last = min(math.inf if end is None else math.ceil(end), -(-count // rate))
        return [
            frame.to_image()
            for i, frame in enumerate(container.decode(stream))
            if i % rate == 0 and i // rate <= last
        ]


def transformed(image: Image.Image) -> Image.Image:
    """Returns the image as SPEC 10.3 resizes it, written apart from `frames`."""
    short, long = sorted(image.size)
    if short == 224:
        return image
    longer = int(224 * long / short)
    size = (224, longer) if image.width < image.height else (longer, 224)
    return image.resize(size, Image.BICUBIC)


def test_every_split_has_the_clips_with_their_official_captions(built, shared):
    benchmark, paths, splits = built
    listed = json.loads((shared / "data/real_videos.json").read_text())
    known = {entry["video"].rpartition("/")[2]: entry["captions"] for entry in listed}

    records = {split: list(shards) for split, shards in splits.items()}

    assert len({record.video_id for split in records.values() for record in split}) == len(paths)
    assert len(paths) == CLIPS[benchmark.name]
    for split, found in records.items():
        for record in found:
            assert record.captions == benchmark.splits[split][record.video_id]
            if benchmark.name == "msvd":
                assert sorted(record.captions) == sorted(known[paths[record.video_id].name])


def test_frames_are_pillows_before_jpeg_and_within_its_error_after(built):
    benchmark, paths, splits = built
    stored = {record.video_id: record for shards in splits.values() for record in shards}

    for video_id, record in stored.items():
        start, end = benchmark.windows.get(video_id, (None, None))
        expected = [transformed(image) for image in sampled(paths[video_id], end)]
        before, _ = video.read(paths[video_id], start=start, end=end)
        after = [Image.open(io.BytesIO(jpeg)) for jpeg in record.frames]

        assert len(after) == len(before) == len(expected)
        for image, mine, jpeg in zip(expected, before, after, strict=True):
            np.testing.assert_array_equal(np.asarray(mine), np.asarray(image))
            # Of brightness; colour, at half resolution, errs by what the clip's colours do.
            error = np.asarray(jpeg.convert("L"), np.float32) - np.asarray(image.convert("L"))
            assert np.sqrt(np.mean(error**2)) < 3, video_id
