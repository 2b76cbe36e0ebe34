"""Weights go between the references' names and ours without a bit lost or a key unnoticed."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from xclip_jax import convert, models

GOLDEN = Path(__file__).parent / "golden"
HEADS = ["meanP", "seqTransf", "seqLSTM"]


def random_state_dict(model, seed=0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = convert.to_torch(jax.tree.map(lambda leaf: np.zeros(leaf.shape), model[1]), model)
    return {name: rng.normal(size=value.shape).astype(np.float32) for name, value in shapes.items()}


def assert_same(one: dict, other: dict):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("options", [{"head": head} for head in HEADS] + [{"linear_patch": "3d"}])
def test_a_round_trip_from_torch_is_bit_equal(options):
    model = tiny.create(**options)
    state_dict = random_state_dict(model)

    back = convert.to_torch(convert.from_torch(state_dict, model), model)

    assert_same(back, state_dict)


@pytest.mark.parametrize("head", HEADS)
def test_a_round_trip_from_jax_is_bit_equal(head):
    model, params = tiny.create(head=head), tiny.params(head=head)

    back = convert.from_torch(convert.to_torch(params, model), model)

    assert jax.tree.structure(back) == jax.tree.structure(params)
    for one, other in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("head", HEADS)
def test_names_and_shapes_are_the_references(head):
    with np.load(GOLDEN / f"xclip_{head}.npz") as file:
        meta = json.loads(bytes(file["meta"]))
    sizes = {key: value for key, value in meta["config"].items() if key != "optimizer"}

    state_dict = random_state_dict(models.create("xclip", **sizes))

    expected = {name: tuple(shape) for name, shape in meta["parameters"].items()}
    if head == "seqLSTM":
        del expected["frame_position_embeddings.weight"]  # made there, read by nothing
    assert {name: value.shape for name, value in state_dict.items()} == expected


def test_a_3d_patch_has_the_references_shape():
    state_dict = random_state_dict(tiny.create(linear_patch="3d"))

    width, patch = tiny.SIZES["vision_width"], tiny.SIZES["patch_size"]
    assert state_dict["clip.visual.conv1.weight"].shape == (width, 3, patch, patch)
    assert state_dict["clip.visual.conv2.weight"].shape == (width, 3, 3, patch, patch)


def test_each_layer_goes_to_its_own_place_in_the_stack():
    model = tiny.create()
    state_dict = random_state_dict(model)

    params = convert.from_torch(state_dict, model)

    stacked = params["clip"]["visual"]["transformer"]["blocks"]["c_fc"]["kernel"]
    for i in range(tiny.SIZES["vision_layers"]):
        name = f"clip.visual.transformer.resblocks.{i}.mlp.c_fc.weight"
        np.testing.assert_array_equal(stacked[i], state_dict[name].T)


def test_half_precision_becomes_float32():
    model = tiny.create(head="meanP")
    narrow = {k: v.astype(np.float16) for k, v in random_state_dict(model).items()}

    back = convert.to_torch(convert.from_torch(narrow, model), model)

    assert {value.dtype for value in back.values()} == {np.dtype(np.float32)}
    assert_same(back, narrow)


def test_what_is_no_parameter_may_be_there():
    model = tiny.create(head="seqLSTM")
    state_dict = random_state_dict(model)
    extra = {
        "input_resolution": np.int64(224),
        "clip.context_length": np.int64(77),
        "vocab_size": np.int64(49408),
        "cross.embeddings.position_ids": np.arange(5),
        "frame_position_embeddings.weight": np.zeros((77, 64)),
    }

    params = convert.from_torch(state_dict | extra, model)

    assert_same(convert.to_torch(params, model), state_dict)


def test_the_table_of_positions_is_needed_by_the_head_that_reads_it_and_unknown_to_the_rest():
    name = "frame_position_embeddings.weight"
    reads, ignores = tiny.create(head="seqTransf"), tiny.create(head="meanP")
    without = {k: v for k, v in random_state_dict(reads).items() if k != name}

    with pytest.raises(ValueError, match=rf"1 keys .*\n  {re.escape(name)} is missing$"):
        convert.from_torch(without, reads)
    with pytest.raises(ValueError, match=rf"1 keys .*\n  {re.escape(name)} is unknown$"):
        convert.from_torch(random_state_dict(ignores) | {name: np.zeros((77, 64))}, ignores)


def test_missing_misshapen_and_unknown_keys_are_reported_together():
    model = tiny.create()
    state_dict = random_state_dict(model)
    del state_dict["clip.visual.proj"]
    del state_dict["clip.transformer.resblocks.0.ln_1.bias"]
    state_dict["word_mat_weight"] = np.zeros((9, 9))
    state_dict["clip.visual.conv1.weight"] = np.zeros((128, 3, 8, 8))
    state_dict["module.extra"] = np.zeros(3)

    with pytest.raises(ValueError) as error:
        convert.from_torch(state_dict, model)

    first, *lines = str(error.value).splitlines()
    assert first.startswith("5 keys do not fit this model")
    assert sorted(line.strip() for line in lines) == [
        "clip.transformer.resblocks.0.ln_1.bias is missing",
        "clip.visual.conv1.weight has shape (128, 3, 8, 8), this model expects (128, 3, 4, 4)",
        "clip.visual.proj is missing",
        "module.extra is unknown",
        "word_mat_weight has shape (9, 9), this model expects (7, 7)",
    ]


def test_of_many_problems_ten_are_shown_and_all_are_counted():
    model = tiny.create()
    wrong = {f"unknown.{i:02}": np.zeros(2) for i in range(13)}

    with pytest.raises(ValueError) as error:
        convert.from_torch(random_state_dict(model) | wrong, model)

    first, *lines = str(error.value).splitlines()
    assert first.startswith("13 keys")
    assert lines[:10] == [f"  unknown.{i:02} is unknown" for i in range(10)]
    assert lines[10:] == ["  ... and 3 more"]
