"""Weight files are read as PyTorch wrote them; all else gives one clear error and runs nothing."""

import os
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_golden import parameter

from xclip_jax import torch_file

GOLDEN = Path(__file__).parent / "golden"
SCRIPTED, STATE_DICT = GOLDEN / "clip_scripted.pt", GOLDEN / "xclip_state_dict.bin"


class Call:
    """Pickles as a call of a function, as an attacker's object does."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def write_zip(path: Path, value, storages: dict[str, bytes] | None = None, **options) -> Path:
    """Writes an archive as `torch.save` does, of a pickle (bytes) or a value to pickle."""
    data = value if isinstance(value, bytes) else pickle.dumps(value, protocol=2)
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", data)
        for key, content in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", content)
    return path


def tensor(*, count: int, offset: int, shape: tuple, strides: tuple) -> bytes:
    """Returns the pickle of {"x": a float32 tensor of storage "0"}, instruction by instruction."""

    def numbers(values):
        return b"(" + b"".join(b"J" + struct.pack("<i", n) for n in values) + b"t"

    storage = b"((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0000X\x03\0\0\0cpu"
    storage = storage[1:] + b"J" + struct.pack("<i", count) + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + numbers([offset])[1:-1]
    call += numbers(shape) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}X\x01\0\0\0x" + call + b"s."


def error_of(path: Path) -> str:
    """Returns the one line with which reading ends."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        torch_file.read(path)

    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("file", "kind"), [(SCRIPTED, "torchscript"), (STATE_DICT, "pickle")])
def test_a_file_of_pytorch_holds_what_was_put_in(file, kind):
    weights = torch_file.read(file)

    assert weights.kind == kind
    for name, stored in weights.arrays.items():
        if stored.dtype == np.int64:
            continue
        expected = parameter(name, stored.shape, 0).astype(stored.dtype)
        np.testing.assert_array_equal(np.asarray(stored), expected, err_msg=name)
    names = {name.removeprefix("clip.") for name in weights.arrays}
    assert {"visual.conv1.weight", "token_embedding.weight", "logit_scale"} <= names


@pytest.mark.parametrize(
    "use", [b"K\x01s.", b"X\x07\0\0\0storageK\x01K\x01K\x01tQ."], ids=["name", "storage"]
)
def test_a_hundred_thousand_tuples_in_each_other_neither_crash_nor_hang(tmp_path, use):
    deep = b")" + 10**5 * b"\x85"
    start = b"}" if use.endswith(b"s.") else b"("

    message = error_of(write_zip(tmp_path / "deep.pt", b"\x80\x02" + start + deep + use))

    assert "tuple for a name" in message or "RecursionError" in message


def test_half_precision_and_counts_keep_their_types():
    arrays = torch_file.read(SCRIPTED).arrays

    assert arrays["visual.proj"].dtype == np.float16
    assert arrays["visual.ln_pre.weight"].dtype == np.float32
    assert int(np.asarray(arrays["input_resolution"])) == 12


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    file = write_zip(
        tmp_path / "x.pt", tensor(count=6, offset=0, shape=(2, 3), strides=(3, 1)), {"0": bytes(24)}
    )

    stored = torch_file.read(file).arrays["x"]
    file.unlink()

    assert stored.shape == (2, 3)
    with pytest.raises(FileNotFoundError):
        np.asarray(stored)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (3, 4), (4, 1)),
        (0, (4, 3), (1, 4)),
        (5, (2, 3), (3, 1)),
        (7, (), ()),
        (0, (0, 4), (4, 1)),
    ],
)
def test_views_of_a_storage_are_cut_out_of_it(tmp_path, offset, shape, strides):
    storage = np.arange(12, dtype=np.float32) ** 2
    view = tensor(count=12, offset=offset, shape=shape, strides=strides)
    file = write_zip(tmp_path / "x.pt", view, {"0": storage.tobytes()})

    got = np.asarray(torch_file.read(file).arrays["x"])

    expected = np.empty(shape, np.float32)
    for index in np.ndindex(shape):
        expected[index] = storage[offset + sum(i * s for i, s in zip(index, strides, strict=True))]
    np.testing.assert_array_equal(got, expected)


def test_safetensors_hold_what_was_put_in(tmp_path):
    rng = np.random.default_rng(0)
    bfloat16 = np.dtype("bfloat16")
    arrays = {
        "a": rng.normal(size=(2, 3)).astype(np.float32),
        "b": rng.normal(size=(4,)).astype(np.float16),
        "c": rng.normal(size=(3, 5)).astype(bfloat16),
    }
    save_file(arrays, tmp_path / "x.bin", metadata={"note": "mine"})  # the name says nothing

    weights = torch_file.read(tmp_path / "x.bin")

    assert (weights.kind, weights.metadata) == ("safetensors", {"note": "mine"})
    for name, expected in arrays.items():
        got = np.asarray(weights.arrays[name])
        assert got.dtype == weights.arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("first", [b"\x80", b"<", b"P", b" "])
def test_safetensors_are_known_whatever_their_first_byte(tmp_path, first):
    """It is the lowest of the header's length; the format pads headers with spaces."""
    header = b'{"x": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}'
    header = header.ljust(256 + first[0])
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + b"\x03\x04")

    assert np.asarray(torch_file.read(file).arrays["x"]).tolist() == [3, 4]


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_a_state_dict_may_lie_in_a_training_checkpoint(tmp_path, wrapper):
    inner = tensor(count=2, offset=0, shape=(2,), strides=(1,))[2:-1]
    name = wrapper.encode()
    outer = b"\x80\x02}X\x05\0\0\0epochK\x03sX" + struct.pack("<i", len(name)) + name
    file = write_zip(tmp_path / "x.pt", outer + inner + b"s.", {"0": bytes(8)})

    assert list(torch_file.read(file).arrays) == ["x"]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("where", ["alone", "zip", "behind"])
def test_a_pickle_that_calls_os_system_is_refused_by_name_and_nothing_runs(
    tmp_path, protocol, where
):
    witness = tmp_path / "ran"
    call = Call(os.system, f"touch {witness}")
    data = pickle.dumps({"weights": call} if where == "behind" else call, protocol)
    file = tmp_path / "x.pt"
    if where == "alone":
        file.write_bytes(data)
    else:
        write_zip(file, data)

    message = error_of(file)

    assert not witness.exists()
    if where != "alone" or protocol >= 2:  # older ones do not even look like torch's
        assert "asks for posix.system" in message or "asks for nt.system" in message


def test_every_class_and_function_but_the_few_that_weights_need_is_refused(tmp_path):
    names = "builtins eval", "torch load", "numpy.core.multiarray _reconstruct", "os system"
    names += "torch._utils _rebuild_qtensor", "torch.jit._pickle restore", "codecs encode"
    for name in names:
        module, function = name.split()
        file = write_zip(tmp_path / "x.pt", f"\x80\x02c{module}\n{function}\n.".encode("latin1"))

        assert f"asks for {module}.{function}" in error_of(file)


@pytest.mark.parametrize("opcode", ["OBJ", "EXT1", "NEWOBJ_EX", "PERSID", "POP", "DUP"])
def test_instructions_that_weights_never_need_are_refused(tmp_path, opcode):
    code = next(op.code for op in pickletools.opcodes if op.name == opcode).encode("latin1")
    file = write_zip(tmp_path / "x.pt", b"\x80\x02(" + code + b"os\nsystem\n.")

    assert f"instruction {opcode}" in error_of(file)


def test_a_module_of_an_archive_may_contain_itself(tmp_path):
    ring = b"\x80\x02c__torch__\nA\n)\x81q\x00}X\x01\0\0\0ah\x00sb."

    assert "holds no weights" in error_of(write_zip(tmp_path / "x.pt", ring))


@pytest.mark.parametrize(
    "view",
    [
        {"count": 4, "offset": 1, "shape": (4,), "strides": (1,)},
        {"count": 4, "offset": 0, "shape": (2, 2), "strides": (3, 1)},
        {"count": 4, "offset": 0, "shape": (10**9, 10**9), "strides": (0, 0)},
        {"count": 4, "offset": -1, "shape": (2,), "strides": (1,)},
        {"count": 4, "offset": 0, "shape": (2, 2), "strides": (2,)},
        {"count": 4, "offset": 3, "shape": (2,), "strides": (-1,)},
        {"count": 5, "offset": 0, "shape": (5,), "strides": (1,)},
    ],
    ids=lambda view: f"{view['offset']}-{view['shape']}-{view['strides']}",
)
def test_a_tensor_beyond_its_numbers_is_refused(tmp_path, view):
    message = error_of(write_zip(tmp_path / "x.pt", tensor(**view), {"0": bytes(16)}))

    assert "tensor of shape" in message or "do not all lie" in message


def test_a_compressed_storage_is_refused(tmp_path):
    view = tensor(count=2**20, offset=0, shape=(2**20,), strides=(1,))
    file = write_zip(tmp_path / "x.pt", view, {"0": bytes(2**22)}, compression=zipfile.ZIP_DEFLATED)

    assert "data/0 is compressed" in error_of(file)


def test_arrays_that_overlap_over_and_over_are_refused(tmp_path):
    one = tensor(count=2**10, offset=0, shape=(2**10,), strides=(1,))[3:-2]
    many = b"".join(one.replace(b"x", b"%d" % i, 1) + b"s" for i in range(9))
    file = write_zip(tmp_path / "x.pt", b"\x80\x02}" + many + b".", {"0": bytes(2**12)})

    assert "overlap" in error_of(file)


@pytest.mark.parametrize("part", [0.001, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("file", [SCRIPTED, STATE_DICT, "safetensors"])
def test_a_truncated_file_is_told(tmp_path, file, part):
    if file == "safetensors":
        file = tmp_path / "whole"
        save_file({"x": np.zeros(10_000, np.float32)}, file)
    data = file.read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(data[: int(part * len(data))])

    assert "download it again" in error_of(cut)


def test_what_is_no_weight_file_is_told(tmp_path):
    sparse = tmp_path / "sparse.pt"
    with sparse.open("wb") as file:
        file.truncate(5 * 10**9)
    begun = tmp_path / "begun.pt"
    with begun.open("wb") as file:
        file.write(STATE_DICT.read_bytes()[:1000])
        file.truncate(5 * 10**9)
    cases = {
        "page.pt": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        "pointer.bin": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        "empty.pt": (b"", "is empty"),
        "words.pt": (b"once upon a time", "begins with b'once upo'"),
        "other.pkl": (pickle.dumps({"a": 1}, protocol=2), "none of torch's"),
    }

    assert "is a folder" in error_of(tmp_path)
    assert "there is no file" in error_of(tmp_path / "nowhere.pt")
    assert "begins with zeros" in error_of(sparse)
    assert "its end is missing" in error_of(begun)
    for name, (content, expected) in cases.items():
        (tmp_path / name).write_bytes(content)
        assert expected in error_of(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("notes.txt", "no weights")
    assert "without a data.pkl" in error_of(tmp_path / "other.zip")


def test_a_damaged_pickle_is_told_whatever_is_damaged(tmp_path):
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(STATE_DICT) as archive:
        data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))

    for _ in range(100):
        damaged = bytearray(data)
        for position in rng.integers(0, len(data), 3):
            damaged[position] = rng.integers(0, 256)
        error_of(write_zip(tmp_path / "x.pt", bytes(damaged)))  # no storages, so never right


def test_files_of_all_kinds_agree_with_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    tensors = {
        "a": torch.randn(3, 4),
        "half": torch.randn(5).half(),
        "brain": torch.randn(4, 3).bfloat16(),
        "turned": torch.randn(6, 2).t(),
        "view": torch.randn(10)[3:6],
        "scalar": torch.tensor(2.5),
        "count": torch.arange(7),
    }
    torch.save(tensors, tmp_path / "zip.pt")
    torch.save(tensors, tmp_path / "old.pt", _use_new_zipfile_serialization=False)

    for name in ("zip.pt", "old.pt"):
        arrays = torch_file.read(tmp_path / name).arrays

        assert list(arrays) == list(tensors)
        for key, expected in tensors.items():
            got = np.asarray(arrays[key]).astype(np.float32)
            np.testing.assert_array_equal(got, expected.float().numpy())
    data = (tmp_path / "old.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[:-20])
    assert "cut short" in error_of(tmp_path / "cut.pt")
