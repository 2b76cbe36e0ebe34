"""A server under load, and under hostile requests, as a JSON line.

python benchmarks/serve.py [--videos 10000] [--clients 50] [--seconds 60] [--texts 0]
python benchmarks/serve.py --hostile      # 1 GB uploads and the like, with the server's memory

The server is a process of its own, over the synthetic index of search.py and an X-CLIP of
ViT-B/32's size with random weights. Clients are coroutines of this process, each asking its next
question once it has the answer to the one before. With --texts N they draw from so many texts,
otherwise each text is new: the text tower runs for all of them.
"""

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WARM = 50  # questions by one client alone, of which the median is told
PIECE = bytes(2**20)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--texts", type=int, default=0, help="draw from so many texts")
    parser.add_argument("--hostile", action="store_true")
    parser.add_argument("--server", metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.server:
        server(args.videos, Path(args.server))
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--server", folder, "--videos", str(args.videos)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            port = int(process.stdout.readline().rpartition(":")[2].strip("/\n"))
            found = asyncio.run(hostile(port) if args.hostile else load(port, args))
            found |= memory(process.pid)
            process.terminate()
            found["server_stopped_with"] = process.wait(30)
        finally:
            process.kill()
    print(json.dumps({"benchmark": "serve", "videos": args.videos} | found))


def server(videos: int, folder: Path) -> None:
    """Serves the synthetic index; prints the address as the command does."""
    import jax
    import ml_collections
    import search

    from xclip_jax import evaluate, models
    from xclip_jax.input import Intake
    from xclip_jax.models.clip import ARCHS
    from xclip_jax.tokenizer import Tokenizer
    from xclip_jax.web import run
    from xclip_jax.web.limits import Limits

    def load():
        searcher, _ = search.make(videos, folder)
        sizes = ARCHS["vit_b32"] | {
            "max_words": search.WORDS,
            "max_frames": search.FRAMES,
            "temporal_layers": 4,
            "head": "seqTransf",
        }
        graphdef, _ = models.create("xclip", **sizes)
        trained = searcher.trained._replace(
            graphdef=graphdef,
            params=models.init(jax.random.key(0), "xclip", **sizes),
            config=ml_collections.ConfigDict(
                {"model": {"name": "xclip", "head": sizes["head"]}, "eval_batch_size": 64}
            ),
            intake=Intake(search.WORDS, search.FRAMES, sizes["image_size"], 2),
            tokenizer=Tokenizer([]),  # of single letters
            frame_policy={"name": "clip4clip_1fps", "short_side": 224},
        )
        return searcher._replace(trained=trained, encoders=evaluate.make_encoders(graphdef))

    with run.bound_socket("127.0.0.1", 0) as opened:
        run.serve(load, opened, Limits(), token=None)


async def load(port: int, args) -> dict:
    """Returns how one client, and then many, were answered."""
    numbers = itertools.count()
    rng = np.random.default_rng(0)

    def path() -> str:
        number = rng.integers(args.texts) if args.texts else next(numbers)
        return f"/api/search?k=24&q=a+man+cooks+dish+{number}"

    alone = []
    async with Client(port) as client:
        for _ in range(WARM):
            start = time.perf_counter()
            await client.ask(path())
            alone.append(1000 * (time.perf_counter() - start))
    took, statuses, errors = [], {}, []
    end = time.perf_counter() + args.seconds

    async def ask() -> None:
        async with Client(port) as client:
            while (start := time.perf_counter()) < end:
                try:
                    status, _ = await client.ask(path())
                except (OSError, EOFError, ValueError) as error:
                    errors.append(repr(error))
                    return
                took.append(time.perf_counter() - start)
                statuses[status] = statuses.get(status, 0) + 1

    begun = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(args.clients)))
    p50, p95, p99 = np.percentile(np.array(took) * 1000, [50, 95, 99])
    return {
        "clients": args.clients,
        "seconds": args.seconds,
        "texts": args.texts or "all new",
        "one_client_ms": {"p50": round(float(np.median(alone)), 1), "max": round(max(alone), 1)},
        "requests": len(took),
        "errors": len(errors) + sum(n for status, n in statuses.items() if status != 200),
        "statuses": statuses,
        "requests_a_second": round(len(took) / (time.perf_counter() - begun), 1),
        "ms": {"p50": round(p50, 1), "p95": round(p95, 1), "p99": round(p99, 1)},
    }


async def hostile(port: int) -> dict:
    """Returns the status of each kind of hostile request, and that the server answers after."""
    head = "Content-Type: multipart/form-data; boundary=x\r\n"
    part = b'--x\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'

    async def upload(declared: bool) -> int:
        size = 2**30
        length = f"Content-Length: {size}\r\n" if declared else "Transfer-Encoding: chunked\r\n"
        async with Client(port) as client:
            client.send("POST /api/search/video", head + length)
            pieces = itertools.chain([part], itertools.repeat(PIECE, size // len(PIECE)))
            for piece in pieces:
                chunk = piece if declared else b"%x\r\n%s\r\n" % (len(piece), piece)
                if client.reader.at_eof() or client.reader._buffer:  # it has answered
                    break
                try:
                    client.writer.write(chunk)
                    await client.writer.drain()
                except OSError:
                    break
            return (await client.answer())[0]

    async def get(path: str) -> int:
        async with Client(port) as client:
            return (await client.ask(path))[0]

    async def post(body: bytes) -> int:
        async with Client(port) as client:
            client.send("POST /api/search/video", head + f"Content-Length: {len(body)}\r\n")
            client.writer.write(body)
            return (await client.answer())[0]

    async def slow() -> int:
        async with Client(port) as client:
            client.send("POST /api/search/video", head + "Content-Length: 1000\r\n")
            client.writer.write(b"-")
            return (await client.answer())[0]

    zipped = part + b"PK\x03\x04" + bytes(10**6) + b"\r\n--x--\r\n"
    found = {
        "1 GB declared": await upload(True),
        "1 GB chunked": await upload(False),
        "8 of 1 GB at once": sorted(await asyncio.gather(*(upload(False) for _ in range(8)))),
        "zip named .mp4": await post(zipped),
        "malformed multipart": await post(b"not a form"),
        "slow sender": await slow(),
        "query of 60,000 letters": await get("/api/search?q=" + "a" * 60_000),
        "query of 100,000 letters": await get("/api/search?q=" + "a" * 100_000),
        "path traversal": await get("/api/videos/..%2f..%2f..%2fetc%2fpasswd/file"),
        "filter of 2 GB": await get("/api/search?q=a&where=length(repeat('a',2000000000))>1"),
    }
    return {"hostile": found, "afterwards": await get("/api/search?q=a")}


class Client:
    """One connection that is kept."""

    def __init__(self, port: int):
        self.port = port

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_) -> None:
        self.writer.close()

    def send(self, what: str, headers: str = "") -> None:
        """Sends the head of a request."""
        self.writer.write(f"{what} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())

    async def ask(self, path: str) -> tuple[int, bytes]:
        """Returns status and body of a GET."""
        self.send(f"GET {path}")
        return await self.answer()

    async def answer(self) -> tuple[int, bytes]:
        """Reads status and body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].partition("\r\n")[0])
        return int(head.split()[1]), await self.reader.readexactly(length)


def memory(process: int) -> dict:
    """Returns what the server and its processes hold, and the server held at most, in megabytes."""
    held = {}
    children = [
        int(place.name)
        for place in Path("/proc").glob("[0-9]*")
        if f"PPid:\t{process}\n" in _status(place)
    ]
    for name, number in (("server", process), *(("children", child) for child in children)):
        for line in _status(Path(f"/proc/{number}")).splitlines():
            if line.startswith(("VmRSS", "VmHWM")):
                key = f"{name}_{'mb' if line.startswith('VmRSS') else 'most_mb'}"
                held[key] = max(held.get(key, 0), int(line.split()[1]) // 1024)
    return held


def _status(place: Path) -> str:
    try:
        return (place / "status").read_text()
    except OSError:  # it has ended
        return ""


if __name__ == "__main__":
    main()
