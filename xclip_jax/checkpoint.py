"""Saving and restoring the train state, a nested dict of arrays, with Orbax.

A checkpoint at step s means s updates done and batch s next. It is written under a temporary name
and renamed when whole, so a killed run never leaves half of one behind. In a bucket, where nothing
can be renamed, it is whole when Orbax has written its last file.
"""

import contextlib
import functools
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from orbax.checkpoint import v1 as ocp

from xclip_jax import remote, retry, sharding
from xclip_jax.processes.distributed import first_line, lost_peer
from xclip_jax.runs import checkpoint_folder

BEST = "t2v/r1"
WRITTEN_AT_ONCE = 2**28  # bytes, beside the parameters themselves


def open_folder(workdir, *, keep: int, metric: str = BEST) -> ocp.training.Checkpointer:
    """Returns the checkpointer of `workdir`, which keeps the latest `keep` and the best.

    What a killed run has left half-written is removed.
    """
    policies = ocp.training.preservation_policies
    folder = checkpoint_folder.of(workdir)
    best = policies.BestN(
        get_metric_fn=lambda metrics: goodness(metrics, metric),
        n=1,
        keep_checkpoints_without_metrics=False,
    )
    with checkpoint_folder.reached(folder):
        _check_metrics(folder)
        checkpoint_folder.remove_half_written(folder)
        return ocp.training.Checkpointer(
            folder,
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            cleanup_tmp_directories=not remote.is_remote(folder),
        )


@contextlib.contextmanager
def closing(workdir, *, keep: int, metric: str) -> Iterator[ocp.training.Checkpointer]:
    """Yields the same and closes it at the end, when what is being saved is whole.

    One of several processes that has failed does not wait: the others do not save with it.
    """
    checkpointer = open_folder(workdir, keep=keep, metric=metric)
    try:
        yield checkpointer
    except BaseException:
        if jax.process_count() == 1:
            with contextlib.suppress(Exception):  # it would hide what went wrong first
                checkpointer.close()
        raise
    with _told(checkpointer):
        checkpointer.close()


def goodness(metrics: Mapping[str, float], metric: str) -> float:
    """Returns a metric so that more is better: ranks, of which less is better, come negative."""
    return -metrics[metric] if metric.endswith("_rank") else metrics[metric]


def save(
    checkpointer: ocp.training.Checkpointer, state: dict, *, metrics: Mapping[str, float] | None
) -> None:
    """Saves `state` in the background under its step, which must not have been saved before."""
    with _told(checkpointer):  # the one before, for which this waits, may have failed
        checkpointer.save_async(
            int(state["step"]), state, metrics=dict(metrics) if metrics else None, force=True
        )


def wait(checkpointer: ocp.training.Checkpointer) -> None:
    """Returns when what is being saved is whole."""
    with _told(checkpointer):
        checkpointer.wait()


@contextlib.contextmanager
def _told(checkpointer: ocp.training.Checkpointer) -> Iterator[None]:
    """Turns the many errors of a save that failed into one that says what is there."""
    try:
        yield
    except Exception as error:
        if jax.process_count() > 1 and lost_peer(error):
            raise
        last = _last_whole(checkpointer.directory)
        what = f"a checkpoint could not be saved ({first_line(error)}); {last}"
        if checkpoint_folder.refused(error):
            raise ValueError(f"{what}.") from error
        # What Orbax says then, "directory does not exist" say, need not be what went wrong first.
        if remote.is_remote(checkpointer.directory):
            raise retry.StorageUnavailable(what) from error
        raise ValueError(
            f"{what}. Where the disk is full make room, then run the same command again to go on"
            " from there."
        ) from error


def _last_whole(folder) -> str:
    """Returns which checkpoint is the last whole one, in words; Orbax counts what it has begun."""
    try:
        whole = checkpoint_folder.whole_steps(folder)
    except Exception:  # the bucket, say, that did not take the save
        return "which one is the last whole one cannot be told now"
    return f"the last whole one is of step {whole[-1]}" if whole else "there is no whole one yet"


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
    if lacking := set(abstract) - set(_described(checkpointer, step)):
        raise ValueError(
            f"the run's checkpoint has no {', '.join(sorted(lacking))}: converted weights can be"
            " evaluated and searched with, not trained on; choose another --workdir."
        )
    return _load(checkpointer, step, abstract)


def rate(checkpointer: ocp.training.Checkpointer, step: int, metrics: Mapping[str, float]) -> None:
    """Adds an evaluation's metrics to a checkpoint that was saved without, as Orbax writes them."""
    wait(checkpointer)
    file = checkpointer.directory / str(step) / "metrics" / "metrics"
    if jax.process_index() == 0 and remote.is_remote(file):
        with remote.written(remote.place(str(file))) as written:
            written.write_text(json.dumps(dict(metrics)))
    elif jax.process_index() == 0:
        partial = checkpointer.directory.parent / "rating.partial"  # there at once, and whole
        partial.mkdir(exist_ok=True)
        (partial / "metrics").write_text(json.dumps(dict(metrics)))
        partial.rename(file.parent)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("rated")
    checkpointer.reload()


def best_step(checkpointer: ocp.training.Checkpointer, metric: str = BEST) -> int | None:
    """Returns the step with the best `metric` of those that were evaluated, None where none was.

    parity: the later one wins a tie, as the references' >= has it.
    """
    wait(checkpointer)
    rated = [
        (goodness(checkpoint.metrics, metric), checkpoint.step)
        for checkpoint in checkpointer.checkpoints
        if checkpoint.metrics
    ]
    return max(rated)[1] if rated else None


def load_params(
    workdir,
    which: str = "last",
    *,
    metric: str = BEST,
    without: Collection[tuple] = (),
    mesh: Mesh | None = None,
) -> tuple[dict, int]:
    """Returns the parameters of a run's checkpoint, whole on every device, and its step.

    Args:
      which: "last", "best" (by `metric` as evaluated while training) or a step number.
      without: parts that are not read, as paths of names: `("clip", "visual")`. Their arrays are
        zeros that take no memory.
      mesh: of the devices; those of this process unless given.
    """
    folder = checkpoint_folder.of(workdir)
    if not remote.place(str(folder)).is_dir():
        raise FileNotFoundError(f"{workdir} holds no checkpoints: expected the folder {folder}.")
    context = ocp.Context()
    context.pytree.loading.partial_load = True  # the optimizer's state is twice as large
    with (
        checkpoint_folder.reached(folder),
        ocp.training.Checkpointer(folder, context=context) as checkpointer,
    ):
        found = {checkpoint.step for checkpoint in checkpointer.checkpoints}
        if not found:
            raise FileNotFoundError(f"{folder} holds no finished checkpoint yet.")
        if which == "last":
            step = max(found)
        elif which == "best":
            step = best_step(checkpointer, metric)
            if step is None:
                raise ValueError(f"no checkpoint in {folder} was evaluated: choose 'last'.")
        elif which.isdigit() and int(which) in found:
            step = int(which)
        else:
            raise ValueError(
                f"checkpoint {which!r} is not in {folder}: choose last, best or one of"
                f" {sorted(found)}."
            )
        whole = NamedSharding(sharding.local_mesh() if mesh is None else mesh, P())
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
            _described(checkpointer, step)["params"],
        )
        left_out = {path: _taken(abstract, path) for path in without}
        params = _load(checkpointer, step, {"params": abstract})["params"]
        for path, part in left_out.items():
            zeros = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), part)
            functools.reduce(dict.__getitem__, path[:-1], params)[path[-1]] = zeros
        return params, step


def _taken(tree: dict, path: tuple) -> dict:
    """Returns the part of a nested dict at `path`, which it has no more."""
    return functools.reduce(dict.__getitem__, path[:-1], tree).pop(path[-1])


def _check_metrics(folder) -> None:
    """Raises ValueError where a checkpoint's metrics, which Orbax reads at once, are damaged."""
    for file in folder.glob("*/metrics/metrics") if folder.is_dir() else ():
        try:
            json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(
                f"{file} is damaged ({error}): remove the folder {file.parent}, and the checkpoint"
                " counts as not evaluated."
            ) from None


def _described(checkpointer: ocp.training.Checkpointer, step: int) -> dict:
    """Returns names and shapes of a checkpoint's arrays."""
    try:
        found = checkpointer.metadata(step).metadata
    except Exception as error:  # Orbax and TensorStore have errors of many kinds
        raise _damaged(checkpointer, step, error) from error
    if found is None:
        raise _damaged(checkpointer, step, ValueError("its list of arrays cannot be read"))
    return found


def _load(checkpointer: ocp.training.Checkpointer, step: int, abstract: dict) -> dict:
    try:
        return checkpointer.load(step, abstract)
    except Exception as error:
        raise _damaged(checkpointer, step, error) from error


def _damaged(checkpointer: ocp.training.Checkpointer, step: int, error: Exception) -> Exception:
    """Returns what to say of a checkpoint that cannot be read; nothing is done about it unasked."""
    if jax.process_count() > 1 and lost_peer(error):
        return error
    if retry.is_storage(error):
        what = f"the checkpoint of step {step} could not be read ({first_line(error)})"
        return retry.StorageUnavailable(what)
    while cause := error.__cause__ or error.__context__:
        error = cause  # Orbax tells which of its readers failed, the innermost one why
    folder = checkpointer.directory / str(step)
    if checkpoint_folder.refused(error):
        return ValueError(f"{folder} may not be read: {first_line(error)}")
    others = [c.step for c in checkpointer.checkpoints if c.step != step]
    before = (
        f"to go on from step {max(others)} instead, remove that folder; also there:"
        f" {', '.join(map(str, others))}"
        if others
        else "there is no other checkpoint; without that folder the run starts anew"
    )
    return ValueError(
        f"the checkpoint of step {step} is damaged: {folder} cannot be read ({first_line(error)})."
        f" If you have a copy, put it there; {before}."
    )
