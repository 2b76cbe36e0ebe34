"""Several hosts whose devices are not neighbors in the mesh, as on TPUs: batches and scores are
those of one process. Real processes on CPUs, with the order of devices that a TPU slice has."""

import hashlib
import itertools
import json
import os
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
from test_without_tensorflow import WITHOUT

from xclip_jax import evaluate, sharding, workdir
from xclip_jax import input as pipeline
from xclip_jax.holdout import hold_out
from xclip_jax.parallel import row_sharding
from xclip_jax.records import Shards

# The process of each device along the mesh. `test_the_orders_are_those_of_libtpu` compares them.
ORDERS = {
    "v5p:2x2x2": [0, 1, 0, 1, 0, 1, 0, 1],
    "v5e:4x4": [0, 0, 1, 1, 1, 1, 0, 2, 3, 3, 3, 3, 2, 2, 2, 0],
}

PROGRAM = (
    WITHOUT
    + """
import json, sys
import jax, numpy as np
from jax.sharding import AxisType, Mesh
sys.path.insert(0, sys.argv[6])
import test_device_order as here
import xclip_jax
from xclip_jax import workdir
from xclip_jax.processes import distributed

order, port, process, run, out = json.loads(sys.argv[1]), *sys.argv[2:6]
distributed.start(distributed.Place(f"127.0.0.1:{port}", 2, int(process)), peer_timeout=60)
local = {p: [d for d in jax.devices() if d.process_index == p] for p in set(order)}
grid = np.array([local[p].pop(0) for p in order]).reshape(-1, 1)
mesh = Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
trained = workdir.load(run, mesh=mesh)
found = here.outcome(trained, mesh)
alone = xclip_jax.load(run)  # with this process's own devices
found["alone"] = np.asarray(alone.encode_text(["a red square"]).sentence[0, :4], float).tolist()
with open(f"{out}-{process}.json", "w") as file:
    json.dump(found, file)
distributed.stop()
"""
)


def outcome(trained, mesh) -> dict:
    """Returns metrics of several splits, and hashes of training batches, as plain numbers."""
    folder = trained.config.data.dir
    test, twins, train = (Shards(folder, split) for split in ("test", "twins", "train"))
    _, val = hold_out(train, 13, seed=3)
    encoders = evaluate.make_encoders(trained.graphdef, mesh)

    def metrics(shards, twins, batch_size):
        return evaluate.run(
            encoders,
            trained.params,
            shards,
            trained.tokenizer,
            trained.intake,
            twins=twins,
            batch_size=batch_size,
        )

    rows = row_sharding.own(16, mesh)
    batches = pipeline.train(
        train, trained.tokenizer, trained.intake, batch_size=16, seed=5, first=7, rows=rows
    )
    hashes = []
    for batch in itertools.islice(batches, 2):
        whole = row_sharding.fetch(sharding.to_global(batch, mesh), mesh)
        content = b"".join(whole[name].tobytes() for name in sorted(whole))
        hashes.append(hashlib.sha256(content).hexdigest())
    return {
        "one caption, with twins": metrics(test, twins, 6),
        "five captions": metrics(train, None, 16),
        "held-out val": metrics(val, None, 8),
        "training batches": hashes,
    }


@pytest.mark.parametrize("topology", ORDERS)
def test_two_processes_score_as_one_in_any_order_of_devices(run, topology, tmp_path):
    order = [process % 2 for process in ORDERS[topology]]
    trained = workdir.load(run)
    expected = json.loads(json.dumps(outcome(trained, sharding.local_mesh())))
    devices = rf"\g<1>={len(order) // 2}"
    flags = re.sub(r"(device_count)=\d+", devices, os.environ["XLA_FLAGS"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    words = [json.dumps(order), port]
    places = [run, tmp_path / "out", os.path.dirname(__file__)]
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words, str(i), *places],
            env=os.environ | {"XLA_FLAGS": flags},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in pair]
    finally:
        for process in pair:
            process.kill()

    assert [process.returncode for process in pair] == [0, 0], errors
    for i in range(2):
        found = json.loads((tmp_path / f"out-{i}.json").read_text())
        alone = found.pop("alone")
        assert found == expected
    sentence = evaluate.encode_texts(
        evaluate.make_encoders(trained.graphdef),
        trained.params,
        trained.tokenizer,
        ["a red square"],
        max_words=trained.intake.max_words,
        batch_size=1,
    ).sentence
    np.testing.assert_allclose(alone, sentence[0, :4], rtol=0, atol=1e-5)


def test_the_orders_are_those_of_libtpu():
    pytest.importorskip("libtpu")
    from xclip_jax.plan import topology

    for name, order in ORDERS.items():
        mesh = sharding.make_mesh(1, topology.get(name).devices)
        assert [device.process_index for device in mesh.devices.flat] == order


@pytest.mark.parametrize("topology", ORDERS)
def test_every_row_is_one_process_own(topology):
    pytest.importorskip("libtpu")
    from xclip_jax.plan import topology as topologies

    mesh = sharding.make_mesh(1, topologies.get(topology).devices)
    count = 3 * mesh.size

    owned = [row_sharding.own(count, mesh, process) for process in set(ORDERS[topology])]

    assert sorted(np.concatenate(owned).tolist()) == list(range(count))
    for process, rows in enumerate(owned):
        assert {ORDERS[topology][row // 3] for row in rows.tolist()} == {process}
