"""A run's folder: another run's settings are refused by name, and what it holds is usable."""

import json

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from xclip_jax import checkpoint, config_loader, models, remote, workdir

POLICY = {"name": "clip4clip_1fps", "short_side": 64}
MERGES = 3
VOCAB_SIZE = 514 + MERGES
SMALL = [
    "model.embed_dim=64",
    "model.vision_width=128",
    "model.text_width=64",
    "model.vision_layers=1",
    "model.text_layers=1",
    "model.temporal_layers=1",
    "data.max_words=9",
    "data.max_frames=5",
]


def config_of(*overrides: str, name: str = "shapes"):
    return config_loader.load(name, [f"--config.{text}" for text in [*SMALL, *overrides]])


@pytest.fixture
def vocab(tmp_path):
    file = tmp_path / "merges.txt"
    file.write_text("#version: 0.2\nr e\nre d</w>\ng r\n")
    return file


def write(folder, vocab, *overrides: str, policy=POLICY, goes_on=True):
    workdir.write(folder, config_of(*overrides), vocab=vocab, frame_policy=policy, goes_on=goes_on)


def test_a_run_that_saved_nothing_yet_may_start_anew_with_other_settings(tmp_path, vocab):
    write(tmp_path, vocab, "seed=7")

    write(tmp_path, vocab, "seed=8", goes_on=False)

    assert json.loads((tmp_path / "config.json").read_text())["config"]["seed"] == 8


def test_a_start_anew_leaves_one_vocabulary_though_it_be_the_folders_own(tmp_path, vocab):
    write(tmp_path / "run", vocab)
    other = tmp_path / "tokenizer.json"
    other.write_text("{}")

    write(tmp_path / "run", other, goes_on=False)
    write(tmp_path / "run", tmp_path / "run" / "vocab.json", goes_on=False)

    assert [file.name for file in (tmp_path / "run").glob("vocab*")] == ["vocab.json"]
    assert (tmp_path / "run" / "vocab.json").read_text() == "{}"


def test_another_vocabulary_of_the_same_size_is_refused(tmp_path, vocab):
    write(tmp_path / "run", vocab)
    vocab.write_text("#version: 0.2\nr e\nre d\ng r\n")

    with pytest.raises(ValueError, match=r"data\.vocab: .*merges.txt differs from .*vocab.txt"):
        write(tmp_path / "run", vocab)


def test_a_run_without_its_vocabulary_says_so(tmp_path, vocab):
    write(tmp_path, vocab)
    (tmp_path / "vocab.txt").unlink()

    with pytest.raises(FileNotFoundError, match="has lost its vocabulary: copy the file"):
        workdir.load(tmp_path)


def test_config_policy_and_vocabulary_are_written_beside_the_run(tmp_path, vocab):
    folder = tmp_path / "deep" / "run"

    write(folder, vocab, "seed=7")

    facts = json.loads((folder / "config.json").read_text())
    assert facts["config"]["seed"] == 7 and facts["config"]["model"]["vision_width"] == 128
    assert facts["frame_policy"] == POLICY and facts["version"]
    assert (folder / "vocab.txt").read_bytes() == vocab.read_bytes()


def test_a_compressed_vocabulary_keeps_both_its_endings(tmp_path):
    vocab = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    vocab.write_bytes(b"any")

    write(tmp_path / "run", vocab)

    assert (tmp_path / "run" / "vocab.txt.gz").read_bytes() == b"any"


def test_every_setting_that_makes_another_run_is_refused_by_name(tmp_path, vocab):
    write(tmp_path / "run", vocab)

    with pytest.raises(ValueError) as error:
        write(
            tmp_path / "run",
            vocab,
            "seed=3",
            "optimizer.learning_rate=0.5",
            "model.contrasts=video_word",
            "eval_batch_size=3",
            policy=POLICY | {"name": "clip4clip_2fps"},
        )

    first, *lines = str(error.value).splitlines()
    assert "holds a run with other settings; choose a new --workdir" in first
    assert [line.split(":")[0].strip() for line in lines] == [
        "model.contrasts",
        "optimizer.learning_rate",
        "seed",
        "shards",
    ]
    assert lines[2].strip() == "seed: 0 before, 3 now"
    assert "'clip4clip_1fps'" in lines[3] and "'clip4clip_2fps'" in lines[3]


def test_what_changes_no_result_may_change(tmp_path, vocab):
    write(tmp_path / "run", vocab)
    before = (tmp_path / "run" / "config.json").read_text()

    write(
        tmp_path / "run",
        vocab,
        "eval_batch_size=3",
        "eval_every_steps=7",
        "save_every_steps=8",
        "report_every_steps=9",
        "keep_checkpoints=5",
        "data.dir=elsewhere",
        "fsdp=2",
        "micro_batch=4",
        "model.remat=full",
    )

    assert (tmp_path / "run" / "config.json").read_text() == before


def test_a_written_run_loads_as_it_was_trained(tmp_path, vocab):
    config = config_of("model.head=meanP", "data.slice_position=1")
    workdir.write(tmp_path / "run", config, vocab=vocab, frame_policy=POLICY, goes_on=False)
    sizes = workdir.model_sizes(config, VOCAB_SIZE)
    graphdef, abstract = models.create(config.model.name, **sizes)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.float32(rng.normal(size=leaf.shape)), abstract)
    with checkpoint.open_folder(tmp_path / "run", keep=1) as checkpointer:
        checkpoint.save(checkpointer, {"params": params, "step": jnp.int32(4)}, metrics=None)

    run = workdir.load(tmp_path / "run")

    assert run.step == 4 and run.frame_policy == POLICY and run.tokenizer.vocab_size == VOCAB_SIZE
    assert tuple(run.intake)[:3] == (9, 5, 64) and run.config.data.slice_position == 1
    assert run.graphdef == graphdef
    for one, other in zip(jax.tree.leaves(run.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a run: expected .*config.json"):
        workdir.load(tmp_path)


def test_another_vocabulary_than_the_models_is_refused_with_both_sizes():
    with pytest.raises(
        ValueError, match=r"the vocabulary has 600 entries, the model 49408: .*--config.data.vocab"
    ):
        workdir.model_sizes(config_loader.load("jsonl:arch=vit_b32"), 600)
    with pytest.raises(ValueError, match=r"has 600 entries, the model 512"):
        workdir.model_sizes(config_of("model.vocab_size=512"), 600)


def test_a_model_from_scratch_takes_the_vocabularys_size():
    sizes = workdir.model_sizes(config_of(), VOCAB_SIZE)

    assert sizes["vocab_size"] == VOCAB_SIZE
    assert (sizes["max_words"], sizes["max_frames"]) == (9, 5)


@pytest.mark.parametrize("before, now", [(False, "dots"), (True, "full")])
def test_a_run_of_before_knows_only_whether_to_recompute(before, now):
    config = ml_collections.ConfigDict(json.loads(config_of().to_json()))
    del config.model.remat
    config.model.remat = before

    assert workdir.model_sizes(config, VOCAB_SIZE)["remat"] == now


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'vit_h14' is unknown: expected custom or .*vit_l14"):
        workdir.model_sizes(config_of("model.arch=vit_h14"), VOCAB_SIZE)


def test_a_custom_architecture_names_the_sizes_it_lacks():
    config = config_loader.load("jsonl:arch=custom").unlock()
    config.model.image_size = config.model.text_layers = None

    with pytest.raises(ValueError, match=r"arch is custom, so set image_size, text_layers too"):
        workdir.model_sizes(config, VOCAB_SIZE)


def test_a_checkpoint_of_another_model_is_refused_by_parameter(tmp_path):
    sizes = workdir.model_sizes(config_of(), VOCAB_SIZE)
    _, params = models.create("xclip", **sizes)
    _, wanted = models.create("xclip", **sizes | {"max_frames": 6, "head": "meanP"})

    workdir.check_shapes(params, params, tmp_path)
    with pytest.raises(ValueError) as error:
        workdir.check_shapes(params, wanted, tmp_path)

    first, *lines = str(error.value).splitlines()
    assert f"the checkpoint in {tmp_path} is of another model" in first
    assert "  frame_logit_weight: (5, 5) in the checkpoint, (6, 6) in the model" in lines
    assert len(lines) == 11 and lines[-1] == "  ... and 6 more"  # 3 matrices, 13 of the head


def test_a_run_in_a_bucket_has_the_same_files(vocab):
    run = remote.place("memory://runs/a")

    write(run, vocab, "seed=7", goes_on=False)
    workdir.finish(run, 6, {"t2v/r1": 12.5})

    assert remote.names(run) == {"config.json", "vocab.txt", "finished"}
    assert json.loads((run / "finished").read_text()) == {"step": 6, "metrics": {"t2v/r1": 12.5}}
    write(run, vocab, "seed=7")
    with pytest.raises(ValueError, match=r"memory://runs/a holds a run .*\n  seed: 7 before, 8"):
        write(run, vocab, "seed=8")
