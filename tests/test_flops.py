"""The operations and videos of a step: one count for the plan, the progress line, the benchmarks.

The oracle is a formula in the sizes for X-CLIP, and for all models XLA's own count, which is right
where every scan has one turn.
"""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from xclip_jax import config_loader, flops, models, throughput, tokenizer, train_step, workdir
from xclip_jax import input as pipeline
from xclip_jax.models.similarity import Text, Video
from xclip_jax.protocol import open_data

PEAK = 197e12  # of a v5e
CLIP_VOCAB = 49408
SIZES = {
    "embed_dim": 256,
    "image_size": 64,
    "patch_size": 16,
    "vision_layers": 1,
    "vision_width": 384,
    "text_width": 320,
    "text_layers": 1,
    "context_length": 20,
    "vocab_size": 50,
    "max_words": 9,
    "max_frames": 5,
    "temporal_layers": 1,
    "head": "seqTransf",
}


def transformer(layers: int, width: int, tokens: int) -> int:
    return layers * tokens * (24 * width**2 + 4 * width * tokens)


def by_formula(sizes: dict, *, texts: int, videos: int, encoded: int) -> int:
    """Returns the operations of a step of X-CLIP with seqTransf, of whose videos `encoded` frames
    and one blank image pass the image tower."""
    words, frames, embed = sizes["max_words"], sizes["max_frames"], sizes["embed_dim"]
    width, patches = sizes["vision_width"], (sizes["image_size"] // sizes["patch_size"]) ** 2
    embedding = 2 * 3 * sizes["image_size"] ** 2 * width
    # The last block makes keys and values of all tokens; the rest of it sees one of them.
    frame = (
        embedding
        + transformer(sizes["vision_layers"], width, patches + 1)
        - patches * (18 * width**2 + 4 * width * (patches + 1))
        + 2 * width * embed
    )
    images = videos * encoded + (encoded < frames)
    video = images * frame + videos * transformer(sizes["temporal_layers"], embed, frames)
    text = transformer(sizes["text_layers"], sizes["text_width"], words)
    text = texts * (text + 2 * words * sizes["text_width"] * embed)
    compared = 2 * embed * (1 + words + frames + words * frames)
    mixed = 2 * (words * frames * (words + frames) + 2 * words**2 + 2 * frames**2)
    projected = 2 * embed**2 * (texts + min(texts * words, videos * frames))
    scores = texts * videos * (compared + mixed) + projected
    return 3 * (text + video + scores) - videos * encoded * embedding


class Chip:
    """What `throughput` asks of a device."""

    platform, device_kind = "tpu", "TPU v5e"

    def memory_stats(self):
        return None


@pytest.fixture
def two_chips(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [Chip(), Chip()])
    monkeypatch.setattr(jax, "local_devices", lambda: [Chip()])
    monkeypatch.setattr(jax, "device_count", lambda: 2)


# Of each recipe: the videos of a step, and the frames of each that are encoded one by one.
@pytest.mark.parametrize(
    ("recipe", "overrides", "videos", "encoded"),
    [
        ("msrvtt", [], 300, 12),
        ("didemo", [], 64, 32),  # of 64
        ("msrvtt", ["--config.data.captions_per_video=4"], 75, 12),
    ],
)
def test_a_recipes_mfu_and_videos_are_those_of_its_batches(
    recipe, overrides, videos, encoded, two_chips
):
    config = config_loader.load(recipe, overrides)
    sizes = workdir.model_sizes(config, CLIP_VOCAB)

    told = throughput.Rates(config, sizes).of(0.5)

    operations = by_formula(sizes, texts=config.batch_size, videos=videos, encoded=encoded)
    assert told["train/videos_per_second_per_chip"] == 0.5 * videos / 2
    assert told["train/mfu"] == pytest.approx(0.5 * operations / 2 / PEAK, rel=1e-4)


@pytest.mark.parametrize("overrides", [[], ["--config.data.captions_per_video=2"]])
def test_the_batch_that_is_counted_is_the_one_that_training_gets(tiny_config, shapes, overrides):
    config_loader.override(
        tiny_config, [*overrides, "--config.data.max_frames=40", "--config.batch_size=16"]
    )
    tiny_config.data.encoded_frames = 30
    sizes = workdir.model_sizes(tiny_config, 300)
    data = tiny_config.data
    stream = pipeline.train(
        open_data(tiny_config).train,
        tokenizer.load(shapes / "rendered" / "merges.txt"),
        workdir.intake(tiny_config, sizes),
        batch_size=tiny_config.batch_size,
        seed=0,
        first=0,
        captions_per_video=data.captions_per_video,
        same_video_negatives=data.same_video_negatives,
    )

    counted, real = train_step.abstract_batch(tiny_config, sizes), next(stream)

    assert {name: x.shape for name, x in counted.items()} == {
        name: x.shape for name, x in real.items()
    }
    assert counted["video"].shape[1] == 30


def xla(function, *inputs) -> float:
    """Returns the operations that XLA counts in a function of these inputs."""
    return jax.jit(function).lower(*inputs).cost_analysis()["flops"]


def shapes_of(config_batch: dict, **overrides) -> dict:
    return {name: jax.ShapeDtypeStruct(*x) for name, x in (config_batch | overrides).items()}


BATCH = {
    "video": ((6, 5, 64, 64, 3), jnp.uint8),
    "frame_mask": ((6, 5), jnp.bool_),
    "tokens": ((6, 9), jnp.int32),
    "token_mask": ((6, 9), jnp.bool_),
}


# What is not counted, norms and softmaxes and their like, adds up to a twentieth of a model this
# narrow.
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("xclip", {}),
        ("xclip", {"head": "meanP", "linear_patch": "3d", "learned_mixing": False}),
        ("clip4clip", {"head": "meanP"}),
        ("clip4clip", {"head": "tightTransf"}),
        ("clip2video", {}),
    ],
)
def test_the_operations_of_every_model_are_those_of_xla(name, options):
    graphdef, params = models.create(name, **SIZES | {"remat": "none"} | options)
    batch = shapes_of(BATCH)

    def loss(params, batch):
        model = nnx.merge(graphdef, params)
        text = model.encode_text(batch["tokens"], batch["token_mask"])
        video = model.encode_video(batch["video"], batch["frame_mask"])
        return model.loss(text, video, jax.random.key(0))

    counted = flops.train_step(graphdef, params, batch)

    assert counted == pytest.approx(xla(jax.value_and_grad(loss), params, batch), rel=0.05)


def test_what_is_computed_again_is_not_counted():
    batch = shapes_of(BATCH)
    least, most = (
        flops.train_step(*models.create("xclip", **SIZES | {"remat": remat}), batch)
        for remat in ("none", "full")
    )

    assert least == most


def test_the_operations_of_the_similarity_are_those_of_xla():
    graphdef, params = models.create("xclip", **SIZES)
    words, frames, embed = SIZES["max_words"], SIZES["max_frames"], SIZES["embed_dim"]
    text = Text(jnp.ones((4, embed)), jnp.ones((4, words, embed)), jnp.ones((4, words), bool))
    video = Video(jnp.ones((6, embed)), jnp.ones((6, frames, embed)), jnp.ones((6, frames), bool))

    counted = xla(lambda p: nnx.merge(graphdef, p).similarity(text, video), params)

    assert flops.similarity(graphdef, params, text, video) == pytest.approx(counted, rel=0.05)
