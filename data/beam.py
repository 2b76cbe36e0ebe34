"""Decoding as an Apache Beam pipeline, on whatever machines its runner has; the rest of a build is
the same.

The machines leave each clip's file, or a line that says what was wrong with it, in the folder of
unfinished work, which all of them must reach.
"""

import functools
import shlex
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from pathlib import Path

from xclip_jax import remote
from xclip_jax.remote import RemotePath

RUNNERS = ("DirectRunner", "DataflowRunner", "FlinkRunner", "SparkRunner")
PROBLEM = ".problem"


def parallel_on(runner: str, options: str = "") -> Callable:
    """Returns what `build` takes as `run`: `processes.parallel` on the machines of a runner.

    Args:
        runner: one of RUNNERS.
        options: those of Beam and the runner as on a command line, --project=... and the like.
    """
    if runner not in RUNNERS:
        raise ValueError(f"--runner {runner}: give one of {', '.join(RUNNERS)}.")
    if not find_spec("apache_beam"):
        raise ValueError("--runner needs Apache Beam: pip install 'xclip_jax[build,beam]'")

    def parallel(work: Callable, jobs: dict, workers: int | None = None) -> Iterator[tuple]:
        """Calls `work(*jobs[path])` for each path; yields the path and what came back."""
        if not jobs:
            return
        paths = list(jobs)
        _check(runner, jobs)
        for path in _told(paths):
            path.unlink(missing_ok=True)  # of a build before, which this one tries again
        _run(runner, options, work, jobs, workers)
        folder = paths[0].parent
        finished, told = remote.names(folder), _told(paths)
        reasons = {path.name: path.read_text(encoding="utf-8") for path in told}
        for path in paths:
            if path.name + PROBLEM in reasons:
                yield path, reasons[path.name + PROBLEM]
            elif path.name in finished:
                yield path, None
            else:
                yield path, BrokenProcessPool("the runner came back without it")

    return parallel


def _run(runner: str, options: str, work: Callable, jobs: dict, workers: int | None) -> None:
    """Runs the pipeline to its end."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    arguments = [f"--runner={runner}", *shlex.split(options)]
    if runner == "DirectRunner" and workers and workers > 1:
        arguments += [f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing"]
    with beam.Pipeline(options=PipelineOptions(arguments)) as pipeline:
        (
            pipeline
            | "Clips" >> beam.Create(list(jobs.items()))
            | "Spread" >> beam.Reshuffle()  # else one machine takes them all
            | "Decode" >> beam.Map(functools.partial(_tell, work))
        )


def _tell(work: Callable, item: tuple[Path | RemotePath, tuple]) -> None:
    """Does one job on some machine and leaves what was wrong, if anything, beside its file."""
    path, job = item
    if problem := work(*job):
        with remote.written(path.parent / f"{path.name}{PROBLEM}") as file:
            file.write_text(problem, encoding="utf-8")


def _told(paths: list) -> list:
    """Returns the files in the folder of these that say what was wrong with one."""
    folder = paths[0].parent
    names = sorted(name for name in remote.names(folder) if name.endswith(PROBLEM))
    return [folder / name for name in names]


def _check(runner: str, jobs: dict) -> None:
    """Raises one line where the machines of a cluster cannot reach a file."""
    if runner != "DataflowRunner":
        return  # Flink's and Spark's may share a disk
    path, (clip, *_) = next(iter(jobs.items()))
    for what, given in (("--out", path), ("--videos", clip.path)):
        if not remote.is_remote(given):
            raise ValueError(f"DataflowRunner cannot reach {given}: give {what} gs://...")
