"""The commands beside a build: `xclip-jax compress | doctor`."""

import sys
from collections.abc import Callable


def add(command: Callable) -> None:
    """Adds the two commands; `command(name, run, summary, example)` returns a parser."""
    compress = command(
        "compress",
        _compress,
        "write small copies of video files: 3 frames a second, short side 224, no sound",
        "xclip-jax compress videos --out videos-small",
    )
    compress.add_argument("videos", help="folder of videos; those in its folders too")
    compress.add_argument("--out", required=True, help="folder for the copies, by the same names")
    compress.add_argument("--workers", type=int, help="processes (default: one a core)")

    doctor = command(
        "doctor",
        _doctor,
        "examine shards: checksums, indices, frames; draw a sheet of some of them",
        "xclip-jax doctor shards/mine --out sheet.png",
    )
    doctor.add_argument("shards", help="folder that a build wrote")
    doctor.add_argument("--out", default="contact.png", help="the sheet (default: contact.png)")
    doctor.add_argument(
        "--samples", type=int, default=12, help="videos to decode and to draw (default: 12)"
    )
    doctor.epilog += "\nExits with 1 if anything is wrong."


def _compress(arguments) -> None:
    from xclip_jax.data import compress

    if arguments.workers is not None and arguments.workers < 1:
        raise ValueError(f"--workers {arguments.workers}: expected 1 or more.")
    print(f"Note: {compress.WARNING}", file=sys.stderr)
    report = compress.compress(arguments.videos, arguments.out, workers=arguments.workers)
    before, after = report.bytes_before, report.bytes_after
    print(
        f"{report.compressed} compressed, {report.there_before} already there;"
        f" {before / 1e6:.1f} MB became {after / 1e6:.1f} MB ({after / max(before, 1):.1%})"
    )
    if report.copied:
        print(f"{len(report.copied)} are the originals, as they were:")
        for name, reason in report.copied.items():
            print(f"  {name!r}: {reason}")


def _doctor(arguments) -> None:
    from xclip_jax import contact_sheet, doctor

    if arguments.samples < 1:
        raise ValueError(f"--samples {arguments.samples}: expected 1 or more.")
    report = doctor.examine(arguments.shards, samples=arguments.samples)
    for split, (videos, captions) in report.splits.items():
        print(f"{split}: {videos} videos, {captions} captions")
    contact_sheet.save(report.samples, arguments.out)
    print(
        f"{report.videos} records, {report.frames} frames, those of {len(report.samples)} videos"
        f" decoded and drawn in {arguments.out}"
    )
    if report.problems:
        print(*report.problems, sep="\n")
        print(f"{len(report.problems)} problems in {arguments.shards}")
        sys.exit(1)
    print("no problem found")
