"""`xclip-jax export --to stablehlo`: what is written computes the model's features, by itself."""

import json
import shutil

import numpy as np
import pytest
from jax import export
from safetensors.numpy import load_file

import xclip_jax
from xclip_jax import cli, models, stablehlo, workdir


@pytest.fixture(scope="module")
def model(run):
    return xclip_jax.load(run)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The folder that the command wrote."""
    folder = tmp_path_factory.mktemp("stablehlo")
    cli.main(["export", str(run), "--to", "stablehlo", "--out", str(folder)])
    return folder


def nested(flat):
    """Returns the parameters as export.json says they are to be nested."""
    params = {}
    for name, array in flat.items():
        branch = params
        for key in name.split("/")[:-1]:
            branch = branch.setdefault(key, {})
        branch[name.split("/")[-1]] = array
    return params


def test_the_programs_compute_the_models_features_for_any_number_of_rows(model, run, exported):
    facts = json.loads((exported / "export.json").read_text())
    params = nested(load_file(exported / "params.safetensors"))
    text = export.deserialize(bytearray((exported / "text.jax_export").read_bytes()))
    video = export.deserialize(bytearray((exported / "video.jax_export").read_bytes()))

    assert text.platforms == video.platforms == tuple(facts["platforms"]) == stablehlo.PLATFORMS
    for texts in (["a red square"], ["a circle", "a square grows", "zebra", "", "up"]):
        found = text.call(params, *model.trained.tokenizer(texts, 16))
        expected = model.encode_text(texts)._asdict()
        assert set(found) == set(expected) == set(facts["text"]["outputs"])
        for field, x in expected.items():
            np.testing.assert_allclose(found[field], x, rtol=0, atol=1e-5)
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 64, 64, 3), np.uint8)
    padded = np.pad(frames, [(0, 0), (0, 3), (0, 0), (0, 0), (0, 0)])
    found = video.call(params, padded, np.tile(np.arange(8) < 5, (2, 1)))
    for field, x in model.encode_video(list(frames))._asdict().items():
        np.testing.assert_allclose(found[field], x, rtol=0, atol=1e-5)
        assert facts["video"]["outputs"][field].startswith(f"{x.dtype}[rows, {x.shape[1]}")
    vocabulary = exported / facts["text"]["vocabulary"]
    assert vocabulary.read_bytes() == workdir.vocabulary(run).read_bytes()
    assert facts["fingerprint"] == model.fingerprint


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clip2video", {"head": "seqTransf"}),
        ("xclip", {"head": "seqLSTM", "linear_patch": "3d"}),
    ],
    ids=["clip2video", "xclip"],
)
def test_models_of_other_parts_can_be_exported(model, name, options):
    config = model.trained.config.copy_and_resolve_references()
    sizes = workdir.model_sizes(config, model.trained.tokenizer.vocab_size)
    own = {"contrasts", "aggregation", "temperature", "learned_mixing", "mask_padding"}
    sizes = {key: value for key, value in sizes.items() if key not in own} | options
    graphdef, abstract = models.create(name, **sizes)

    programs = stablehlo.programs(model.trained._replace(graphdef=graphdef, params=abstract))

    for program in programs.values():
        assert all(str(aval.shape[0]) == "rows" for aval in program.out_avals)
    assert len(programs["video"].serialize()) < 2**18  # parameters are no constants in it


def test_weights_that_are_not_the_models_are_noticed(model, exported, tmp_path):
    other = shutil.copytree(exported, tmp_path / "other")
    params = load_file(other / "params.safetensors")
    params["clip/visual/proj"] = params["clip/visual/proj"][::-1].copy()
    stablehlo.save_file(params, other / "params.safetensors")

    assert stablehlo.check(other, model) > 1e-3
