"""Real TPUs' programs, compiled where there is no TPU: what a run needs is known before it is paid.

Skipped without libtpu. The prototype was a plain function of the whole step, written to see that
these sizes fit; its temporaries are what the library's step must not exceed.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import scaling

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install '.[plan]'"
)
GIB = 2**30
# Two to three minutes a program on two cores, too long for every change.
takes_minutes = pytest.mark.skipif(
    "XCLIP_JAX_AOT" not in os.environ, reason="takes ten minutes: set XCLIP_JAX_AOT=1"
)
PROTOTYPE_GIB = {"ViT-B/16": 6.8, "ViT-B/32": 12.0, "ViT-L/14": 24.6}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Returns a function from a line of the table to its facts; each is compiled once."""
    folder, done = tmp_path_factory.mktemp("plans"), {}

    def facts(line: scaling.Line) -> dict:
        if line not in done:
            done[line] = scaling.plan(line, folder)
        return done[line]

    return facts


@takes_minutes
@pytest.mark.parametrize("line", scaling.LINES[:3], ids=lambda line: line.name.replace("/", ""))
def test_the_step_fits_and_takes_no_more_than_the_prototype(line, planned):
    step = planned(line)["step"]

    assert step["fits"], step
    assert step["memory"]["temp"] / GIB <= PROTOTYPE_GIB[line.name]


@takes_minutes
def test_32_times_the_chips_send_little_more_each(planned):
    """Weak scaling: 32 pairs a chip. Not counted is what no program can do without: every chip
    gets the frame and video features of the whole batch once, and sends their gradients back."""
    few, many = (planned(line) for line in scaling.WEAK)

    def avoidable(facts: dict) -> float:
        others = facts["batch_size"] * (1 - 1 / facts["chips"])
        features = others * (12 + 1) * 512 * 4  # bytes: 12 frames and the video, float32
        return sum(one["sent"] for one in facts["step"]["collectives"]) - 2 * features

    assert (few["chips"], many["chips"]) == (8, 256)
    assert few["batch_size"] / 8 == many["batch_size"] / 256 == 32
    assert avoidable(many) < 1.2 * avoidable(few)


SMALL = [
    *("--config", "shapes:smoke", "--config.batch_size=16", "--config.data.max_words=7"),
    *("--config.data.max_frames=3", "--config.model.image_size=32"),
]


def plan(*words: str) -> str:
    """Returns what a process of its own prints, without the flags that the tests compile with."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "xclip_jax", "plan", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@takes_minutes
def test_a_plan_for_a_tpu_says_whether_it_fits_how_fast_and_at_what_cost(tmp_path):
    said = plan(
        *SMALL,
        *("--topology", "v5e:2x4", "--pairs", "6400", "--price-per-chip-hour", "1.5"),
        *("--json", str(tmp_path / "plan.json")),
    )

    [facts] = json.loads((tmp_path / "plan.json").read_text())
    assert (facts["chip"], facts["chips"]) == ("TPU v5 lite", 8)
    assert "of 16 GiB: fits" in said and "An estimate" in said
    assert set(facts["estimate"]["seconds"]) == {"compute", "hbm", "ici", "dcn"}
    ends = facts["estimate"]["step_seconds"]
    assert 0 < ends["best"] <= ends["worst"]
    hours = facts["run"]["steps"] * ends["worst"] / 3600
    assert facts["run"]["cost"]["worst"] == pytest.approx(8 * 1.5 * hours)


@takes_minutes
def test_two_slices_send_over_the_network_between_them(tmp_path):
    plan(
        *SMALL,
        *("--topology", "v5e:2x2:2", "--config.fsdp=2", "--sweep"),
        *("--plot", str(tmp_path / "plan.png"), "--json", str(tmp_path / "plan.json")),
    )

    [facts] = json.loads((tmp_path / "plan.json").read_text())
    assert (facts["chips"], facts["mesh"]) == (8, {"data": 4, "fsdp": 2})
    axes = {one["axes"] for one in facts["step"]["collectives"]}
    assert "dcn" in axes and axes <= {"dcn", "data", "fsdp", "data+fsdp"}
    assert facts["estimate"]["seconds"]["dcn"] > 0


@takes_minutes
@pytest.mark.parametrize("name", ["v6e:4x4", "v5e:2x2:2", "tpu7x:2x2x1"])
def test_a_step_compiles_with_every_divisor_as_fsdp_or_is_refused_in_one_line(name):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, str(Path(scaling.__file__).with_name("meshes.py")), name]

    done = subprocess.run(command, capture_output=True, text=True, env=environment)

    assert done.returncode == 0, done.stdout + done.stderr
    refused = [line for line in done.stdout.splitlines() if "compiled;" not in line]
    assert [line.split()[:2] for line in refused] == (
        [[name, "fsdp=8"]] if name == "v5e:2x2:2" else []
    )


def test_a_chip_that_libtpu_does_not_know_is_one_line():
    command = [sys.executable, "-m", "xclip_jax", "plan", *SMALL, "--topology", "v5e:3x5"]

    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "--topology v5e:3x5" in done.stderr
