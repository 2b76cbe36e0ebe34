"""The published recipes, row by row as SPEC 13 prints them, and the steps that they come to."""

import pytest

from xclip_jax import config_loader, train

# SPEC 13.1: config, GPUs, epochs, batch, evaluation batch, words, frames, training pairs of
# SPEC 10.4, steps an epoch.
XCLIP = [
    ("msrvtt:arch=vit_b32", 4, 5, 300, 40, 32, 12, 180_000, 600),
    ("msrvtt:arch=vit_b16", 4, 5, 80, 40, 32, 12, 180_000, 2250),
    ("msvd:arch=vit_b32", 4, 5, 300, 96, 32, 12, 48_774, 162),
    ("msvd:arch=vit_b16", 4, 5, 80, 64, 32, 12, 48_774, 609),
    ("lsmdc:arch=vit_b32", 4, 5, 300, 64, 32, 12, 101_079, 336),
    ("lsmdc:arch=vit_b16", 4, 5, 80, 64, 32, 12, 101_079, 1263),
    ("didemo:arch=vit_b32", 4, 20, 64, 24, 64, 64, 8_392, 131),
    ("didemo:arch=vit_b16", 4, 20, 16, 8, 64, 64, 8_392, 524),
    ("activitynet:arch=vit_b32", 8, 20, 112, 16, 64, 64, 10_009, 89),
    ("activitynet:arch=vit_b16", 8, 20, 32, 16, 64, 64, 10_009, 313),
]
# SPEC 13.2; 1,406 steps are of MSR-VTT, 7,030 in all. The others follow from the pairs.
CLIP4CLIP = [
    ("msrvtt:model=clip4clip", 4, 32, 12, 180_000, 1406),
    ("msvd:model=clip4clip", 4, 32, 12, 48_774, 381),
    ("lsmdc:model=clip4clip", 4, 32, 12, 101_079, 789),
    ("didemo:model=clip4clip", 8, 64, 64, 8_392, 65),
    ("activitynet:model=clip4clip", 8, 64, 64, 10_009, 78),
]
# SPEC 13.3: divisor, centers.
CLIP2VIDEO = [
    ("msrvtt:model=clip2video", 2, 5),
    ("msrvtt:model=clip2video,split=full", 2, 5),
    ("msvd:model=clip2video", 1, 5),
    ("vatex:model=clip2video", 1, 7),
    ("vatex:model=clip2video,split=random", 1, 7),
]
SPLITS = [
    ("msrvtt", "train_9k", "", "test_1ka", "last"),
    ("msrvtt:split=9k", "train_9k", "", "test_1ka", "last"),
    ("msrvtt:split=7k", "train_7k", "", "test_1ka", "last"),
    ("msrvtt:split=full", "train_full", "val_full", "test_full", "val"),
    ("msrvtt:split=1kb", "train_1kb", "", "test_1kb", "last"),
    ("msvd", "train", "val", "test", "val"),
    ("lsmdc", "train", "val", "test", "val"),
    ("didemo", "train", "val", "test", "val"),
    ("activitynet", "train", "", "test", "last"),
    ("vatex", "train", "val", "test", "val"),
    ("vatex:split=random", "train", "", "test_random", "last"),
]
NAMES = ("msrvtt", "msvd", "lsmdc", "didemo", "activitynet", "vatex")


def assert_shared(config) -> None:
    """SPEC 13.1's heading, and 13.2's, which says the same."""
    rates = config.optimizer
    assert (rates.name, rates.learning_rate, rates.clip_multiplier) == ("bertadam", 1e-4, 1e-3)
    assert (rates.warmup_fraction, rates.weight_decay, rates.freeze_layers) == (0.1, 0.2, 0)
    assert (config.seed, config.model.linear_patch, config.data.slice_position) == (42, "2d", 2)
    assert (config.data.train_frame_order, config.data.eval_frame_order) == (0, 0)
    assert config.model.temporal_layers == 4


@pytest.mark.parametrize("row", XCLIP, ids=lambda row: row[0])
def test_xclips_ten_recipes_are_those_of_its_scripts(row):
    spec, gpus, epochs, batch, eval_batch, words, frames, pairs, steps = row

    config = config_loader.load(spec)

    assert_shared(config)
    assert config.model.name == "xclip" and config.model.head == "seqTransf"
    assert config.model.arch == spec.partition("=")[2]
    assert (config.epochs, config.batch_size, config.eval_batch_size) == (epochs, batch, eval_batch)
    assert (config.data.max_words, config.data.max_frames) == (words, frames)
    assert config.reference_gpus == gpus and config.eval_every_steps is None
    assert (config.data.frame_policy, config.data.frame_divisor) == ("clip4clip_1fps", 1)
    assert not config.data.frame_jitter
    assert train.epoch_steps(config, pairs) == steps
    assert train.total_steps(config, pairs) == steps * epochs


@pytest.mark.parametrize("row", CLIP4CLIP, ids=lambda row: row[0])
@pytest.mark.parametrize("head", ["meanP", "seqLSTM", "seqTransf", "tightTransf"])
def test_clip4clips_recipes_are_those_of_its_readme(row, head):
    spec, gpus, words, frames, pairs, steps = row

    config = config_loader.load(f"{spec},head={head}")

    assert_shared(config)
    assert (config.model.name, config.model.arch, config.model.head) == (
        *("clip4clip", "vit_b32", head),
    )
    assert (config.epochs, config.batch_size, config.eval_batch_size) == (5, 128, 16)
    assert (config.data.max_words, config.data.max_frames) == (words, frames)
    assert config.reference_gpus == gpus
    assert train.total_steps(config, pairs) == 5 * steps


def test_clip4clip_has_meanp_unless_another_head_is_asked_for():
    assert config_loader.load("msvd:model=clip4clip").model.head == "meanP"


@pytest.mark.parametrize("row", CLIP2VIDEO, ids=lambda row: row[0])
def test_clip2videos_recipes_are_those_of_its_test_scripts(row):
    spec, divisor, centers = row

    config = config_loader.load(spec)

    assert_shared(config)
    assert config.model.arch == "vit_b32" and config.model.head == "seqTransf"
    assert (config.model.difference, config.model.alignment) == ("sigmoid_selfA", "TAB_TDB")
    assert (config.model.centers, config.model.center_weight) == (centers, 0.5)
    assert (config.data.max_words, config.data.max_frames) == (32, 12)
    assert (config.batch_size, config.eval_batch_size) == (128, 64)
    data = config.data
    assert (data.frame_policy, data.frame_divisor) == ("native_5fps", divisor)
    assert data.frame_jitter and data.dir.endswith("_5fps")


@pytest.mark.parametrize("row", SPLITS, ids=lambda row: row[0])
def test_a_protocol_is_three_splits_and_none_is_chosen_on_test(row):
    spec, train_split, val, test, select_on = row

    config = config_loader.load(spec)

    data = config.data
    assert (data.train_split, data.val_split, data.eval_split) == (train_split, val, test)
    assert config.select_on == select_on and data.held_out == 0


@pytest.mark.parametrize("spec", ["msrvtt:split=8k", "vatex:split=1k"])
def test_an_unknown_protocol_is_refused_with_the_known_ones(spec):
    with pytest.raises(
        ValueError, match=r"split=\dk: expected (9k or 7k or full or 1kb|hgr or ra)"
    ):
        config_loader.load(spec)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", ["xclip", "clip4clip", "clip2video"])
def test_every_model_has_a_recipe_and_a_smoke_test_on_every_data_set(name, model):
    whole = config_loader.load(f"{name}:model={model}")
    smoke = config_loader.load(f"{name}:model={model},smoke")

    assert whole.model.name == smoke.model.name == model and name in whole.data.dir
    assert smoke.model.vision_layers == 2 and smoke.batch_size == 8
    assert train.total_steps(smoke, 180_000) == 45 and train.total_steps(smoke, 30) == 1


def test_the_published_regime_brings_what_the_references_gpus_did():
    assert config_loader.load("msvd").optimizer.encoder_gradient_scale == 1

    loose = config_loader.load("activitynet:optimizer=bertadam_fp16")
    tight = config_loader.load("msvd:model=clip4clip,head=tightTransf,optimizer=bertadam_fp16")

    assert loose.optimizer.name == tight.optimizer.name == "bertadam_fp16"
    assert loose.optimizer.encoder_gradient_scale == 0.125
    assert tight.optimizer.encoder_gradient_scale == 1 and tight.model.negative_groups == 4
    assert config_loader.load("msvd:optimizer=adamw").optimizer.learning_rate == 1e-5


def test_the_files_say_how_they_are_run_and_what_was_published():
    for name in NAMES:
        doc = __import__(f"xclip_jax.configs.{name}", fromlist=["*"]).__doc__
        assert f"xclip-jax train --config {name}" in doc and "Published" in doc, name
