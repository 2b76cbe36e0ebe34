"""Saving and restoring the train state, a nested dict of arrays, with Orbax.

A checkpoint at step s means s updates done and batch s next. It is written under a temporary name
and renamed when whole, so a killed run never leaves half of one behind.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

BEST = "t2v/r1"
WRITTEN_AT_ONCE = 2**28  # bytes, beside the parameters themselves


def open_folder(workdir: Path | str, *, keep: int) -> ocp.training.Checkpointer:
    """Returns the checkpointer of `workdir`; it keeps the latest `keep` and the best by t2v/r1."""
    policies = ocp.training.preservation_policies
    return ocp.training.Checkpointer(
        _folder(workdir),
        preservation_policy=policies.AnyPreservationPolicy(
            [
                policies.LatestN(keep),
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[BEST],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        ),
        cleanup_tmp_directories=True,
    )


def save(
    checkpointer: ocp.training.Checkpointer, state: dict, *, metrics: Mapping[str, float] | None
) -> None:
    """Saves `state` in the background under its step, which must not have been saved before."""
    checkpointer.save_async(
        int(state["step"]), state, metrics=dict(metrics) if metrics else None, force=True
    )


def save_weights(workdir: Path | str, params: dict) -> None:
    """Saves NumPy parameters as step 0 of a run that was not trained here, without copying them.

    Raises ValueError where the folder holds a checkpoint already.
    """
    context = ocp.Context()
    context.memory.deepcopy_host_arrays = False  # nothing changes them while they are written
    context.memory.write_concurrent_bytes = WRITTEN_AT_ONCE
    context.array.saving.use_compression = False  # it takes most of the time for a tenth
    with context, open_folder(workdir, keep=1) as checkpointer:
        if checkpointer.latest is not None:
            raise ValueError(f"{workdir} holds a run already: choose another --out.")
        save(checkpointer, {"params": params, "step": np.zeros((), np.int32)}, metrics=None)


def restore(
    checkpointer: ocp.training.Checkpointer, abstract: dict, step: int | None = None
) -> dict | None:
    """Returns the state of a step, by default the latest, laid out as `abstract` says, or None
    where there is none.

    Raises ValueError where it lacks a part, as converted weights lack the optimizer's.
    """
    if checkpointer.latest is None:
        return None
    step = checkpointer.latest.step if step is None else step
    if lacking := set(abstract) - set(checkpointer.metadata(step).metadata):
        raise ValueError(
            f"the run's checkpoint has no {', '.join(sorted(lacking))}: converted weights can be"
            " evaluated and searched with, not trained on; choose another --workdir."
        )
    return checkpointer.load(step, abstract)


def best_step(checkpointer: ocp.training.Checkpointer) -> int | None:
    """Returns the step with the best t2v/r1 of those that were evaluated, None where none was.

    parity: the later one wins a tie, as the references' >= has it.
    """
    checkpointer.wait()
    rated = [
        (checkpoint.metrics[BEST], checkpoint.step)
        for checkpoint in checkpointer.checkpoints
        if checkpoint.metrics
    ]
    return max(rated)[1] if rated else None


def load_params(workdir: Path | str, which: str = "last") -> tuple[dict, int]:
    """Returns the parameters of a run's checkpoint on one device, and its step.

    Args:
      which: "last", "best" (by t2v/r1 as evaluated while training) or a step number.
    """
    folder = _folder(workdir)
    if not folder.is_dir():
        raise FileNotFoundError(f"{workdir} holds no checkpoints: expected the folder {folder}.")
    with ocp.training.Checkpointer(folder) as checkpointer:
        found = {checkpoint.step for checkpoint in checkpointer.checkpoints}
        if not found:
            raise FileNotFoundError(f"{folder} holds no finished checkpoint yet.")
        if which == "last":
            step = max(found)
        elif which == "best":
            step = best_step(checkpointer)
            if step is None:
                raise ValueError(f"no checkpoint in {folder} was evaluated: choose 'last'.")
        elif which.isdigit() and int(which) in found:
            step = int(which)
        else:
            raise ValueError(
                f"checkpoint {which!r} is not in {folder}: choose last, best or one of"
                f" {sorted(found)}."
            )
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        metadata = checkpointer.metadata(step).metadata
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), metadata
        )
        return checkpointer.load(step, abstract)["params"], step


def _folder(workdir: Path | str) -> Path:
    return Path(workdir).absolute() / "checkpoints"
