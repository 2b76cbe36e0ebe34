"""Without TensorFlow a model is trained, evaluated and used, and the bare package loads nothing.

Each test is a fresh process, in which TensorFlow cannot be found as if it were not installed.
"""

import json
import subprocess
import sys

WITHOUT = """
import sys
from importlib.machinery import PathFinder

class WithoutTensorFlow:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "tensorboard"):
            return None
        return PathFinder.find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *args):
        return PathFinder.find_distributions(*args)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTensorFlow
"""
COMMANDS = """
import json
from xclip_jax import cli

for command in json.loads(sys.argv[1]):
    cli.main(command)
assert not {"tensorflow", "tensorboard"} & set(sys.modules)
try:
    import tensorflow
except ModuleNotFoundError:
    print("TensorFlow was not there")
"""


def python(code: str, *arguments: str) -> str:
    """Returns what a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_model_is_trained_evaluated_and_searched_with(shapes, tiny_config_file, tmp_path):
    workdir, videos = tmp_path / "run", tmp_path / "videos"
    videos.mkdir()
    for i in range(2):
        clip = shapes / "rendered" / "videos" / f"test-{i:05d}.mp4"
        (videos / clip.name).write_bytes(clip.read_bytes())

    printed = python(
        WITHOUT + COMMANDS,
        json.dumps(
            [
                ["train", "--config", str(tiny_config_file), "--workdir", str(workdir)],
                ["eval", "--workdir", str(workdir)],
                ["search", "a circle", "--videos", str(videos), "--workdir", str(workdir)],
            ]
        ),
    )

    assert "step 6/6" in printed
    assert '"split": "test", "videos": 6' in printed
    assert f"{videos / 'test-00001.mp4'}" in printed
    assert printed.endswith("TensorFlow was not there\n")
    assert not (workdir / "tensorboard").exists()


def test_importing_the_package_loads_no_heavy_library():
    printed = python(
        "import sys, xclip_jax; print(xclip_jax.__version__);"
        "print({'jax', 'numpy', 'tensorflow', 'flax'} & set(sys.modules))"
    )

    assert printed.splitlines()[1] == "set()"


def test_help_needs_no_heavy_library():
    printed = python(
        "import sys\nfrom xclip_jax import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: print({'jax', 'numpy', 'tensorflow', 'flax'} & set(sys.modules))"
    )

    assert printed.splitlines()[-1] == "set()"
