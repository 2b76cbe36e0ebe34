"""Shared set-up: eight fake CPU devices, checked shapes, and the real material where it exists."""

import fcntl
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import jaxtyping
import pytest

# Most of a test's time is XLA's compiler: unoptimised, it takes a seventh. An XLA_FLAGS from
# outside goes first, so the tests can be run against optimised code too.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
if [int(part) for part in version("jaxlib").split(".")[:2]] < [0, 11]:
    FLAGS += " --xla_cpu_use_fusion_emitters=false"  # later versions have no such flag
os.environ.setdefault("XLA_FLAGS", FLAGS)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # asks Google by gRPC what a bucket is
os.environ.setdefault("XCLIP_JAX_RETRY_SECONDS", "2")  # what fails here does not get better
# Steps that several tests compile are compiled once, in the subprocesses of tests too.
_CACHE = tempfile.TemporaryDirectory(prefix="xclip_jax_tests_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

# From here on the shapes and dtypes in these modules' signatures are checked at every call.
jaxtyping.install_import_hook(
    ["xclip_jax.models", "xclip_jax.losses", "xclip_jax.optimizer", "xclip_jax.bertadam"],
    "beartype.beartype",
)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips, annotations and reference values beside the checkout."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared, which is not here")
    return folder


def made_once(tmp_path_factory, name: str, make) -> Path:
    """Returns a copy of the folder that `make(folder)` fills, once for all processes of tests."""
    mine = tmp_path_factory.getbasetemp()
    common = mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine
    folder = common / f"made-{name}"
    with (common / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            make(mine / "making")
            (mine / "making").rename(folder)
    return Path(shutil.copytree(folder, mine / name))


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """A folder with `rendered` clips of the embedded data set and their `shards`: 24 to train on,
    6 to test on and the twins of those."""
    from xclip_jax.data import synthetic
    from xclip_jax.data.build import build
    from xclip_jax.data.jsonl.jsonl_dataset_builder import read_clips

    def make(folder: Path) -> None:
        synthetic.render(folder / "rendered", train_clips=24, test_clips=6, workers=1)
        build(
            read_clips(folder / "rendered" / "captions.jsonl"),
            folder / "shards",
            name="shapes",
            short_side=64,
            vocab=folder / "rendered" / "merges.txt",
            workers=1,
        )

    return made_once(tmp_path_factory, "shapes", make)


def _tiny_config(shapes: Path):
    from xclip_jax import config_loader

    return config_loader.load(
        "shapes",
        [
            f"--config.data.dir={shapes / 'shards'}",
            "--config.model.embed_dim=64",
            "--config.model.vision_width=64",
            "--config.model.text_width=64",
            "--config.model.vision_layers=1",
            "--config.model.text_layers=1",
            "--config.model.temporal_layers=1",
            "--config.batch_size=8",
            "--config.eval_batch_size=8",
            "--config.epochs=0.4",
            "--config.save_every_steps=2",
            "--config.eval_every_steps=1000",
            "--config.report_every_steps=2",
        ],
    )


@pytest.fixture
def tiny_config(shapes):
    """The smallest X-CLIP that trains on `shapes`: 6 steps of 8 pairs."""
    return _tiny_config(shapes)


@pytest.fixture(scope="session")
def tiny_config_text(shapes) -> str:
    """The same as the text of a file that `--config` takes."""
    return (
        "import json\n\nimport ml_collections\n\n\ndef get_config(arg):\n"
        f"    config = json.loads({_tiny_config(shapes).to_json()!r})\n"
        "    return ml_collections.ConfigDict(config).lock()\n"
    )


@pytest.fixture
def tiny_config_file(tiny_config_text, tmp_path) -> Path:
    """That file."""
    file = tmp_path / "tiny.py"
    file.write_text(tiny_config_text)
    return file


@pytest.fixture(scope="session")
def run(shapes, tmp_path_factory) -> Path:
    """The workdir of a finished run of `tiny_config`."""
    from xclip_jax import train

    def make(folder: Path) -> None:
        train.train_and_evaluate(_tiny_config(shapes), folder)

    return made_once(tmp_path_factory, "run", make)
