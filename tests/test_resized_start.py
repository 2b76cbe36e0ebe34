"""Weight files of other sizes start a model, or become a run, where the config names the sizes."""

import jax
import numpy as np
import pytest
import tiny
from safetensors.numpy import save_file

from xclip_jax import convert, resize_weights, transfer, workdir

MERGES = "#version: 0.2\na n\nan d</w>\nt h\n"  # 3 merges: 517 entries


def save(path, params, model, *, prefix: str = "") -> str:
    """Writes the arrays below `prefix` by the references' names."""
    state = convert.to_torch(params, model)
    below = {name.removeprefix(prefix): a for name, a in state.items() if name.startswith(prefix)}
    save_file(below, path, metadata={"activation": "quick_gelu"})
    return str(path)


def test_a_clip_of_another_image_size_starts_a_model(tmp_path):
    same = {"text_width": 64}  # as wide as the temporal encoder, which starts as its copy
    model, given = tiny.create(**same), jax.tree.map(np.asarray, tiny.params(**same))
    file = save(tmp_path / "clip.safetensors", given, model, prefix="clip.")
    asked = same | {"image_size": 20, "max_frames": 5}
    sizes, fresh = tiny.SIZES | asked, tiny.params(seed=1, **asked)

    with pytest.raises(ValueError, match=r"image_size=20, 12 in the file; --config\.init\.resize="):
        transfer.start_from_clip(file, "xclip", sizes, fresh, resize=())
    started = transfer.start_from_clip(file, "xclip", sizes, fresh, resize=("image_size",))

    visual = given["clip"]["visual"]
    np.testing.assert_array_equal(
        started["clip"]["visual"]["positional_embedding"],
        resize_weights.image_positions(visual["positional_embedding"], 26),
    )
    np.testing.assert_array_equal(started["clip"]["visual"]["proj"], visual["proj"])
    for name in ("frame_mat_weight", "word_mat_weight"):  # not CLIP's: as drawn
        np.testing.assert_array_equal(started[name], fresh[name])


def test_released_weights_of_other_words_and_frames_become_a_run(tmp_path):
    model = tiny.create(vocab_size=517)
    given = jax.tree.map(np.asarray, tiny.params(vocab_size=517))
    file = save(tmp_path / "x.safetensors", given, model)
    (tmp_path / "merges.txt").write_text(MERGES)
    asked = [
        f"--config.data.vocab={tmp_path / 'merges.txt'}",
        "--config.model.temporal_layers=1",
        "--config.data.max_words=9",
        "--config.data.max_frames=2",
    ]

    with pytest.raises(ValueError, match=r"\(3, 3\) in the weights, \(2, 2\) .* add max_frames to"):
        transfer.import_file(file, tmp_path / "run", asked)
    allowed = "--config.init.resize=max_words,max_frames"
    transfer.import_file(file, tmp_path / "run", [*asked, allowed])

    params = workdir.load(tmp_path / "run").params
    np.testing.assert_array_equal(params["frame_mat_weight"], given["frame_mat_weight"][:2, :2])
    words = np.asarray(params["word_logit_weight"])
    np.testing.assert_array_equal(words[:7, :7], given["word_logit_weight"])
    np.testing.assert_array_equal(words[7:], np.eye(9)[7:])
