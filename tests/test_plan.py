"""The command `plan`: on fake devices here, without libtpu; test_plan_tpu.py has the real chips."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from xclip_jax import cli, config_loader, flops, models, sharding, train_step, workdir
from xclip_jax.plan import compiled, estimate, report, topology

TINY = [
    "--config.model.embed_dim=64",
    "--config.model.vision_width=64",
    "--config.model.text_width=64",
    "--config.model.vision_layers=2",
    "--config.model.text_layers=1",
    "--config.model.temporal_layers=1",
    "--config.model.vocab_size=300",
    "--config.model.image_size=32",
    "--config.data.max_words=7",
    "--config.data.max_frames=3",
]


def planned(*words: str) -> None:
    cli.main(["plan", "--config", "shapes", *TINY, *map(str, words)])


@pytest.fixture(scope="module", autouse=True)
def environment():
    """Leaves the environment as it was: a plan sets what jax and libtpu read when they start."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def facts() -> dict:
    """The facts of a step of 24 pairs on eight devices, two of which share each parameter."""
    config = config_loader.load("shapes", [*TINY, "--config.batch_size=24", "--config.fsdp=2"])
    topology.prepare(["cpu:8"])
    return compiled.compile_for(config, topology.get("cpu:8"), evaluation=False)


def test_a_plan_of_fake_devices_prints_memory_and_collectives(capsys, tmp_path):
    planned("--topology", "cpu:8", "--batch-size", 16, "--pairs", 100, "--json", tmp_path / "o")

    said = capsys.readouterr().out
    assert "cpu:8: 8 x cpu, mesh data=8, fsdp=1. An estimate" in said
    assert "train step of 16 pairs, 2 a chip" in said
    assert "evaluation, similarity" in said
    assert "all-reduce         data" in said
    assert "No roofline" in said
    [written] = json.loads((tmp_path / "o").read_text())
    assert written["config"] == "shapes" and written["batch_size"] == 16
    assert set(written["evaluation"]) == {"text", "video", "similarity"}


def test_the_step_takes_the_state_and_the_batch_as_arguments(facts):
    config = config_loader.load("shapes", TINY)
    sizes = workdir.model_sizes(config, 300)
    _, params = models.create("xclip", **sizes)
    mesh = sharding.make_mesh(2, jax.devices())
    state = 3 * sum(  # and Adam's two moments
        4 * np.prod(place.shard_shape(leaf.shape))
        for leaf, place in zip(
            jax.tree.leaves(params),
            jax.tree.leaves(sharding.shard_params(params, mesh)),
            strict=True,
        )
    )
    batch = 24 // 8 * (3 * 32 * 32 * 3 + 3 + 7 * 4 + 7)

    memory = facts["step"]["memory"]
    assert memory["argument"] == pytest.approx(state + batch, rel=0.01)
    assert memory["aliased"] == pytest.approx(state, rel=0.01)
    assert memory["peak"] >= memory["argument"] + memory["temp"]


def test_the_gradients_are_summed_over_all_devices(facts):
    config = config_loader.load("shapes", TINY)
    _, params = models.create("xclip", **workdir.model_sizes(config, 300))
    gradients = sum(4 * leaf.size for leaf in jax.tree.leaves(params))

    summed = sum(
        one["payload"] * one["times"]
        for one in facts["step"]["collectives"]
        if one["kind"] in ("all-reduce", "reduce-scatter")
    )

    assert 0.9 * gradients < summed < 1.5 * gradients
    assert {one["axes"] for one in facts["step"]["collectives"]} <= {"data", "fsdp", "data+fsdp"}


def test_operations_are_the_models_and_those_that_are_traced(facts):
    config = config_loader.load("shapes", TINY)
    config.batch_size = 24
    sizes = workdir.model_sizes(config, 300)
    batch = train_step.abstract_batch(config, sizes)

    counted = flops.train_step(*models.create("xclip", **sizes), batch)

    assert facts["step"]["flops"] == counted / 8
    # Attention is computed again on the way back; of this tiny model that is a good part.
    assert 1 < facts["step"]["executed_flops"] / facts["step"]["flops"] < 1.6


def test_parameters_that_chips_cannot_share_are_refused_in_one_line(capsys):
    with pytest.raises(SystemExit) as caught:
        planned("--topology", "cpu:8", "--batch-size", 12, "--config.fsdp=3")

    said = capsys.readouterr().err
    assert caught.value.code == 2 and len(said.splitlines()) == 1
    assert "cpu:8 has 8 chips; config.fsdp=3 does not divide them: choose 1, 2, 4 or 8." in said


def test_a_batch_that_chips_cannot_share_is_padded_and_no_more_is_sent(facts):
    config = config_loader.load("shapes", [*TINY, "--config.batch_size=19", "--config.fsdp=2"])

    padded = compiled.compile_for(config, topology.get("cpu:8"), evaluation=False)

    said = report.text(padded)
    assert "batch of 19 padded to 24 for 8 devices: 20.8% of the computation is padding" in said
    assert "train step of 19 pairs, 3 a chip" in said
    assert "is padding" not in report.text(facts)
    both = zip(padded["step"]["collectives"], facts["step"]["collectives"], strict=True)
    for one, other in both:
        assert one["kind"] == other["kind"] and one["sent"] <= other["sent"]
    sizes = workdir.model_sizes(config, 300)
    real = train_step.abstract_batch(config, sizes)
    model = models.create("xclip", **sizes)
    assert len(real["tokens"]) == 19
    assert padded["step"]["flops"] == flops.train_step(*model, real) / 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--topology", "v5e-8,cpu:8,cpu:0,cpu:2049"],
            "--topology v5e-8,cpu:0,cpu:2049: expected a TPU like v5e:8x8",
        ),
        (
            ["--topology", "h100:8,h100:9,h100:0,k80:8,h100:8:0"],
            "--topology h100:9,h100:0,k80:8,h100:8:0: expected a TPU like v5e:8x8, slices of it",
        ),
        (["--topology", "cpu:8", "--batch-size", "8,x"], "--batch-size x: expected whole numbers"),
        (["--topology", "cpu:2048"], "this process has 8 fake devices already"),
    ],
    ids=["topology", "GPUs", "batch", "too late"],
)
def test_mistakes_are_one_line(words, message, capsys):
    with pytest.raises(SystemExit):
        planned(*words)

    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1


def test_a_sweep_gives_a_table_a_picture_and_json(capsys, tmp_path):
    plot, file = tmp_path / "p.png", tmp_path / "p.json"
    planned(
        *("--topology", "cpu:1,cpu:2", "--batch-size", "3,8", "--sweep", "--config.fsdp=2"),
        *("--plot", plot, "--json", file),
    )

    said = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in said[2:6]] == [
        ["cpu:1", "3"],
        ["cpu:1", "8"],
        ["cpu:2", "3"],
        ["cpu:2", "8"],
    ]
    assert "config.fsdp=2 does not divide them" in said[2]
    assert plot.read_bytes().startswith(b"\x89PNG")
    rows = json.loads(file.read_text())
    peaks = {
        (row["topology"], row["batch_size"]): row.get("step", {}).get("memory") for row in rows
    }
    assert peaks["cpu:1", 3] is None
    assert peaks["cpu:2", 8]["peak"] > peaks["cpu:2", 3]["peak"]


def test_a_process_of_its_own_gets_as_many_fake_devices_as_asked_for(tmp_path):
    code = (
        "from xclip_jax.plan import topology; topology.prepare(['cpu:3', 'cpu:12']);"
        "print(len(topology.get('cpu:12').devices), len(topology.get('cpu:3').devices))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["12", "3"]


def test_a_tpu_without_libtpu_is_one_line_that_says_what_to_install():
    code = (
        "import sys; sys.modules['libtpu'] = None; from xclip_jax import cli;"
        "cli.main(['plan', '--config', 'shapes', '--topology', 'v5e:8x8'])"
    )
    # Where libtpu is, importing it here has set the path to it.
    clean = {name: value for name, value in os.environ.items() if name != "TPU_LIBRARY_PATH"}

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean)

    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "needs libtpu" in done.stderr and "pip install 'xclip_jax[plan]'" in done.stderr


def test_the_run_follows_from_the_step():
    config = config_loader.load("shapes", ["--config.batch_size=64", "--config.epochs=2.5"])
    estimated = {"step_seconds": {"best": 0.5, "worst": 2.0}}

    run = estimate.run(estimated, config, 6500, 16, 1.5)

    assert run["steps"] == int(2.5 * 101)
    assert run["epoch_seconds"] == {"best": 50.5, "worst": 202.0}
    assert run["hours"]["worst"] == pytest.approx(252 * 2 / 3600)
    assert run["cost"]["best"] == pytest.approx(16 * 1.5 * 252 * 0.5 / 3600)


def test_pairs_are_those_of_the_shards_unless_given(tiny_config, shapes):
    assert estimate.training_pairs(tiny_config, None) == 120
    assert estimate.training_pairs(tiny_config, 7) == 7
    with tiny_config.unlocked():
        tiny_config.data.dir = str(shapes / "nowhere")
    assert estimate.training_pairs(tiny_config, None) is None


def test_what_the_compiler_finds_too_large_is_reported_not_raised():
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO"
        " temporaries (51.97G) exceeds available HBM (15.75G)."
    )

    step = {"fits": False, **compiled._needed(message)}

    assert step["memory"]["needed"] == pytest.approx(51.97 * 2**30)
    facts = {"topology": "v5e:8x8", "batch_size": 16384, "step": step}
    row = report.table([facts]).splitlines()[-1].split()
    assert row == ["v5e:8x8", "16,384", "51.97", "no"]
