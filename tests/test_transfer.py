"""Weights come in and go out by every format, bit-equal, and a CLIP starts what stands on it."""

import functools
import json
import re
import shutil
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file
from test_golden import parameter

from xclip_jax import cli, convert, hugging_face, models, transfer, weight_formats, workdir

GOLDEN = Path(__file__).parent / "golden"
SCRIPTED, STATE_DICT = GOLDEN / "clip_scripted.pt", GOLDEN / "xclip_state_dict.bin"
MERGES = "#version: 0.2\na n\nan d</w>\nt h\n"  # 3 merges: 517 entries


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Folder and account of each golden weight file's run."""
    folder = tmp_path_factory.mktemp("imported")
    (folder / "merges.txt").write_text(MERGES)
    vocab = f"--config.data.vocab={folder / 'merges.txt'}"
    return {
        file: (folder / file.stem, transfer.import_file(file, folder / file.stem, [vocab]))
        for file in (SCRIPTED, STATE_DICT)
    }


@functools.cache
def clip_state(seed: int = 0, **options) -> dict[str, np.ndarray]:
    """Returns the CLIP of the tiny model by OpenAI's names."""
    model, params = tiny.create(**options), tiny.params(seed, **options)
    state = convert.to_torch(params, model)
    return {k.removeprefix("clip."): v for k, v in state.items() if k.startswith("clip.")}


def save(file: Path, state: dict, **metadata) -> Path:
    save_file(state, file, metadata=metadata or None)
    return file


def assert_same(one: dict, other: dict):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (SCRIPTED, "OpenAI CLIP, .*TorchScript archive, float16, float32.*clip4clip, head=meanP"),
        (STATE_DICT, "X-CLIP, .*PyTorch state dict.*seqTransf.*max_words=7, max_frames=3"),
    ],
)
def test_a_file_of_pytorch_becomes_a_run_with_its_values(imported, file, words):
    folder, account = imported[file]

    trained = workdir.load(folder)

    assert re.search(words, account)
    assert trained.step == 0
    state = convert.to_torch(trained.params, (trained.graphdef, trained.params))
    halves = weight_formats.recognise(file).state
    for name, value in state.items():
        short = name if file == STATE_DICT else name.removeprefix("clip.")
        expected = parameter(short, value.shape, 0).astype(halves[name].dtype)
        np.testing.assert_array_equal(value, expected, err_msg=name)


@pytest.mark.parametrize("to", ["pytorch", "openai", "huggingface"])
def test_what_goes_out_comes_in_again_bit_equal(imported, tmp_path, to):
    folder, _ = imported[STATE_DICT]
    vocab = f"--config.data.vocab={folder.parent / 'merges.txt'}"

    files = transfer.export(folder, to, tmp_path / "out")
    transfer.import_file(files[0], tmp_path / "run", [vocab])

    before, after = workdir.load(folder).params, workdir.load(tmp_path / "run").params
    before = before if to == "pytorch" else {"clip": before["clip"]}
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("golden", sorted(file.stem for file in GOLDEN.glob("*.npz")))
def test_an_export_has_every_array_that_the_references_have(golden):
    """Strict loading there needs these names and shapes, no more and no less."""
    with np.load(GOLDEN / f"{golden}.npz") as file:
        meta = json.loads(bytes(file["meta"]))
    name, _, head = golden.removesuffix("_3d").partition("_")
    sizes = {key: value for key, value in meta["config"].items() if key != "optimizer"}
    model = models.create(name, **sizes)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), model[1])

    state = transfer.completed(convert.to_torch(zeros, model), name, head)

    expected = {key: tuple(shape) for key, shape in meta["parameters"].items()}
    assert {key: value.shape for key, value in state.items()} == expected


def test_names_of_hugging_face_hold_the_same_arrays():
    state = clip_state()

    theirs = hugging_face.to_hugging_face(state)

    width = tiny.SIZES["vision_width"]
    name = "visual.transformer.resblocks.1.attn.in_proj_weight"
    for i, letter in enumerate("qkv"):
        part = theirs[f"vision_model.encoder.layers.1.self_attn.{letter}_proj.weight"]
        np.testing.assert_array_equal(part, state[name][i * width : (i + 1) * width])
    np.testing.assert_array_equal(theirs["visual_projection.weight"], state["visual.proj"].T)
    lazy = {k: stored(v) for k, v in theirs.items()}
    back = hugging_face.from_hugging_face(lazy)
    assert_same({k: np.asarray(v) for k, v in back.items()}, state)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in state.items()}


def stored(array: np.ndarray) -> weight_formats.Stored:
    return weight_formats.Stored(array.shape, array.dtype, lambda: array)


def test_sizes_are_read_off_the_arrays(tmp_path):
    found = weight_formats.recognise(save(tmp_path / "x.safetensors", clip_state()))

    own = set(models.ARCHS["vit_b32"])
    assert found.model is None
    assert found.sizes == {key: tiny.SIZES[key] for key in own} | {"activation": None}


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("xclip", {"head": "meanP"}),
        ("xclip", {"head": "seqLSTM", "linear_patch": "3d"}),
        ("clip4clip", {"head": "meanP"}),
        ("clip4clip", {"head": "seqTransf", "temporal_layers": 3}),
        ("clip4clip", {"head": "seqLSTM"}),
        ("clip4clip", {"head": "tightTransf", "temporal_layers": 2}),
        ("clip2video", {"head": "seqTransf", "centers": 3}),
        ("clip2video", {"head": "seqTransf", "difference": "plain", "alignment": "plain"}),
        ("clip2video", {"head": "seqTransf", "difference": "sigmoid_mlp"}),
        ("clip2video", {"head": "meanP", "difference": "none", "alignment": "none"}),
    ],
)
def test_a_fine_tuned_model_and_its_options_are_recognised(tmp_path, model, options):
    created = models.create(model, **tiny.SIZES | options)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), created[1])
    state = transfer.completed(convert.to_torch(zeros, created), model, options["head"])
    wrapped = {f"module.{name}": value for name, value in state.items()}

    found = weight_formats.recognise(save(tmp_path / "pytorch_model.bin.3", wrapped))

    assert found.model == model
    assert options.items() <= found.sizes.items()
    if model == "xclip":
        assert (found.sizes["max_words"], found.sizes["max_frames"]) == (7, 3)
    assert found.state.keys() == state.keys()
    convert.from_torch(found.state, created)  # strict


@pytest.mark.parametrize("model", ["xclip", "clip4clip", "clip2video"])
def test_from_a_clip_starts_what_stands_on_it_with_copies(model):
    """SPEC 7.2 and 5.1, for as many text blocks as the temporal encoder has layers."""
    head = {"clip4clip": "tightTransf"}.get(model, "seqTransf")
    sizes = tiny.SIZES | {"head": head, "text_layers": 2, "text_width": 64, "temporal_layers": 2}
    created = models.create(model, **sizes)
    clip = {f"clip.{k}": v for k, v in clip_state(text_layers=2, text_width=64).items()}

    started = convert.from_clip(clip, created)

    fresh = models.init(jax.random.key(0), model, **sizes)
    params = jax.tree.map(
        lambda new, old: np.asarray(old) if new is None else new,
        started,
        fresh,
        is_leaf=lambda leaf: leaf is None,
    )
    state, fresh = convert.to_torch(params, created), convert.to_torch(fresh, created)
    for name, value in state.items():
        if name in clip:
            expected = clip[name]
        elif "position_embeddings" in name:
            expected = clip["clip.positional_embedding"][: len(value)]
        elif ".resblocks." in name:
            expected = clip["clip.transformer.resblocks." + name.split(".resblocks.")[1]]
        else:
            expected = fresh[name]
            if model == "xclip":
                np.testing.assert_array_equal(expected, np.eye(len(expected)))
        np.testing.assert_array_equal(value, expected, err_msg=name)


def test_a_3d_patch_starts_as_the_2d_patch_on_the_middle_frame():
    created = tiny.create(head="meanP", linear_patch="3d")
    clip = {f"clip.{k}": v for k, v in clip_state().items()}

    visual = convert.from_clip(clip, created)["clip"]["visual"]

    first, middle, last = visual["conv2"]
    np.testing.assert_array_equal(middle, visual["conv1"]["kernel"])
    assert not first.any() and not last.any()


def test_a_run_starts_from_a_clip_and_no_other_place(tiny_config, tmp_path, capsys):
    """`train --from-clip`, in full, with a rate of zero: what ends is what it started with."""
    sizes = workdir.model_sizes(tiny_config, vocab_size_of(tiny_config))
    created = models.create("xclip", **sizes)
    params = models.init(jax.random.key(7), "xclip", **sizes)
    state = convert.to_torch(params, created)
    clip = {k.removeprefix("clip."): v for k, v in state.items() if k.startswith("clip.")}
    file = save(tmp_path / "clip.safetensors", clip, activation="quick_gelu")
    config = tmp_path / "tiny.py"
    with tiny_config.unlocked():
        tiny_config.optimizer.learning_rate = 0.0
        tiny_config.epochs = 0.1
    config.write_text(
        f"import json\nimport ml_collections\n\n\ndef get_config(arg):\n"
        f"    config = json.loads({tiny_config.to_json()!r})\n"
        "    return ml_collections.ConfigDict(config).lock()\n"
    )

    run = tmp_path / "run"
    cli.main(["train", "--config", str(config), "--workdir", str(run), "--from-clip", str(file)])

    got = convert.to_torch(workdir.load(run).params, created)
    for name, expected in clip.items():
        np.testing.assert_array_equal(got[f"clip.{name}"], expected, err_msg=name)
    for name, value in got.items():
        if name.startswith("transformerClip"):
            source = name.replace("transformerClip", "transformer")
            np.testing.assert_array_equal(value, clip[source], err_msg=name)
    facts = json.loads((run / "config.json").read_text())["config"]
    assert facts["init"]["clip"] == str(file)


def vocab_size_of(config) -> int:
    from xclip_jax import tokenizer

    return tokenizer.load(tokenizer.find_vocab(None, beside=Path(config.data.dir))).vocab_size


def test_a_clip_of_other_sizes_is_no_start(tmp_path):
    file = save(tmp_path / "x.safetensors", clip_state(), activation="gelu")
    sizes = tiny.SIZES | {"patch_size": 6, "text_layers": 3}

    with pytest.raises(ValueError) as caught:
        transfer.start_from_clip(str(file), "xclip", sizes, tiny.params(), resize=())

    for words in (
        "config.model.patch_size=6, 4 in the file",
        "config.model.text_layers=3, 1 in the file",
        "config.model.activation=quick_gelu, gelu in the file",
    ):
        assert words in str(caught.value)


def test_a_fine_tuned_model_is_no_start():
    with pytest.raises(ValueError, match=r"is no CLIP but X-CLIP.*xclip-jax convert"):
        transfer.start_from_clip(str(STATE_DICT), "xclip", {}, {}, resize=())


@pytest.mark.parametrize(
    ("file", "beside", "expected"),
    [
        ("model.safetensors", {}, None),
        ("ViT-B-32-quickgelu.safetensors", {}, "quick_gelu"),
        ("x.bin", {"open_clip_config.json": {"model_cfg": {"quick_gelu": True}}}, "quick_gelu"),
        ("x.bin", {"open_clip_config.json": {"model_cfg": {"embed_dim": 64}}}, "gelu"),
        ("x.bin", {"config.json": {"text_config": {}}}, None),  # is of no Hugging Face file
    ],
)
def test_the_activation_of_open_clip_is_told_by_what_lies_beside(tmp_path, file, beside, expected):
    save(tmp_path / file, clip_state())
    for name, facts in beside.items():
        (tmp_path / name).write_text(json.dumps(facts))

    assert weight_formats.recognise(tmp_path / file).sizes["activation"] == expected


@pytest.mark.parametrize(
    ("text", "vision", "expected"),
    [
        ({}, {}, "quick_gelu"),
        ({"hidden_act": "gelu"}, {"hidden_act": "gelu"}, "gelu"),
        ({"hidden_act": "gelu"}, {}, ValueError),
        ({"hidden_act": "silu"}, {"hidden_act": "silu"}, ValueError),
        ({"num_attention_heads": 2}, {}, ValueError),
    ],
)
def test_the_activation_of_hugging_face_is_its_configs(tmp_path, text, vision, expected):
    file = save(tmp_path / "model.safetensors", hugging_face.to_hugging_face(clip_state()))
    facts = {"text_config": text, "vision_config": vision}
    (tmp_path / "config.json").write_text(json.dumps(facts))

    if expected is ValueError:
        with pytest.raises(ValueError, match=r"config\.json"):
            weight_formats.recognise(file)
    else:
        assert weight_formats.recognise(file).sizes["activation"] == expected


def test_an_unknown_activation_is_refused_until_it_is_said(tmp_path):
    state = clip_state(vocab_size=517)
    file = save(tmp_path / "x.safetensors", state)
    (tmp_path / "merges.txt").write_text(MERGES)
    vocab = f"--config.data.vocab={tmp_path / 'merges.txt'}"

    with pytest.raises(ValueError, match=r"QuickGELU or .*--config\.model\.activation=gelu"):
        transfer.import_file(file, tmp_path / "run", [vocab])
    transfer.import_file(file, tmp_path / "run", [vocab, "--config.model.activation=gelu"])
    assert workdir.load(tmp_path / "run").config.model.activation == "gelu"
    with pytest.raises(ValueError, match=r"the released code has no such model.*gelu"):
        transfer.export(tmp_path / "run", "pytorch", tmp_path / "out")


def test_missing_unknown_and_misshapen_keys_are_listed_all_together(tmp_path):
    state = {f"clip.{k}": v for k, v in clip_state(vocab_size=517).items()}
    del state["clip.ln_final.bias"]
    state["clip.visual.ln_pre.bias"] = np.zeros(5, np.float32)
    state["extra.weight"] = np.zeros(5, np.float32)
    file = save(tmp_path / "pytorch_model.bin.1", state)
    (tmp_path / "merges.txt").write_text(MERGES)

    with pytest.raises(ValueError) as caught:
        transfer.import_file(
            file, tmp_path / "run", [f"--config.data.vocab={tmp_path / 'merges.txt'}"]
        )

    first, *lines = str(caught.value).splitlines()
    assert first.startswith("3 keys do not fit")
    assert [line.split()[0] for line in lines] == [
        "clip.visual.ln_pre.bias",
        "clip.ln_final.bias",
        "extra.weight",
    ] or len(lines) == 3


def test_what_is_no_known_model_is_told(tmp_path):
    cases = {
        "no model that is known.*this has fc.weight": {"fc.weight": np.zeros(3)},
        "a CLIP with a ResNet": {"visual.layer1.0.conv1.weight": np.zeros(3)},
        "not a whole CLIP: .*token_embedding": {
            k: v for k, v in clip_state().items() if k != "token_embedding.weight"
        },
        "9 patches|8 patches": clip_state() | {"visual.positional_embedding": np.zeros((9, 128))},
    }
    for words, state in cases.items():
        with pytest.raises(ValueError, match=words):
            weight_formats.recognise(save(tmp_path / "x.safetensors", state))


def test_a_released_name_with_another_content_is_refused(tmp_path):
    shutil.copy(SCRIPTED, tmp_path / "ViT-B-32.pt")

    with pytest.raises(ValueError, match=r"not OpenAI's ViT-B-32\.pt: its sha256 is .*40d365715"):
        weight_formats.recognise(tmp_path / "ViT-B-32.pt")


def test_the_commands_say_what_they_found_and_wrote(imported, tmp_path, capsys):
    folder, _ = imported[STATE_DICT]

    start = time.perf_counter()
    with pytest.raises(SystemExit):
        cli.main(["convert", str(tmp_path), "--out", str(tmp_path / "run")])
    assert time.perf_counter() - start < 5  # with all imports
    assert "is a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        vocab = f"--config.data.vocab={folder.parent / 'merges.txt'}"
        cli.main(["convert", str(SCRIPTED), "--out", str(folder), vocab])
    assert "holds a run already: choose another --out" in capsys.readouterr().err
    cli.main(["export", str(folder), "--to", "huggingface", "--out", str(tmp_path / "hf")])
    assert str(tmp_path / "hf" / "config.json") in capsys.readouterr().out
    assert "logit_scale" in load_file(tmp_path / "hf" / "model.safetensors")
