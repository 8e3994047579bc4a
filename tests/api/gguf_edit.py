# SPDX-License-Identifier: Apache-2.0
"""A copy of a GGUF file with further keys: models that differ in what their file says."""
import struct

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
U32, STRING, ARRAY = 4, 8, 9
ALIGNMENT = 32


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


def padded(data):
    return data + b"\0" * (-len(data) % ALIGNMENT)


def value(v):
    if isinstance(v, int):
        return struct.pack("<II", U32, v)
    text = v.encode()
    return struct.pack("<IQ", STRING, len(text)) + text


def with_keys(source, target, keys):
    """Writes source to target; each of keys (str: int or str) is added, or takes the place of the one
    that is there."""
    data = memoryview(source.read_bytes())
    reader = Reader(data, 4)
    version, n_tensors, n_keys = reader.number("I"), reader.number("Q"), reader.number("Q")
    kept = []
    for _ in range(n_keys):
        start = reader.at
        name = reader.string()
        reader.skip(reader.number("I"))
        if name not in keys:
            kept.append(bytes(data[start:reader.at]))
    start = reader.at
    for _ in range(n_tensors):
        reader.string()
        n_dimensions = reader.number("I")
        reader.at += 8 * n_dimensions + 4 + 8  # and type, offset
    tensors = bytes(data[start:reader.at])
    for name, v in keys.items():
        kept.append(struct.pack("<Q", len(name)) + name.encode() + value(v))
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, len(kept)) + b"".join(kept) + tensors
    section = reader.at + -reader.at % ALIGNMENT
    with open(target, "wb") as out:
        out.write(padded(head))
        out.write(data[section:])
    return target
