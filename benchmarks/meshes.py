"""Plans a tiny step on TPU topologies with every divisor of their devices as `fsdp`.

`python benchmarks/meshes.py v6e:4x4 tpu7x:2x2x2` prints a line for each: compiled, or the one line
in which it is refused. It exits with 1 where anything else came out, a traceback say.
"""

import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path

from xclip_jax import cli
from xclip_jax.plan import topology

TOPOLOGIES = [
    *("v4:2x2x2", "v5e:4x4", "v5e:8x8", "v5p:2x2x2", "v5p:4x4x4", "v6e:4x4", "v6e:8x8"),
    *("v5e:4x4:2", "tpu7x:2x2x2"),
]
TINY = [  # wide enough for `sharding.MIN_SHARDED`, so that there is something to share
    *("--config", "shapes", "--config.model.embed_dim=64", "--config.model.vocab_size=300"),
    *("--config.model.vision_width=256", "--config.model.vision_layers=1"),
    *("--config.model.text_width=256", "--config.model.text_layers=1"),
    *("--config.model.temporal_layers=1", "--config.model.image_size=32"),
    *("--config.data.max_words=7", "--config.data.max_frames=3"),
]


def verdict(name: str, devices: int, fsdp: int, folder: str) -> tuple[str, bool]:
    """Returns what `xclip-jax plan` says of an `fsdp`, and whether that is one of the two."""
    file, refused = Path(folder, "plan.json"), io.StringIO()
    words = ["plan", *TINY, "--topology", name, "--batch-size", str(devices), "--sweep"]
    words += [f"--config.fsdp={fsdp}", "--plot", f"{folder}/plan.png", "--json", str(file)]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(refused):
            cli.main(words)
    except SystemExit:
        return refused.getvalue().strip(), refused.getvalue().count("\n") == 1
    [facts] = json.loads(file.read_text())
    if "problem" in facts:
        return f"refused: {facts['problem']}", "\n" not in facts["problem"]
    sent = sum(one["sent"] for one in facts["step"]["collectives"] if "fsdp" in one["axes"])
    return f"compiled; {sent / 1e6:.2f} MB sent over fsdp", bool(facts["step"]["fits"])


def main(names: list[str]) -> None:
    names, sound = names or TOPOLOGIES, True
    topology.prepare(names)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            devices = len(topology.get(name).devices)
            for fsdp in (size for size in range(1, devices + 1) if devices % size == 0):
                start = time.perf_counter()
                said, fine = verdict(name, devices, fsdp, folder)
                sound &= fine
                taken = time.perf_counter() - start
                print(f"{name:12} fsdp={fsdp:<3} {taken:5.1f} s  {said}", flush=True)
    sys.exit(not sound)


if __name__ == "__main__":
    main(sys.argv[1:])
