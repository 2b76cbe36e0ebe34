"""The commands that move weights: `xclip-jax convert | export | download`."""

import sys
from collections.abc import Callable
from pathlib import Path

FORMATS = ("pytorch", "openai", "huggingface", "stablehlo")


def add(command: Callable) -> None:
    """Adds the three commands; `command(name, run, summary, example)` returns a parser."""
    into = command(
        "convert",
        convert,
        "turn a weight file of PyTorch's into a run that eval and search can use",
        "xclip-jax convert pytorch_model.bin.4 --out runs/released",
    )
    into.add_argument(
        "file", help="of OpenAI's CLIP, open_clip, Hugging Face, X-CLIP, CLIP4Clip or CLIP2Video"
    )
    into.add_argument("--out", required=True, help="folder of the run to write")
    into.epilog += "\n--config.KEY=VALUE sets what the file does not tell."

    export = command(
        "export",
        _export,
        "write a run's weights for PyTorch, as .safetensors, or its encoders as StableHLO",
        "xclip-jax export runs/mine --to huggingface",
    )
    export.add_argument("workdir", help="folder of the run")
    export.add_argument(
        "--to",
        required=True,
        choices=FORMATS,
        help="pytorch: the whole model, by the references' names; openai, huggingface: its CLIP;"
        " stablehlo: both encoders as programs of jax.export, with all it takes to call them",
    )
    export.add_argument("--out", help="folder to write (default: export-FORMAT in the run's)")
    export.add_argument("--checkpoint", default="selected", help="selected, last, best or a step")

    download = command(
        "download",
        _download,
        "fetch CLIP's weights from OpenAI",
        "xclip-jax download clip:ViT-B/32",
    )
    download.add_argument("model", help="clip:ViT-B/32, clip:ViT-B/16 or clip:ViT-L/14")
    download.add_argument("--out", help="folder for the file (default: ~/.cache/xclip_jax)")


def convert(arguments) -> None:
    from xclip_jax import torch_file

    torch_file.read(arguments.file)  # a file that is none is refused at once, before JAX is loaded
    from xclip_jax import transfer

    print(transfer.import_file(arguments.file, arguments.out, arguments.overrides))
    print(f"the run is in {arguments.out}")


def _export(arguments) -> None:
    out = Path(arguments.out or Path(arguments.workdir) / f"export-{arguments.to}")
    if arguments.to == "stablehlo":
        from xclip_jax import stablehlo

        files, difference = stablehlo.export(arguments.workdir, out, arguments.checkpoint)
        print(*(f"wrote {file}" for file in files), sep="\n")
        print(f"loaded again, its features are the model's to {difference:.1e}")
        return
    from xclip_jax import transfer

    for file in transfer.export(arguments.workdir, arguments.to, out, arguments.checkpoint):
        print(f"wrote {file}")


def _download(arguments) -> None:
    from xclip_jax import download

    print(download.fetch(arguments.model, arguments.out, progress=sys.stderr.isatty()))
