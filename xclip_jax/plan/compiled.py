"""What a run would need on chips that are not here: its step and evaluation, compiled for them.

The programs are the real ones; memory, collectives and operations are read off them. Times are the
roofline's, an estimate.
"""

import re
import time

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx
from jax.sharding import NamedSharding

from xclip_jax import evaluate, flops, models, optimizer, scoring, sharding, train_step, workdir
from xclip_jax.plan import collectives, estimate, gpus, hlo, traced_flops, traffic
from xclip_jax.plan.topology import Topology

CLIP_VOCAB = 49408  # entries; the size of a custom model's vocabulary changes little
EVALUATED = 1000  # texts and videos to score where the shards are not here: MSR-VTT's 1k-A


def whole(
    config: ml_collections.ConfigDict,
    topology: Topology,
    *,
    pairs: int | None,
    price: float | None,
    evaluation: bool,
) -> dict:
    """Returns `compile_for`'s facts with those of the run, where the number of pairs is known."""
    facts = compile_for(config, topology, evaluation=evaluation)
    if "estimate" in facts and pairs is not None:
        facts["run"] = estimate.run(facts["estimate"], config, pairs, facts["chips"], price)
    return facts


def compile_for(config: ml_collections.ConfigDict, topology: Topology, *, evaluation: bool) -> dict:
    """Returns the facts of the train step, and of the evaluation's verbs, on a topology.

    They are plain numbers of one device, ready for JSON; `evaluation` says whether the verbs are
    compiled too.
    """
    devices = len(topology.devices)
    _check(config, topology)
    sizes = workdir.model_sizes(config, config.model.vocab_size or CLIP_VOCAB)
    mesh = sharding.make_mesh(config.fsdp, topology.devices)
    graphdef, _ = models.create(config.model.name, **sizes)
    adam = optimizer.create(**config.optimizer, total_steps=1000).transformation
    state, layout = train_step.abstract_state(config, sizes, adam, mesh)
    videos = config.batch_size // config.data.captions_per_video
    place = NamedSharding(mesh, sharding.BATCH)
    batch = abstract_batch(config, sizes, config.batch_size, videos, place)
    arithmetic = _arithmetic(config, topology)
    facts = {
        "topology": topology.name,
        "chip": topology.devices[0].device_kind,
        "chips": topology.chips,
        "devices": devices,
        "mesh": dict(mesh.shape),
        "batch_size": config.batch_size,
        "arithmetic": arithmetic,
    }
    step = train_step.make(
        graphdef, adam, layout, mesh, seed=config.seed, micro_batch=config.micro_batch
    )
    with jax.set_mesh(mesh):
        traced = step.trace(state, batch)
        facts["step"] = program_facts(traced, topology, mesh)
        facts["step"]["flops"] = _model_flops(config, sizes, graphdef, state, batch) / devices
        if evaluation:
            facts["evaluation"] = _evaluation(config, sizes, graphdef, state, topology, mesh)
    if topology.is_gpu:
        facts["notes"] = gpus.notes(topology.chip.hbm_gib, topology.hosts)
    if topology.chip and topology.hosts == 1 and "hbm_bytes" in facts["step"]:
        facts["estimate"] = estimate.step(facts["step"], videos, topology, arithmetic)
    return facts


def abstract_batch(
    config: ml_collections.ConfigDict, sizes: dict, texts: int, videos: int, place=None
) -> dict:
    """Returns the shapes of a batch as the input pipeline makes it, laid out as `place` says."""
    frames, words, side = sizes["max_frames"], sizes["max_words"], sizes["image_size"]
    shapes = {
        "video": ((videos, _encoded(config, sizes), side, side, 3), jnp.uint8),
        "frame_mask": ((videos, frames), jnp.bool_),
        "tokens": ((texts, words), jnp.int32),
        "token_mask": ((texts, words), jnp.bool_),
    }
    if config.data.captions_per_video > 1 or not config.data.same_video_negatives:
        shapes["video_ids"] = ((videos,), jnp.int32)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
        for name, (shape, dtype) in shapes.items()
    }


def _encoded(config, sizes: dict) -> int:
    """Returns the frames of a video that are encoded one by one."""
    return min(config.data.encoded_frames or sizes["max_frames"], sizes["max_frames"])


def program_facts(traced, topology: Topology, mesh) -> dict:
    """Returns what a traced program takes of one chip, once compiled; `fits` is False, and little
    else is there, where the compiler finds that it does not."""
    facts: dict = {"executed_flops": traced_flops.count(traced.jaxpr) / len(topology.devices)}
    start = time.perf_counter()
    lowered = traced.lower()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return facts | {"fits": False} | _needed(str(error))
    facts["compile_seconds"] = round(time.perf_counter() - start, 1)
    memory = compiled.memory_analysis()
    facts["memory"] = {
        "argument": memory.argument_size_in_bytes,
        "output": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temp": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
    }
    made = memory.output_size_in_bytes - memory.alias_size_in_bytes
    facts["memory"]["peak"] = made + sum(
        facts["memory"][name] for name in ("argument", "temp", "code")
    )
    facts["fits"] = None
    if topology.room_gib:
        facts["hbm_gib"] = topology.room_gib
        facts["fits"] = facts["memory"]["peak"] <= topology.room_gib * 2**30
    program = hlo.parse(compiled.as_text())
    facts["hbm_bytes"] = traffic.count(program)
    facts["collectives"] = [
        one._asdict() for one in collectives.find(program, dict(mesh.shape), slices=topology.slices)
    ]
    facts["loops_counted_once"] = hlo.times(program)[1]
    return facts


def _check(config, topology: Topology) -> None:
    """Raises one ValueError for all in a config that this many chips cannot share out."""
    chips, problems = len(topology.devices), []
    if config.fsdp not in (working := sharding.fsdp_sizes(topology.devices)):
        them = "them" if topology.slices == 1 else f"the {working[-1]} of a slice"
        problems.append(
            f"config.fsdp={config.fsdp} does not divide {them}: choose {sharding.listed(working)}"
        )
    least = chips * config.data.captions_per_video  # a video each, with its captions
    if config.batch_size % least:
        near = max(least, round(config.batch_size / least) * least)
        problems.append(
            f"config.batch_size={config.batch_size} cannot be shared out evenly: choose a multiple"
            f" of {least}, {near} say"
        )
    if problems:
        what = "chips" if chips == topology.chips else "devices"
        raise ValueError(f"--topology {topology.name} has {chips} {what}; {'; '.join(problems)}.")


def _arithmetic(config, topology: Topology) -> str:
    """Returns what matrices are multiplied in: by default JAX takes less than float32 for it, a TPU
    one pass of bfloat16, a GPU tensorfloat32."""
    default = {"tpu": "bfloat16", "gpu": "tensorfloat32"}.get(topology.devices[0].platform)
    return default if default and config.model.dtype == "float32" else config.model.dtype


def _needed(message: str) -> dict:
    """Returns the bytes that the compiler wanted, and had, from its message."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    found = re.findall(r"\(([\d.]+)([KMGT]?)\)", message)
    sizes = [float(number) * units[unit] for number, unit in found]
    names = ("needed", "available")
    return {"memory": dict(zip(names, sizes[:2], strict=False)), "message": message[:300]}


def _model_flops(config, sizes: dict, graphdef, state, batch) -> int:
    """Returns the operations of a step that the model asks for, over all chips."""
    frames, texts = _encoded(config, sizes), config.batch_size
    videos = batch["frame_mask"].shape[0]
    if config.model.name == "xclip":
        way_there = (
            flops.encode_text(sizes, texts)
            + flops.encode_video(sizes | {"max_frames": frames}, videos)
            + flops.similarity(sizes, texts, videos)
        )
    else:

        def forward(params, batch):
            model = nnx.merge(graphdef, params)
            text = model.encode_text(batch["tokens"], batch["token_mask"])
            video = model.encode_video(batch["video"], batch["frame_mask"])
            return model.loss(text, video, jax.random.key(0))

        way_there = traced_flops.count(jax.jit(forward).trace(state["params"], batch).jaxpr)
    return 3 * way_there - videos * frames * flops.patch_embedding(sizes)


def _evaluation(config, sizes: dict, graphdef, state, topology: Topology, mesh) -> dict:
    """Returns the facts of the three verbs, called as `evaluate` calls them."""
    encoders = evaluate.make_encoders(graphdef)
    params, size = state["params"], config.eval_batch_size
    words, frames = sizes["max_words"], sizes["max_frames"]
    batch = abstract_batch(config, sizes, size, size)
    texts = videos = EVALUATED
    platform = topology.devices[0].platform
    elements = encoders.pair_floats(params, words, frames)
    rows, columns = scoring.tile_shape(texts, videos, elements, platform)
    plain = jax.ShapeDtypeStruct
    text = jax.eval_shape(encoders.text, params, batch["tokens"], batch["token_mask"])
    video = jax.eval_shape(encoders.video, params, batch["video"], batch["frame_mask"])
    text = jax.tree.map(lambda x: plain((rows, *x.shape[1:]), x.dtype), text)
    video = jax.tree.map(lambda x: plain((videos, *x.shape[1:]), x.dtype), video)
    traced = {
        "text": encoders.text.trace(params, batch["tokens"], batch["token_mask"]),
        "video": encoders.video.trace(params, batch["video"], batch["frame_mask"]),
        "similarity": encoders.similarity.trace(params, text, video, columns=columns),
    }
    return {name: program_facts(one, topology, mesh) for name, one in traced.items()}
