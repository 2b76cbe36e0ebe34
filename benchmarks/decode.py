"""How fast video files become frames, on one core: JSON lines.

python benchmarks/decode.py [--videos FOLDER] [--seconds 20]

Without a folder it renders clips of its own: a texture that drifts, in the sizes and codecs of the
usual data sets. `decoded` counts the frames that had to be decoded, `sampled` those that were kept,
resized and encoded as JPEG, which is the whole of a build's first stage.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from xclip_jax import frames, video

# name, codec, width, height, frames a second
CLIPS = [
    ("h264 320x240", "libx264", 320, 240, 30),
    ("h264 1280x720", "libx264", 1280, 720, 25),
    ("mpeg4 320x240", "mpeg4", 320, 240, 25),
    ("vp9 640x360", "libvpx-vp9", 640, 360, 25),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, help="a folder of clips, instead of rendered ones")
    parser.add_argument("--seconds", type=float, default=5, help="time to spend on each kind")
    args = parser.parse_args()
    if args.videos:
        paths = sorted(path for path in args.videos.rglob("*") if path.is_file())
        report(str(args.videos.name), paths, args.seconds)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, codec, width, height, fps in CLIPS:
            path = Path(folder) / f"{codec}{width}.mkv"
            render(path, codec, width, height, fps)
            report(name, [path], args.seconds)


def render(path: Path, codec: str, width: int, height: int, fps: int, seconds: int = 6) -> None:
    """Writes a clip of blocks that drift under a grain, a little harder to decode than a scene."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8 + 9, width // 8 + 9, 3), np.uint8)
    scene = coarse.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(seconds * fps):
            at = i % 64
            pixels = scene[at : at + height, at // 2 : at // 2 + width]
            pixels = pixels // 2 + rng.integers(0, 8, pixels.shape, np.uint8)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def report(name: str, paths: list[Path], seconds: float) -> None:
    """Decodes the files, again and again until the time is up, and prints the rates."""
    decoded = sampled = skipped = 0
    start, cpu = time.perf_counter(), time.process_time()
    while True:
        for path in paths:
            try:
                plan = video.plan(path)
                kept = [
                    frames.encode_jpeg(frames.resize_short_side(image, 224))
                    for image, _ in video.decode(path, plan)
                ]
                sampled += len(kept)
                decoded += int(plan[len(kept) - 1]) + 1
            except video.VideoError:
                skipped += 1
        elapsed = time.perf_counter() - start
        if elapsed > seconds:
            break
    used = time.process_time() - cpu
    line = {
        "benchmark": "decode",
        "clips": name,
        "decoded_per_second": round(decoded / elapsed, 1),
        "decoded_per_cpu_second": round(decoded / used, 1),
        "sampled_per_cpu_second": round(sampled / used, 1),
        "skipped": skipped,
        "seconds": round(elapsed, 2),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
