"""A run from random weights under a fine-tuning recipe says so loudly before its first step."""

import pytest

from xclip_jax import config_loader, train
from xclip_jax.training import random_weights


@pytest.mark.parametrize(
    ("name", "words", "rate"),
    [
        ("msrvtt", [], "1.0e-07"),
        ("msrvtt:model=clip4clip,optimizer=adamw", [], "1.0e-06"),
        ("msvd", ["--config.optimizer.clip_multiplier=0"], "0.0e+00"),
    ],
)
def test_recipes_for_trained_weights_warn_without_them(name, words, rate):
    config = config_loader.load(name, words)

    said = random_weights.warning(config)

    assert "WARNING: random weights under a fine-tuning recipe: without --from-clip FILE" in said
    assert f"learns at {rate}" in said and "download clip:ViT-B/32, then --from-clip" in said
    # What it advises ends it.
    [advice] = [line for line in said.splitlines() if "from scratch" in line]
    config_loader.override(config, advice.split()[2:])
    assert random_weights.warning(config) == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [("msrvtt", ["--config.init.clip=ViT-B-32.pt"]), ("shapes", []), ("jsonl:smoke", [])],
)
def test_all_others_are_silent(name, words):
    assert random_weights.warning(config_loader.load(name, words)) == ""


def test_a_run_warns_before_its_first_step_and_not_where_it_goes_on(tiny_config, tmp_path, capsys):
    tiny_config.epochs, tiny_config.optimizer.clip_multiplier = 0.1, 1e-3

    train.train_and_evaluate(tiny_config, tmp_path)
    said = capsys.readouterr().out
    train.train_and_evaluate(tiny_config, tmp_path)

    assert said.index("WARNING: random weights") < said.index("\nstep 1/1 ")
    assert "WARNING" not in capsys.readouterr().out
