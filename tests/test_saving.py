"""Saving and loading: files come back, are written whole or not at all, and their faults are named."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forking import in_child
from places import Place

import tapegrad as tg
from tapegrad._training import tensor_file

safetensors = pytest.importorskip("safetensors")

DTYPES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
]


@dataclass
class Layer:
    weight: tg.Tensor
    name: str = "layer"


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(2, 3)) * 5 + 1j * rng.normal(size=(2, 3))).astype(np.complex128)
    values = (x if dtype.startswith("complex") else np.abs(x.real)).astype(dtype)
    values = values.astype(values.dtype.newbyteorder("<"))
    tree = {
        "x": tg.asarray(values),
        "t": tg.asarray(values).mT,
        "s": tg.asarray(values[0, 0]),
        "e": tg.asarray(values[:0]),
    }
    tg.save(tmp_path / "f.safetensors", tree)
    found = tg.load(tmp_path / "f.safetensors")
    assert found.keys() == tree.keys()
    for name, y in tree.items():
        assert found[name].dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(y))


def test_devices(xp: Place, tmp_path: Path) -> None:
    x = xp.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    tg.save(tmp_path / "f", [x, xp.tensor([5.0])])
    found = tg.load(tmp_path / "f", device=xp.device)
    np.testing.assert_array_equal(xp.values(found["0"]), xp.values(x))
    assert not found["0"].requires_grad
    assert tg.load(tmp_path / "f")["1"].device == tg.zeros(1).device
    assert tg.load(tmp_path / "f", device="cpu")["1"].device == "cpu"


def test_small_floats(tmp_path: Path) -> None:
    pytest.importorskip("ml_dtypes")
    pytest.importorskip("torch")
    x = tg.asarray([1.0, 2.5, -3e38], dtype="bfloat16", device="torch:cpu")
    tg.save(tmp_path / "f", {"x": x})
    found = tg.load(tmp_path / "f", device="torch:cpu")["x"]
    assert found.dtype == x.dtype
    assert tg.all(found == x)


def test_names_and_plain_values(tmp_path: Path) -> None:
    model = {"layers": [Layer(tg.ones(2)), Layer(tg.zeros(1))], "scale": tg.asarray(2.0)}
    tree = {"model": model, "steps": 7, "rate": 0.1, "note": "x", "flag": True, "nothing": None, "sizes": [1, [2]]}
    tg.save(tmp_path / "f", tree, note="a note")
    found = tg.load(tmp_path / "f")
    assert {k: v for k, v in found.items() if not isinstance(v, tg.Tensor)} == {
        k: v for k, v in tree.items() if k != "model"
    }
    assert {k for k, v in found.items() if isinstance(v, tg.Tensor)} == {
        "model.layers.0.weight",
        "model.layers.1.weight",
        "model.scale",
    }
    assert tensor_file.read(tmp_path / "f").note == "a note"


def test_values_at_the_ends_of_floats_come_back(tmp_path: Path) -> None:
    tg.save(tmp_path / "f", {"a": float("inf"), "b": 0.1 + 0.2, "c": 2**70, "n": np.float64(0.1), "w": tg.ones(1)})
    found = tg.load(tmp_path / "f")
    assert (found["a"], found["b"], found["c"], found["n"]) == (float("inf"), 0.1 + 0.2, 2**70, 0.1)


def test_files_of_others(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    model = torch.nn.Linear(3, 2)
    save_file(model.state_dict(), tmp_path / "torch")
    found = tg.load(tmp_path / "torch")
    np.testing.assert_array_equal(np.asarray(found["weight"]), model.weight.detach().numpy())
    tg.save(tmp_path / "ours", found)
    assert torch.equal(load_file(tmp_path / "ours")["bias"], model.bias.detach())


def damaged(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    tg.save(tmp_path / "good", {"x": tg.ones((100, 3))})
    good = (tmp_path / "good").read_bytes()
    header = struct.unpack("<Q", good[:8])[0]
    np.save(tmp_path / "array.npy", np.ones(3))
    cases = {
        "empty": (b"", "it is empty"),
        "cut in its data": (good[:-5], "damaged"),
        "cut in its header": (good[: 8 + header // 2], "only the beginning of one"),
        "cut at once": (good[:4], "no safetensors file"),
        "with more": (good + b"xx", "damaged"),
        "header": (good[:9] + b"#" + good[10:], "damaged"),
        "pickle": (pickle.dumps({"x": np.ones(3)}), "it is a pickle.*can run any code"),
        "zip": (b"PK\x03\x04" + bytes(100), "it is a pickle, or a zip of one, as torch.save writes"),
        "npy": ((tmp_path / "array.npy").read_bytes(), "numpy.load"),
        "text": (b"hello, this is text, and no weights at all", "it is no safetensors file"),
    }
    for name, (data, text) in cases.items():
        with pytest.raises(ValueError, match=rf"(?s){name}.*cannot be read: .*{text}"):
            tg.load(damaged(tmp_path / name, data))
    with pytest.raises(FileNotFoundError):
        tg.load(tmp_path / "none")
    with pytest.raises(OSError, match="folder|directory"):
        tg.load(tmp_path)


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    tg.save(tmp_path / "good", {"x": tg.ones(3), "n": 5})
    good = (tmp_path / "good").read_bytes()
    for n in range(len(good)):
        with pytest.raises(ValueError, match="cannot be read"):
            tg.load(damaged(tmp_path / "cut", good[:n]))


def test_a_file_of_a_later_version(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.ones(2)}, tmp_path / "f", {"tapegrad": '{"version": 99}'})
    with pytest.raises(ValueError, match=r"later version of tapegrad \(version 99.*update"):
        tg.load(tmp_path / "f")


@pytest.mark.parametrize(
    ("tree", "kind", "text"),
    [
        ({"f": {1, 2}}, TypeError, "'f' holds no Tensor, in an object of type set"),
        ({"a.b": tg.ones(1), "a": {"b": tg.ones(1)}}, ValueError, "would have the name 'a.b'"),
        ([], TypeError, "there is no Tensor"),
    ],
)
def test_what_cannot_be_saved(tree: Any, kind: type[Exception], text: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=text):
        tg.save(tmp_path / "f", tree)
    assert not list(tmp_path.iterdir())


def test_an_old_file_stays_where_a_new_one_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    tg.save(path, {"x": tg.ones(2)})
    old = path.read_bytes()

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, place, full)
            with pytest.raises(OSError, match="No space left") as caught:
                tg.save(path, {"x": tg.zeros(2)})
            assert "is as it was before" in caught.value.__notes__[0]
        assert path.read_bytes() == old
        assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="No such file or directory"):
        tg.save(tmp_path / "nowhere" / "f", {"x": tg.ones(2)})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it limits the size of files in a process of its own")
def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the library's own writing meets it."""
    import signal

    path = tmp_path / "f"
    tg.save(path, {"x": tg.ones(2)})
    old = path.read_bytes()

    def refused() -> bool:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            tg.save(path, {"x": tg.ones(100_000)})
        except OSError as error:
            return "as it was before" in str(error) + "".join(getattr(error, "__notes__", ()))
        return False

    assert in_child(refused) == 0
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_other_new_files(tmp_path: Path) -> None:
    tg.save(tmp_path / "f", {"x": tg.ones(2)})
    (tmp_path / "g").touch()
    mode = stat.S_IMODE((tmp_path / "g").stat().st_mode)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == mode
    (tmp_path / "f").chmod(0o600)
    tg.save(tmp_path / "f", {"x": tg.ones(2)})
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600


def test_equal_trees_are_equal_files(tmp_path: Path) -> None:
    for n in range(8):  # as the library writes metadata in any order
        tg.save(tmp_path / str(n), {"x": tg.ones(2), "n": 1}, note="a note")
    assert len({p.read_bytes() for p in tmp_path.iterdir()}) == 1
    with safetensors.safe_open(tmp_path / "0", framework="np") as file:
        assert json.loads(file.metadata()["tapegrad"])["values"] == {"n": 1}
