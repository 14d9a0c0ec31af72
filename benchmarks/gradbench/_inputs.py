"""Inputs of the sizes that the suite has by default, and tiny ones: random, or from a checkout's data files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Input = dict[str, Any]


class Case(NamedTuple):
    """One evaluation to time: a function of a module on an input.

    torch: False where the suite's PyTorch tool would take minutes.
    """

    module: str
    function: str
    name: str
    given: Input
    torch: bool = True


def cases(tiny: bool, suite: Path | None) -> Iterator[Case]:
    """Yield the tasks to time, of every module except hello."""
    rng = np.random.default_rng(31337)
    for n in (16,) if tiny else (1024, 16392):
        yield Case("llsq", "gradient", f"n={n}, m=128", llsq(rng, n, 128))
    for n in (10,) if tiny else (2500, 1280000):
        yield Case("lse", "gradient", f"n={n}", lse(rng, n))
    for d, k in ((2, 3),) if tiny else ((2, 5), (10, 25), (64, 100)):
        yield Case("gmm", "jacobian", f"d={d}, k={k}", gmm(rng, d, k, 5 if tiny else 1000))
    for layers, c in ((2, 4),) if tiny else ((2, 1024), (6, 8192)):
        yield Case("lstm", "jacobian", f"l={layers}, c={c}", lstm(rng, layers, c), layers == 2)
    for k, n, d in ((2, 5, 3),) if tiny else ((10, 1000, 8), (100, 10000, 8), (1000, 10000, 16)):
        yield Case("kmeans", "dir", f"k={k}, n={n}, d={d}", kmeans(rng, k, n, d))
    for n, s in ((5, 100),) if tiny else ((1000, 1), (10000, 10), (100000, 100)):
        yield Case("ode", "gradient", f"n={n}, s={s}", ode(rng, n, s))
    for size in (3,) if tiny else (5, 8, 10):
        yield Case("det", "gradient", f"l={size}", det(rng, size))
    if tiny:
        yield Case("ba", "jacobian", "p=12", ba(2, 3, 12))
        yield Case("ht", "jacobian", "made up, c=3", ht(rng, 3, 10))
    else:
        yield Case("ba", "jacobian", "ba1, p=31843", ba(49, 7776, 31843))
        yield Case("ba", "jacobian", "ba5, p=225911", ba(257, 65132, 225911), False)
        yield from _hands(rng, suite)
    yield Case("saddle", "rr", "start=(1, 1)", {"start": [1.0, 1.0]})
    yield Case("particle", "rr", "w=0", {"w": 0.0})


def _hands(rng: np.random.Generator, suite: Path | None) -> Iterator[Case]:
    if suite is None:
        yield Case("ht", "jacobian", "made up, v=544, c=192", ht(rng, 192, 544))
        return
    for model, count in (("small", 192), ("big", 192), ("big", 12800)):
        folder = suite / "evals" / "ht" / "data" / f"complicated_{model}"
        for path in folder.glob(f"hand*_c{count}.txt"):
            yield Case("ht", "jacobian", f"{model}, c={count}", read_hand(path), (model, count) == ("small", 192))


def llsq(rng: np.random.Generator, n: int, m: int) -> Input:
    return {"x": rng.random(m).tolist(), "n": n}


def lse(rng: np.random.Generator, n: int) -> Input:
    return {"x": rng.random(n).tolist()}


def gmm(rng: np.random.Generator, d: int, k: int, n: int) -> Input:
    parts = {"x": (n, d), "alpha": (k,), "mu": (k, d), "q": (k, d), "l": (k, d * (d - 1) // 2)}
    sizes = {"d": d, "k": k, "n": n, "m": 0, "gamma": 1.0}
    return sizes | {name: rng.normal(size=shape).tolist() for name, shape in parts.items()}


def lstm(rng: np.random.Generator, layers: int, c: int, bits: int = 7) -> Input:
    parts = {"main_params": (2 * layers, 4 * bits), "extra_params": (3, bits), "state": (2 * layers, bits)}
    text = rng.integers(0, 2, (c, bits)).astype(float)
    return {name: rng.random(shape).tolist() for name, shape in parts.items()} | {"sequence": text.tolist()}


def kmeans(rng: np.random.Generator, k: int, n: int, d: int) -> Input:
    points = rng.random((n, d)).tolist()
    return {"points": points, "centroids": points[-k:]}  # so that no cluster is empty


def ode(rng: np.random.Generator, n: int, s: int) -> Input:
    return {"x": rng.random(n).tolist(), "s": s}


def det(rng: np.random.Generator, size: int) -> Input:
    return {"A": rng.random(size * size).tolist(), "ell": size}


def ba(n: int, m: int, p: int) -> Input:
    camera = [0.2, -0.1, 0.3, 0.1, 0.2, -0.4, 1.3, 0.1, -0.2, 0.05, -0.02]
    return {"n": n, "m": m, "p": p, "cam": camera, "x": [0.4, -0.3, 2.1], "w": 0.7, "feat": [0.3, -0.1]}


def ht(rng: np.random.Generator, c: int, vertices: int, complicated: bool = True) -> Input:
    """Return a hand of the suite's skeleton, with numbers made up."""
    parents = [-1] + [0 if j == 0 else 4 * finger + j for finger in range(5) for j in range(4)] + [0]
    frames = rng.normal(size=(2, 22, 4, 4)) * 0.3
    frames[..., 3, :] = [0, 0, 0, 1]
    weights = rng.random((vertices, 22))
    triangles = rng.integers(0, vertices, (2 * vertices, 3))
    model = {
        "bone_count": 22,
        "bone_names": [f"bone{i}" for i in range(22)],
        "parents": parents,
        "base_relatives": frames[0].tolist(),
        "inverse_base_absolutes": frames[1].tolist(),
        "base_positions": np.concatenate([rng.normal(size=(vertices, 3)), np.ones((vertices, 1))], axis=1).tolist(),
        "weights": (weights / weights.sum(axis=1, keepdims=True)).tolist(),
        "triangles": triangles.tolist(),
        "is_mirrored": False,
    }
    data = {
        "model": model,
        "correspondences": rng.integers(0, vertices, c).tolist(),
        "points": rng.normal(size=(c, 3)).tolist(),
    }
    us = rng.random((c, 2)).tolist() if complicated else []
    return {"theta": (0.3 * rng.normal(size=26)).tolist(), "data": data, "us": us}


def read_hand(path: Path) -> Input:
    """Return a "complicated" input of the suite, whose hand model is in the folder beside it."""
    lines = path.read_text().split("\n")
    c, parameters = map(int, lines[0].split())
    measured = [line.split() for line in lines[1 : 1 + c]]
    folder = path.parent / "model"
    bones = [line.split(":") for line in (folder / "bones.txt").read_text().splitlines()]
    vertices = [line.split(":") for line in (folder / "vertices.txt").read_text().splitlines()]
    weights = np.zeros((len(vertices), len(bones)))
    for row, vertex in zip(weights, vertices, strict=True):
        for i in range(int(vertex[8])):
            row[int(vertex[9 + 2 * i])] = float(vertex[10 + 2 * i])
    triangles = [line.split(":") for line in (folder / "triangles.txt").read_text().splitlines()]
    model = {
        "bone_count": len(bones),
        "bone_names": [bone[0] for bone in bones],
        "parents": [int(bone[1]) for bone in bones],
        "base_relatives": [_matrix(bone[2:18]) for bone in bones],
        "inverse_base_absolutes": [_matrix(bone[18:34]) for bone in bones],
        "base_positions": [[*map(float, vertex[:3]), 1.0] for vertex in vertices],
        "weights": weights.tolist(),
        "triangles": [[int(i) for i in triangle[:3]] for triangle in triangles],
        "is_mirrored": False,
    }
    data = {
        "model": model,
        "correspondences": [int(words[0]) for words in measured],
        "points": [[float(x) for x in words[1:]] for words in measured],
    }
    us = [[float(x) for x in line.split()] for line in lines[1 + c : 1 + 2 * c]]
    return {"theta": [float(x) for x in lines[1 + 2 * c : 1 + 2 * c + parameters]], "data": data, "us": us}


def _matrix(words: list[str]) -> list[list[float]]:
    return [[float(x) for x in words[i : i + 4]] for i in range(0, 16, 4)]
