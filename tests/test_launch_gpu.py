"""The batch script of docs/launch_gpu.md, run with stand-ins for SLURM's commands."""

import os
import re
import subprocess
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[1] / "docs" / "launch_gpu.md"
SRUN = """#!/bin/sh
for word; do echo "$word" >>srun.log; done
[ "$TRAINING" != finishes ] || : >"finished"
[ "$TRAINING" = finishes ] || exit "$TRAINING"
"""


def submit(folder: Path, training: str, restarts: str) -> tuple[int, bool]:
    """Returns the exit code of the batch script, and whether it asked for another turn."""
    [script] = re.findall(r"^```bash\n(#!.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    (folder / "xclip.sbatch").write_text(script.replace("/shared/runs/msrvtt", str(folder)))
    for name, text in {"srun": SRUN, "scontrol": '#!/bin/sh\necho "$@" >requeued\n'}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "12", "SLURM_RESTART_COUNT": restarts}
    path = {"PATH": f"{folder}:{os.environ['PATH']}", "TRAINING": training}
    done = subprocess.run(["bash", "xclip.sbatch"], cwd=folder, env=path | slurm)
    requeued = folder / "requeued"
    assert not requeued.exists() or requeued.read_text() == "requeue 77\n"
    return done.returncode, requeued.exists()


@pytest.mark.parametrize(
    ("training", "restarts", "outcome"),
    [
        ("finishes", "0", (0, False)),
        ("0", "0", (0, True)),
        ("3", "19", (0, True)),
        ("3", "20", (3, False)),
        ("2", "0", (2, False)),
    ],
    ids=["finished", "stopped", "peer-lost", "too-often", "bad-settings"],
)
def test_the_batch_script_goes_back_into_the_queue_where_that_helps(
    tmp_path, training, restarts, outcome
):
    assert submit(tmp_path, training, restarts) == outcome
    words = (tmp_path / "srun.log").read_text().splitlines()
    assert words[:3] == ["xclip-jax", "train", "--distributed"]
    assert words[-2:] == ["--workdir", str(tmp_path)]
