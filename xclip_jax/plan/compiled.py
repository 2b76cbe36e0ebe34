"""What a run would need on chips that are not here: its step and evaluation, compiled for them.

The programs are the real ones; memory, collectives and operations are read off them. Times are the
roofline's, an estimate.
"""

import re
import time

import jax
import ml_collections
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from xclip_jax import (
    chips,
    evaluate,
    flops,
    models,
    optimizer,
    scoring,
    sharding,
    train_step,
    workdir,
)
from xclip_jax.parallel import row_sharding
from xclip_jax.plan import collectives, estimate, gpus, hlo, traffic
from xclip_jax.plan.topology import Topology
from xclip_jax.training import padded_batch

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
    count = len(topology.devices)
    _check(config, topology)
    padded = padded_batch.pad(config, count)
    sizes = workdir.model_sizes(config, config.model.vocab_size or CLIP_VOCAB)
    mesh = sharding.make_mesh(config.fsdp, topology.devices)
    graphdef, _ = models.create(config.model.name, **sizes)
    adam = optimizer.create(**config.optimizer, total_steps=1000).transformation
    state, layout = train_step.abstract_state(config, sizes, adam, mesh)
    place = NamedSharding(mesh, sharding.BATCH)
    batch = train_step.abstract_batch(config, sizes, place, pairs=padded.size)
    arithmetic = _arithmetic(config, topology)
    facts = {
        "topology": topology.name,
        "chip": topology.devices[0].device_kind,
        "chips": topology.chips,
        "devices": count,
        "mesh": dict(mesh.shape),
        "batch_size": config.batch_size,
        "padded_size": padded.size,
        "padding": padded_batch.describe(padded, count),
        "arithmetic": arithmetic,
    }
    step = train_step.make(
        graphdef,
        adam,
        layout,
        mesh,
        seed=config.seed,
        micro_batch=padded.micro_batch,
        padding=padded.padding,
    )
    with jax.set_mesh(mesh):
        traced = step.trace(state, batch)
        facts["step"] = program_facts(traced, topology, mesh)
        real = train_step.abstract_batch(config, sizes)
        facts["step"]["flops"] = flops.train_step(graphdef, state["params"], real) / count
        if evaluation:
            size = row_sharding.padded(config.eval_batch_size, mesh)
            batch = {
                name: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype, sharding=place)
                for name, x in batch.items()
            }
            facts["evaluation"] = _evaluation(graphdef, state["params"], batch, topology, mesh)
    if topology.is_gpu:
        facts["notes"] = gpus.notes(topology.chip.hbm_gib, topology.hosts)
    if topology.chip and topology.hosts == 1 and "hbm_bytes" in facts["step"]:
        videos = config.batch_size // config.data.captions_per_video
        facts["estimate"] = estimate.step(facts["step"], videos, topology, arithmetic)
    return facts


def program_facts(traced, topology: Topology, mesh) -> dict:
    """Returns what a traced program takes of one chip, once compiled; `fits` is False, and little
    else is there, where the compiler finds that it does not."""
    facts: dict = {"executed_flops": flops.count(traced.jaxpr) / len(topology.devices)}
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
    """Raises a ValueError where the parameters cannot be shared out so."""
    count, working = len(topology.devices), sharding.fsdp_sizes(topology.devices)
    if config.fsdp not in working:
        what = "chips" if count == topology.chips else "devices"
        them = "them" if topology.slices == 1 else f"the {working[-1]} of a slice"
        raise ValueError(
            f"--topology {topology.name} has {count} {what}; config.fsdp={config.fsdp} does not"
            f" divide {them}: choose {sharding.listed(working)}."
        )


def _arithmetic(config, topology: Topology) -> str:
    """Returns what matrices are multiplied in; raises ValueError where that has no known peak."""
    precision = jax.config.jax_default_matmul_precision
    name = chips.arithmetic(topology.devices[0], config.model.dtype, precision)
    if topology.chip and name not in topology.chip.flops:
        raise ValueError(
            f"--topology {topology.name}: no peak is published for products in {name}, only for"
            f" {', '.join(topology.chip.flops)}: unset JAX_DEFAULT_MATMUL_PRECISION."
        )
    return name


def _needed(message: str) -> dict:
    """Returns the bytes that the compiler wanted, and had, from its message."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    found = re.findall(r"\(([\d.]+)([KMGT]?)\)", message)
    sizes = [float(number) * units[unit] for number, unit in found]
    names = ("needed", "available")
    return {"memory": dict(zip(names, sizes[:2], strict=False)), "message": message[:300]}


def _evaluation(graphdef, params, batch: dict, topology: Topology, mesh) -> dict:
    """Returns the facts of the three verbs, called as `evaluate` calls them."""
    encoders = evaluate.make_encoders(graphdef, mesh)
    spread, whole = NamedSharding(mesh, sharding.BATCH), NamedSharding(mesh, P())
    words, frames = batch["tokens"].shape[1], batch["frame_mask"].shape[1]
    texts = videos = EVALUATED
    platform = topology.devices[0].platform
    elements = encoders.pair_floats(params, words, frames)
    rows, columns = scoring.tile_shape(texts, videos, elements, platform, devices=mesh.size)
    text = jax.eval_shape(encoders.text, params, batch["tokens"], batch["token_mask"])
    video = jax.eval_shape(encoders.video, params, batch["video"], batch["frame_mask"])

    def features(tree, count: int, place: NamedSharding):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype, sharding=place), tree
        )

    text, video = features(text, rows, spread), features(video, videos, whole)
    traced = {
        "text": encoders.text.trace(params, batch["tokens"], batch["token_mask"]),
        "video": encoders.video.trace(params, batch["video"], batch["frame_mask"]),
        "similarity": encoders.similarity.trace(params, text, video, columns=columns),
    }
    return {name: program_facts(one, topology, mesh) for name, one in traced.items()}
