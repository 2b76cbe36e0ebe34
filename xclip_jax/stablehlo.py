"""Both encoders as StableHLO programs for any number of rows, to be run without this package.

text.jax_export, video.jax_export   what `jax.export.deserialize` reads: (params, inputs, mask)
params.safetensors                  the parameters, by their path in the nested dict
vocab.*                             the vocabulary
export.json                         shapes, preprocessing, and what made it

Parameters are arguments of the programs, not constants in them: neither format has room for the
gigabytes of a large model.
"""

import json
import math
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax import export as jax_export
from safetensors.numpy import load_file, save_file

from xclip_jax import frames, library, remote, workdir
from xclip_jax.parallel import row_sharding
from xclip_jax.version import __version__

PLATFORMS = ("cpu", "cuda", "tpu")
# Of unit features in float32, compiled from another program of the same operations.
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}
CHECKED_ROWS = 3  # a number that the programs were not made for


def export(folder: Path | str, out: Path, which: str = "selected") -> tuple[list[Path], float]:
    """Writes the folder `out`, loads it again, and returns its files and the largest difference of
    a feature so computed.

    Raises ValueError where that difference is more than rounding.
    """
    model = library.load(folder, which)
    trained = model.trained
    out.mkdir(parents=True, exist_ok=True)
    exported = programs(trained)
    vocabulary = workdir.vocabulary(remote.place(folder))
    files = {
        "params.safetensors": lambda file: save_file(_flat(trained.params), file),
        "text.jax_export": lambda file: file.write_bytes(exported["text"].serialize()),
        "video.jax_export": lambda file: file.write_bytes(exported["video"].serialize()),
        vocabulary.name: lambda file: file.write_bytes(vocabulary.read_bytes()),
        "export.json": lambda file: file.write_text(
            json.dumps(_facts(model, exported, vocabulary.name), indent=1) + "\n"
        ),
    }
    for name, write in files.items():
        write(out / name)
    difference = check(out, model)
    allowed = TOLERANCE[trained.config.model.get("dtype", "float32")]
    if not difference <= allowed:
        raise ValueError(
            f"{out} does not compute what the model does: features differ by {difference:.1e}, at"
            f" most {allowed:.0e} is rounding. Do not use it; please report this as a bug."
        )
    return [out / name for name in files], difference


def programs(trained: workdir.Trained) -> dict[str, jax_export.Exported]:
    """Returns the encoders, exported for a number of rows that is left open."""
    graphdef, intake = trained.graphdef, trained.intake

    @jax.jit
    def text(params, tokens, mask):
        return nnx.merge(graphdef, params).encode_text(tokens, mask)._asdict()

    @jax.jit
    def video(params, pixels, mask):
        return nnx.merge(graphdef, params).encode_video(pixels, mask)._asdict()

    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), trained.params)
    [rows] = jax_export.symbolic_shape("rows")

    def inputs(shape: tuple[int, ...], dtype, mask: int):
        of_all = jax.ShapeDtypeStruct((rows, *shape), dtype)
        return of_all, jax.ShapeDtypeStruct((rows, mask), bool)

    words, most, size = intake.max_words, intake.max_frames, intake.image_size
    given = {
        "text": (text, inputs((words,), np.int32, words)),
        "video": (video, inputs((most, size, size, 3), np.uint8, most)),
    }
    return {
        name: jax_export.export(verb, platforms=PLATFORMS)(params, *arguments)
        for name, (verb, arguments) in given.items()
    }


def _facts(model: library.Model, programs: dict, vocabulary: str) -> dict:
    """Returns what one must know to call the programs."""
    trained = model.trained
    intake, stored = trained.intake, trained.frame_policy
    outputs = {
        name: {
            field: f"{aval.dtype}{list(map(str, aval.shape))}".replace("'", "")
            for field, aval in jax.tree.unflatten(program.out_tree, program.out_avals).items()
        }
        for name, program in programs.items()
    }
    markers = trained.tokenizer([""], 2)[0][0]
    return {
        "model": trained.config.model.name,
        "fingerprint": model.fingerprint,
        "step": trained.step,
        "platforms": list(PLATFORMS),
        "arguments": "params: nested dict, the keys of params.safetensors split at '/'",
        "text": {
            "tokens": f"int32[rows, {intake.max_words}]",
            "mask": f"bool[rows, {intake.max_words}], True at tokens and both markers",
            "outputs": outputs["text"],
            "vocabulary": vocabulary,
            "start_token": int(markers[0]),
            "end_token": int(markers[1]),
            "padding": 0,
            "cleaning": "ftfy, HTML entities unescaped twice, white space to one space, lower case",
        },
        "video": {
            "pixels": f"uint8[rows, {intake.max_frames}, {intake.image_size},"
            f" {intake.image_size}, 3], RGB, normalised by the program; zero where padded",
            "mask": f"bool[rows, {intake.max_frames}], True at frames, which come first",
            "outputs": outputs["video"],
            "frame_policy": stored["name"],
            "max_frames": intake.max_frames,
            "sampling": intake.evaluation._asdict(),
            "short_side": stored["short_side"],
            "resize": "Pillow bicubic: the short side to short_side, then to the image's, then"
            " the middle square",
            "mean": [float(x) for x in frames.MEAN],
            "std": [float(x) for x in frames.STD],
        },
        "logit_scale": math.exp(float(trained.params["clip"]["logit_scale"])),
        "versions": {"xclip_jax": __version__, "jax": jax.__version__},
    }


def check(out: Path, model: library.Model) -> float:
    """Returns how far features by what was written are from those of the model."""
    params: dict = {}
    for name, array in load_file(out / "params.safetensors").items():
        *path, last = name.split("/")
        branch = params
        for key in path:
            branch = branch.setdefault(key, {})
        branch[last] = array
    intake, rng = model.trained.intake, np.random.default_rng(0)
    tokens = model.trained.tokenizer(
        ["a dog runs", "two men talk on a beach", ""], intake.max_words
    )
    shape = (CHECKED_ROWS, intake.max_frames, intake.image_size, intake.image_size, 3)
    lengths = np.minimum([1, 2, intake.max_frames], intake.max_frames)
    mask = np.arange(intake.max_frames) < lengths[:, None]
    pixels = rng.integers(0, 256, shape, np.uint8) * mask[:, :, None, None, None]
    given = {"text": tokens, "video": (pixels, mask)}
    worst = 0.0
    for name, arguments in given.items():
        program = jax_export.deserialize(bytearray((out / f"{name}.jax_export").read_bytes()))
        found = program.call(params, *arguments)
        verb = getattr(model.encoders, name)
        expected = row_sharding.compute(
            lambda *rows, verb=verb: verb(model.trained.params, *rows),
            model.encoders.mesh,
            *arguments,
        )
        for field, x in expected._asdict().items():
            if x.size:
                apart = np.abs(np.asarray(found[field], np.float32) - np.asarray(x, np.float32))
                worst = max(worst, float(apart.max()))
    return worst


def _flat(params: dict, prefix: str = "") -> dict[str, np.ndarray]:
    flat = {}
    for key, value in params.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= _flat(value, f"{name}/")
        else:
            flat[name] = np.array(value, order="C")
    return flat
