"""What tells the features of one model from those of any other."""

import hashlib
import json

import jax
import numpy as np

from xclip_jax.workdir import Trained


def of(trained: Trained) -> str:
    """Returns a hash of a model's weights and of the policy by which it is given frames."""
    digest = hashlib.sha256(json.dumps(trained.frame_policy, sort_keys=True).encode())
    for leaf in jax.tree.leaves(trained.params):
        digest.update(np.ascontiguousarray(leaf).view(np.uint8))
    return digest.hexdigest()


def words(trained: Trained) -> str:
    """Returns which model it is, for people."""
    model = trained.config.model
    return f"{model.name} ({model.arch}), step {trained.step}"
