"""`xclip-jax plan --check`: an exit status that a launcher can go by before it rents."""

import os

import pytest
from test_plan import planned

from xclip_jax import config_loader
from xclip_jax.plan import check

GIB = 2**30
SPARING = "--config.optimizer.clip_multiplier=0.001"


@pytest.fixture(scope="module", autouse=True)
def environment():
    """Leaves the environment as it was: a plan sets what jax and libtpu read when they start."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_a_recipe_for_pretrained_weights_without_any_is_told_and_refused(capsys):
    words = ("--topology", "cpu:2", "--batch-size", 4, SPARING)

    with pytest.raises(SystemExit) as refused:
        planned(*words, "--check")

    said = capsys.readouterr()
    assert refused.value.code == 2
    assert "train step of 4 pairs" in said.out  # the report comes first
    assert "but no weights are named" in said.out
    [line] = said.err.splitlines()
    assert line.startswith("xclip-jax: no weights are named") and "--from-clip FILE" in line

    planned(*words, "--check", "--from-clip", "not/here.pt")
    assert "no weights" not in capsys.readouterr().out


def program(fits: bool | None, **memory: float) -> dict:
    return {"fits": fits, "memory": memory, "hbm_gib": 16.0}


@pytest.mark.parametrize(
    ("step", "evaluation", "expected"),
    [
        (program(True, peak=15 * GIB), {"video": program(True, peak=GIB)}, []),
        (program(None, peak=99 * GIB), {}, []),  # of CPUs no memory is known
        (program(False, peak=17 * GIB), {}, ["the train step", "needs 17.00 GiB a chip of 16.00"]),
        (
            {"fits": False, "memory": {"needed": 52 * GIB, "available": 15.75 * GIB}},
            {"video": program(False, peak=18 * GIB)},
            ["the train step", "needs 52.00 GiB a chip of 15.75", "evaluation (video)", "18.00"],
        ),
        ({"fits": False, "memory": {}, "message": "?"}, {}, ["the train step does not fit; try"]),
    ],
    ids=["fits", "unknown", "too large", "compiler refuses", "no figures"],
)
def test_whatever_does_not_fit_is_named_with_its_size(step, evaluation, expected):
    facts = {"topology": "v5e:8x8", "batch_size": 2048, "step": step, "evaluation": evaluation}

    found = check.problems(config_loader.load("shapes"), facts)

    assert len(found) == sum(one["fits"] is False for one in (step, *evaluation.values()))
    assert all(part in "; ".join(found) for part in expected)
    assert not found or "v5e:8x8, batch 2,048" in found[0]
