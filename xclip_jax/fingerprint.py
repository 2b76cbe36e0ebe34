"""What tells the features of one model from those of any other."""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np

from xclip_jax import remote
from xclip_jax.workdir import Trained


def of(trained: Trained) -> str:
    """Returns a hash of a model's weights and of the policy by which it is given frames."""
    digest = hashlib.sha256(json.dumps(trained.frame_policy, sort_keys=True).encode())
    for leaf in jax.tree.leaves(trained.params):
        digest.update(np.ascontiguousarray(leaf).view(np.uint8))
    return digest.hexdigest()


def stamp(run: str | Path, step: int) -> str | None:
    """Returns a hash of the names, sizes and times of a checkpoint's files, None in a bucket.

    While it stays, so does what `of` returns, which takes reading all weights.
    """
    if remote.is_remote(run):
        return None
    folder = Path(run) / "checkpoints" / str(step)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    told = [[str(path.relative_to(folder)), *remote.version(path)] for path in files]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def words(trained: Trained) -> str:
    """Returns which model it is, for people."""
    model = trained.config.model
    return f"{model.name} ({model.arch}), step {trained.step}"
