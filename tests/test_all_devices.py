"""One process with eight devices: `eval`, `index` and `embed` give what one device gives, and each
device computes its share of the rows."""

import shutil

import jax
import numpy as np
import pytest

from xclip_jax import embed, evaluate, library, sharding, workdir
from xclip_jax.index import listing, making, store
from xclip_jax.models.similarity import Video
from xclip_jax.records import Shards

VERBS = ("text", "video", "similarity", "frames", "gathered")


@pytest.fixture
def clips(shapes, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for i in range(5):
        shutil.copy(shapes / "rendered" / "videos" / f"test-{i:05d}.mp4", folder)
    return folder


@pytest.fixture
def model(run):
    """Returns the trained model on some devices, and what its verbs shared out: for each of them
    the parts into which rows were cut, and the device of each part."""

    def model(devices: int):
        mesh = sharding.make_mesh(1, jax.devices()[:devices])
        loaded = library.load(run)
        loaded.trained = workdir.load(run, mesh=mesh)
        encoders, seen = evaluate.make_encoders(loaded.trained.graphdef, mesh), {}

        def watched(name):
            verb = getattr(encoders, name)

            def call(params, rows, *rest, **options):
                result = verb(params, rows, *rest, **options)
                arrays = jax.tree.leaves((rows, result))
                if any(isinstance(x, jax.core.Tracer) for x in arrays):
                    return result  # asked for its shapes alone
                seen.setdefault(name, set()).update(
                    (len(x) // len(shard.data), shard.device)
                    for x in arrays
                    for shard in x.addressable_shards
                )
                return result

            return call

        loaded.encoders = encoders._replace(**{name: watched(name) for name in VERBS})
        return loaded, seen

    return model


def scores(model, split):
    trained = model.trained
    shards = Shards(trained.config.data.dir, split)
    return evaluate.score_split(
        model.encoders,
        trained.params,
        shards,
        trained.tokenizer,
        trained.intake,
        twins=None,
        batch_size=5,  # which eight devices do not divide
    )


def indexed(model, clips, place):
    """Returns the features of each clip in a new index, by its path."""
    index = making.open_or_make(place, model.trained, model.encoders, "run", moment_frames=4)
    making.fill(index, model.trained, model.encoders, listing.read(clips), progress=False)
    [rows] = store.scan(index, index.videos.schema.names, where=None, rows=99)
    features = zip(*store.features(index, rows, Video), strict=True)
    return dict(zip(rows["path"].to_pylist(), features, strict=True))


def embedded(model, clips, out):
    embed.clips(model, clips, out)
    with np.load(out) as stored:
        return {name: stored[name] for name in ("video", "frames", "mask")}


def test_eight_devices_give_what_one_gives_and_each_computes_a_share(model, clips, tmp_path):
    found, shares = [], []
    for devices in (8, 1):
        one, seen = model(devices)
        matrices = [scores(one, split) for split in ("test", "train")]
        index = indexed(one, clips, tmp_path / f"index-{devices}")
        vectors = embedded(one, clips, tmp_path / f"{devices}.npz")
        found.append((matrices, index, vectors))
        shares.append(seen)

    # Features are of length 1; scores are those of unit vectors times the logit scale. An index
    # keeps float16, which may be rounded the other way.
    for rtol, eight, one in zip((1e-5, 2**-10, 1e-5), *found, strict=True):
        for x, y in zip(*map(jax.tree.leaves, (eight, one)), strict=True):
            np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-5)
    assert len(found[0][1]) == 5 and found[0][0][1].shape == (24 * 5, 24)
    for devices, seen in zip((8, 1), shares, strict=True):
        expected = {(devices, device) for device in jax.devices()[:devices]}
        assert seen == dict.fromkeys(VERBS, expected)
