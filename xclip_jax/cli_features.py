"""The command that hands features to other programs: `xclip-jax embed`."""

from collections.abc import Callable
from pathlib import Path


def add(command: Callable) -> None:
    """Adds the command; `command(name, run, summary, example)` returns a parser."""
    embed = command(
        "embed",
        _embed,
        "write the features of a folder of clips, or of texts, as .npz or .parquet",
        "xclip-jax embed --workdir runs/mine --videos ~/clips --out clips.parquet",
    )
    embed.add_argument("--workdir", required=True, help="folder of the run")
    what = embed.add_mutually_exclusive_group(required=True)
    what.add_argument("--videos", help="folder of clips; those in its folders too")
    what.add_argument("--texts", help="file of texts, one a line, in UTF-8")
    embed.add_argument("--out", required=True, help="file to write, .npz or .parquet")
    embed.add_argument("--checkpoint", default="selected", help="selected, last, best or a step")
    embed.epilog += "\nStopped? The same command goes on with what is in FILE.parts."


def _embed(arguments) -> None:
    if arguments.texts is not None and not Path(arguments.texts).is_file():
        raise FileNotFoundError(f"--texts {arguments.texts} is not a file.")
    from xclip_jax import feature_file, remote

    if remote.is_remote(arguments.out):
        raise ValueError(f"--out {arguments.out}: expected a file of this machine; copy it then.")
    out = Path(arguments.out)
    feature_file.check_name(out)
    from xclip_jax import embed, library

    model = library.load(arguments.workdir, arguments.checkpoint)
    if arguments.texts is not None:
        print(embed.texts(model, Path(arguments.texts), out))
    else:
        print(embed.clips(model, Path(arguments.videos), out))
