"""Where checkpoints lie, on a disk or at gs://, which of them are whole, and what fails there.

On a disk Orbax renames a checkpoint when it is whole. In a bucket nothing can be renamed: there it
has its own name from the first file on, and is whole with the last, COMMITTED.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import utils
from orbax.checkpoint._src.serialization import tensorstore_utils

from xclip_jax import remote, retry

COMMITTED = "commit_success.txt"


def of(workdir) -> epath.Path | Path:
    """Returns the folder of checkpoints as Orbax takes it.

    Raises ValueError where Orbax cannot save.
    """
    if not remote.is_remote(workdir):
        return Path(workdir).absolute() / "checkpoints"
    if not str(workdir).startswith("gs://"):
        raise ValueError(
            f"{workdir}: Orbax saves checkpoints on disks and at gs:// only. Give a folder of a"
            " disk that all hosts reach, and copy it to the bucket."
        )
    _bound_retries()
    return epath.Path(str(workdir)) / "checkpoints"


def whole_steps(folder: epath.Path | Path) -> list[int]:
    """Returns the steps whose checkpoints are whole, as Orbax tells it, in order."""
    return sorted(int(path.name) for path in _steps(folder) if utils.is_checkpoint_finalized(path))


def remove_half_written(folder: epath.Path | Path) -> None:
    """Removes what a killed run has begun in a bucket and not ended; all processes call it.

    Orbax's own removal goes on while it lists the folder, which is gone with its last file: a start
    after a first save that failed then ended with "not found".
    """
    if not remote.is_remote(folder):
        return
    if jax.process_index() == 0:
        for path in _steps(folder):
            if not utils.is_checkpoint_finalized(path):
                path.rmtree(missing_ok=True)  # as Orbax does, whose listings are cached
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("half-written checkpoints are removed")


def refused(error: BaseException) -> bool:
    """Tells whether an error is for want of a right or a login."""
    words = (
        "Forbidden",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "Unauthorized",
        "Permission denied",
    )
    return any(word in str(part) for part in retry.chain(error) for word in words)


@contextlib.contextmanager
def reached(folder: epath.Path | Path) -> Iterator[None]:
    """Turns what fails on the way to a bucket into one line.

    Raises:
      retry.StorageUnavailable: it does not answer.
      ValueError: anything else: no login, no right, no such bucket.
    """
    try:
        yield
    except Exception as error:
        if retry.is_storage(error) and not isinstance(error, retry.StorageUnavailable):
            raise retry.StorageUnavailable(f"{folder}: {retry.said(error)}") from error
        known = isinstance(error, FileNotFoundError) or not isinstance(error, OSError)
        if remote.is_remote(folder) and not known:
            raise ValueError(f"{folder}: {retry.said(error)}") from error
        raise


def _steps(folder: epath.Path | Path) -> list[epath.Path]:
    try:
        return [path for path in epath.Path(folder).iterdir() if path.name.isdigit()]
    except FileNotFoundError:
        return []


def _bound_retries() -> None:
    """Lets TensorStore try for as long as we do; by itself it tries for a quarter of an hour.

    Orbax has no public way to these settings.
    """
    tries = {
        "max_retries": len(list(retry.delays(retry.patience()))) or 1,
        "initial_delay": f"{retry.FIRST}s",
        "max_delay": f"{retry.LONGEST}s",
    }
    for context in (
        tensorstore_utils._BASE_TS_CONTEXT,
        tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT,
    ):
        context["gcs_request_retries"] = tries
