#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seed corpus of fuzz_sidecar.c:  make_sidecar_corpus.py [FOLDER]  (default: corpus/sidecar)

Calibrations of a model with 2 layers of 4 neurons: good ones, and some that lie in one place each.
"""
import pathlib
import struct
import sys

from make_gguf_corpus import ARRAY, F64, STRING, TYPE_F32, U32, array, gguf, key, tensor

LAYERS, NEURONS, LEVELS = 2, 4, 19
MEASURES = ("kl", "kl_p99", "same_top", "perplexity", "up", "down", "weights")


def floats(n, first=0.5, step=0.25):
    return struct.pack(f"<{n}f", *(first + step * i for i in range(n)))


def sidecar(points=("safe", "fast"), version=1, model="0123456789abcdef", tokens=4096, kind="lacuna-sidecar",
            measure=0.5, n_measures=None, neurons=NEURONS, level=None, limit=None, error=None):
    n = len(points)
    keys = [key("general.type", STRING, kind), key("lacuna.sidecar.version", U32, version),
            key("lacuna.sidecar.model", STRING, model), key("lacuna.sidecar.tokens", U32, tokens),
            key("lacuna.points", ARRAY, array(STRING, points))]
    keys += [key(f"lacuna.points.{name}", ARRAY, array(F64, [measure] * (n if n_measures is None else n_measures)))
             for name in MEASURES]
    tensors, data = [], b""
    for site in ("up", "down"):
        parts = [("weight", neurons, LAYERS, floats(neurons * LAYERS)),
                 ("level", LEVELS, LAYERS, level or floats(LEVELS, 0, 0.1) * LAYERS)]
        if n:
            parts.append(("limit", LAYERS, n, limit or floats(LAYERS * n)))
        for name, width, rows, values in parts:
            tensors.append(tensor(f"{site}.{name}", TYPE_F32, (width, rows), len(data)))
            data += values + bytes(-len(values) % 32)
    if error:
        tensors.append(tensor("ffn.error", TYPE_F32, (LAYERS, n), len(data)))
        data += error + bytes(-len(error) % 32)
    return gguf(keys, tensors, data)


def seeds():
    yield "two_points", sidecar()
    yield "no_points", sidecar(points=())
    yield "many_points", sidecar(points=[f"p{i}" for i in range(20)])
    yield "version_2", sidecar(version=2)
    yield "no_identity", sidecar(model="0123")
    yield "no_tokens", sidecar(tokens=0)
    yield "a_model", sidecar(kind="model")
    yield "named_as_a_share", sidecar(points=("0.99",))
    yield "named_twice", sidecar(points=("safe", "safe"))
    yield "measure_too_large", sidecar(measure=1.5)
    yield "measures_missing", sidecar(n_measures=1)
    yield "other_width", sidecar(neurons=3)
    yield "levels_descend", sidecar(level=floats(LEVELS, 5, -0.1) * LAYERS)
    yield "limit_is_infinite", sidecar(limit=struct.pack("<4f", 1, 2, float("inf"), 3))
    yield "with_errors", sidecar(error=floats(LAYERS * 2))
    yield "error_is_negative", sidecar(error=floats(LAYERS * 2, -0.5))
    yield "cut", sidecar()[:-40]


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "corpus/sidecar")
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in seeds():
        (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
