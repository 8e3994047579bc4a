# SPDX-License-Identifier: Apache-2.0
"""Copies of a GGUF file that say something else: with further keys, or with weights of another type."""
import struct
from typing import NamedTuple

import numpy as np

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
U32, STRING, ARRAY = 4, 8, 9
ALIGNMENT = 32
F16, Q8_0 = 1, 8
Q8_0_BLOCK = np.dtype([("scale", "<f2"), ("weights", "i1", 32)])


class Tensor(NamedTuple):
    name: str
    dimensions: tuple
    kind: int
    offset: int  # in the data section

    def n_weights(self):
        return int(np.prod(self.dimensions))


class Reader:
    def __init__(self, data, at):
        self.data, self.at = data, at

    def number(self, kind):
        value, = struct.unpack_from("<" + kind, self.data, self.at)
        self.at += struct.calcsize(kind)
        return value

    def string(self):
        n = self.number("Q")
        self.at += n
        return bytes(self.data[self.at - n:self.at]).decode()

    def skip(self, kind):
        if kind == STRING:
            self.string()
        elif kind == ARRAY:
            inner, n = self.number("I"), self.number("Q")
            if inner in SIZES:
                self.at += SIZES[inner] * n
            else:
                for _ in range(n):
                    self.skip(inner)
        else:
            self.at += SIZES[kind]

    def key(self):
        """(name, its bytes in the file)"""
        start, name = self.at, self.string()
        self.skip(self.number("I"))
        return name, bytes(self.data[start:self.at])

    def tensor(self):
        name, n_dimensions = self.string(), self.number("I")
        return Tensor(name, tuple(self.number("Q") for _ in range(n_dimensions)), self.number("I"), self.number("Q"))


class File:
    """keys: {name: bytes}; tensors: [Tensor]; section: the data."""

    def __init__(self, path):
        data = memoryview(path.read_bytes())
        reader = Reader(data, 4)
        self.version, n_tensors, n_keys = reader.number("I"), reader.number("Q"), reader.number("Q")
        self.keys = dict(reader.key() for _ in range(n_keys))
        self.tensors = [reader.tensor() for _ in range(n_tensors)]
        self.section = data[reader.at + -reader.at % ALIGNMENT:]

    def write(self, path):
        head = b"GGUF" + struct.pack("<IQQ", self.version, len(self.tensors), len(self.keys))
        head += b"".join(self.keys.values()) + b"".join(map(packed_tensor, self.tensors))
        with open(path, "wb") as out:
            out.write(padded(head))
            out.write(self.section)
        return path


def padded(data):
    return data + b"\0" * (-len(data) % ALIGNMENT)


def packed_string(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def packed_tensor(t):
    n = len(t.dimensions)
    return packed_string(t.name) + struct.pack(f"<I{n}QIQ", n, *t.dimensions, t.kind, t.offset)


def packed_key(name, v):
    return packed_string(name) + (struct.pack("<II", U32, v) if isinstance(v, int) else
                                  struct.pack("<I", STRING) + packed_string(v))


def with_keys(source, target, keys):
    """Writes source to target; each of keys (str: int or str) is added, or takes the place of the one
    that is there."""
    file = File(source)
    file.keys |= {name: packed_key(name, v) for name, v in keys.items()}
    return file.write(target)


def converted(source, target, convert):
    """Writes source to target, its tensors as convert(tensor, data) has them: (type, data)."""
    file, pieces, at = File(source), [], 0
    starts = [t.offset for t in file.tensors] + [len(file.section)]
    for i, t in enumerate(file.tensors):
        kind, data = convert(t, file.section[starts[i]:min(s for s in starts if s > starts[i])])
        pieces.append(padded(bytes(data)))
        file.tensors[i] = t._replace(kind=kind, offset=at)
        at += len(pieces[-1])
    file.section = b"".join(pieces)
    return file.write(target)


def to_f16(t, data):
    if t.kind != Q8_0:
        return t.kind, data
    blocks = np.frombuffer(data, Q8_0_BLOCK, t.n_weights() // 32)
    return F16, (blocks["weights"] * blocks["scale"][:, None].astype(np.float32)).astype(np.float16).tobytes()


def to_q8_0(t, data):
    if t.kind != F16 or len(t.dimensions) < 2 or t.dimensions[0] % 32:
        return t.kind, data
    weights = np.frombuffer(data, np.float16, t.n_weights()).astype(np.float32).reshape(-1, 32)
    blocks = np.zeros(len(weights), Q8_0_BLOCK)
    blocks["scale"] = np.abs(weights).max(axis=1) / 127
    scale = blocks["scale"][:, None].astype(np.float32)
    blocks["weights"] = np.clip(np.rint(np.divide(weights, scale, out=np.zeros_like(weights), where=scale > 0)), -127, 127)
    return Q8_0, blocks.tobytes()


def with_f16(source, target):
    """Q8_0 tensors, rounded to F16."""
    return converted(source, target, to_f16)


def with_q8_0(source, target):
    """F16 matrices, quantised to Q8_0."""
    return converted(source, target, to_q8_0)
