"""Configs load, are locked, and every mistake in naming or changing one is a clear line."""

import pkgutil

import pytest

from xclip_jax import config_loader, configs, models, workdir
from xclip_jax.configs import common

NAMES = sorted({found.name for found in pkgutil.iter_modules(configs.__path__)} - {"common"})


def overridden(*overrides: str):
    return config_loader.load("shapes", [f"--config.{text}" for text in overrides])


def test_arguments_take_the_type_of_their_default():
    arg = common.parse_arg("b=7,c=0.5,d=x=y,e", a="k", b=1, c=2.0, d="l", e=False, f=True)

    assert vars(arg) == {"a": "k", "b": 7, "c": 0.5, "d": "x=y", "e": True, "f": True}
    assert common.parse_arg("e=false,f=TRUE", e=True, f=False).e is False
    assert type(arg.b) is int


def test_no_argument_leaves_the_defaults():
    assert vars(common.parse_arg("", a="k", b=1)) == {"a": "k", "b": 1}


@pytest.mark.parametrize(
    "arg, message",
    [
        ("b=x", "'b=x': expected b=<int>"),
        ("b=1.5", "'b=1.5': expected b=<int>"),
        ("b", "'b': expected b=<int>"),
        ("a", "'a': expected a=<str>"),
        ("e=maybe", "'e=maybe': expected e=<bool>"),
        ("a=k,z=1", "'z' is unknown: this config takes a, b, e"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_is_expected(arg, message):
    with pytest.raises(ValueError, match=message):
        common.parse_arg(arg, a="k", b=1, e=False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("argument", ["", ":smoke"])
def test_every_config_is_locked_and_describes_a_model(name, argument):
    config = config_loader.load(name + argument)

    assert config.is_locked and config.model.is_locked
    vocab_size = 600 if config.model.arch == "custom" else 49408
    sizes = workdir.model_sizes(config, vocab_size)
    graphdef, params = models.create(config.model.name, **sizes)
    assert graphdef is not None and params["clip"]
    with pytest.raises(AttributeError):
        config.model.heads = 3


@pytest.mark.parametrize("name", NAMES)
def test_every_config_knows_only_the_keys_of_the_defaults(name):
    def keys(node, prefix=""):
        for key, value in node.items():
            yield from keys(value, f"{prefix}{key}.") if hasattr(value, "items") else [prefix + key]

    assert set(keys(config_loader.load(name))) == set(keys(common.get_config()))


@pytest.mark.parametrize("name", NAMES)
def test_a_smoke_test_is_small(name):
    whole, smoke = config_loader.load(name), config_loader.load(f"{name}:smoke")

    assert smoke.batch_size < whole.batch_size and smoke.epochs < whole.epochs
    assert smoke.model.image_size == 64 and smoke.batch_size == smoke.eval_batch_size == 8


def test_arguments_reach_the_config():
    assert config_loader.load("shapes:head=meanP,seed=3").model.head == "meanP"
    assert config_loader.load("shapes:head=meanP,seed=3").seed == 3
    assert config_loader.load("jsonl:arch=vit_b16").model.arch == "vit_b16"


def test_clips_own_sizes_bring_the_papers_optimizer():
    released = config_loader.load("jsonl:arch=vit_b32")

    assert released.optimizer.name == "bertadam" and released.optimizer.clip_multiplier == 1e-3
    assert workdir.model_sizes(released, 49408)["vision_width"] == 768
    assert config_loader.load("jsonl").optimizer.name == "adamw"


@pytest.mark.parametrize(
    "name, new, clip",
    [("bertadam", 1e-4, 1e-7), ("bertadam_fp16", 1e-4, 1e-7), ("adamw", 1e-5, 1e-6)],
)
def test_an_optimizer_brings_its_rates_for_clips_weights_and_for_new_ones(name, new, clip):
    chosen = config_loader.load(f"jsonl:arch=vit_b16,optimizer={name}").optimizer

    assert chosen.name == name and chosen.learning_rate == new
    assert chosen.learning_rate * chosen.clip_multiplier == pytest.approx(clip)
    assert chosen.freeze_layers == (-1 if name == "adamw" else 0)


def test_a_config_may_be_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from xclip_jax.configs import shapes\n\n\n"
        "def get_config(arg=''):\n    return shapes.get_config(arg or 'seed=5')\n"
    )

    assert config_loader.load(str(file)).seed == 5
    assert config_loader.load(f"{file}:seed=6", ["--config.batch_size=3"]).batch_size == 3


def test_a_config_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"'shape' is unknown: expected one of .*jsonl, .*shapes"):
        config_loader.load("shape:smoke")
    with pytest.raises(ValueError, match="'common' is unknown"):
        config_loader.load("common")
    with pytest.raises(FileNotFoundError, match=r"--config no/such.py: there is no such file"):
        config_loader.load("no/such.py:smoke")


@pytest.mark.parametrize(
    "override, value",
    [
        ("batch_size=12", 12),
        ("epochs=3", 3.0),
        ("epochs=1e-1", 0.1),
        ("seed=7", 7),
        ("data.dir=a=b c", "a=b c"),
        ("data.vocab=", ""),
        ("data.frame_jitter=True", True),
        ("data.frame_jitter=false", False),
        ("model.vocab_size=60", 60),
        ("model.contrasts=video_word,frame_word", ("video_word", "frame_word")),
        ("optimizer.name=bertadam", "bertadam"),
    ],
)
def test_an_override_takes_the_type_of_the_key(override, value):
    config = overridden(override)

    for part in override.split("=")[0].split("."):
        config = config[part]
    assert config == value and type(config) is type(value)


def test_overrides_may_be_several_and_the_last_wins():
    config = overridden("seed=1", "batch_size=5", "seed=2")

    assert (config.seed, config.batch_size) == (2, 5)
    assert config.is_locked


@pytest.mark.parametrize(
    "override, message",
    [
        ("batch_siz=3", r"batch_siz: .* no such key; did you mean --config.batch_size\?"),
        ("learning_rate=3", r"did you mean --config.optimizer.learning_rate\?"),
        ("optimiser.name=adamw", r"did you mean --config.optimizer.name\?"),
        ("data.dir.x=3", r"--config.data.dir.x: the config has no such key"),
        ("qqq=3", r"--config.qqq: the config has no such key$"),
        ("model=3", r"--config.model: the config has no such key; it is a group of activation, "),
        (
            "optimizer.lr=1",
            r"no such key; config.optimizer has clip_multiplier, encoder_gradient_scale, ",
        ),
        ("optimizer.learning_rat=1", r"did you mean --config.optimizer.learning_rate\?"),
        ("data.batch_size=3", r"did you mean --config.batch_size\?"),
        ("batch_size=abc", r"--config.batch_size=abc: expected a value of type int, like 64"),
        ("batch_size=1.5", r"--config.batch_size=1.5: expected a value of type int"),
        ("batch_size=True", r"expected a value of type int"),
        ("model.vocab_size=6.5", r"expected a value of type int"),
        ("epochs=", r"--config.epochs=: expected a value of type float"),
        ("epochs='3'", r"expected a value of type float"),
        ("model.temperature=[1]", r"expected a value of type float, like 0.01"),
        ("data.frame_jitter=1", r"expected a value of type bool, like False"),
        ("epochs", r"--config.epochs: expected --config.epochs=VALUE"),
    ],
)
def test_a_wrong_override_is_refused_with_what_is_expected(override, message):
    with pytest.raises(ValueError, match=message):
        overridden(override)


def test_counts_that_are_not_above_zero_are_refused_together():
    with pytest.raises(ValueError) as error:
        overridden("batch_size=0", "data.max_frames=-1", "epochs=0.0")

    assert str(error.value) == (
        "config.epochs=0.0, config.batch_size=0, config.data.max_frames=-1: expected more than 0."
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=-1", "0 to 9223372036854775807"),
        ("micro_batch=-4", "0 or more"),
        ("optimizer.learning_rate=-1.0", "0 or more"),
        ("optimizer.clip_multiplier=-1.0", "0 or more"),
        ("optimizer.weight_decay=-5.0", "0 or more"),
        ("optimizer.encoder_gradient_scale=-0.25", "0 or more"),
        ("optimizer.warmup_fraction=2.0", "0 to 1"),
        ("optimizer.warmup_fraction=-0.1", "0 to 1"),
        ("optimizer.freeze_layers=99", "-1 to 2"),  # the model has two layers a tower
        ("optimizer.freeze_layers=-2", "-1 or more"),
    ],
)
def test_a_number_that_no_run_can_have_is_refused_by_its_key(override, expected):
    with pytest.raises(ValueError) as error:
        overridden(override)

    assert str(error.value) == f"config.{override}: expected {expected}."


@pytest.mark.parametrize(("arch", "most"), [("vit_b16", 12), ("vit_l14", 24)])
def test_no_more_layers_can_be_frozen_than_the_towers_have(arch, most):
    config_loader.load(f"msrvtt:arch={arch}", [f"--config.optimizer.freeze_layers={most}"])

    with pytest.raises(ValueError, match=f"freeze_layers={most + 1}: expected -1 to {most}"):
        config_loader.load(f"msrvtt:arch={arch}", [f"--config.optimizer.freeze_layers={most + 1}"])


def test_ranges_have_their_ends():
    ends = ("seed=0", "micro_batch=0", "optimizer.learning_rate=0", "optimizer.warmup_fraction=1")

    config = overridden(*ends, "optimizer.clip_multiplier=0", "optimizer.freeze_layers=-1")

    assert config.optimizer.warmup_fraction == 1


def test_parts_of_a_batch_are_refused_where_a_video_depends_on_the_others():
    wrong = ["--config.model.tiled_mask_bug=True", "--config.micro_batch=16"]
    config = config_loader.load("msrvtt:model=clip2video", wrong)

    with pytest.raises(ValueError, match=r"micro_batch=16 beside .*tiled_mask_bug=True.* set one"):
        workdir.model_sizes(config, 49408)
