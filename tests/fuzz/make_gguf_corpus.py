#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seed corpus of fuzz_gguf.c:  make_gguf_corpus.py [FOLDER]  (default: corpus/gguf)

Each file is one byte (how much longer than the header the file claims to be; 0: not at all) and a
small GGUF header.  Together they reach every value type, every kind of array, both versions and
several alignments; the rest is the fuzzer's to find.
"""
import pathlib
import struct
import sys

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B",
           U64: "Q", I64: "q", F64: "d"}
TYPE_F32, TYPE_Q4_1, TYPE_Q4_K = 0, 3, 12


def string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def array(kind, values):
    """An array's element type, count and elements; those of ARRAY are arrays already packed."""
    head = struct.pack("<IQ", kind, len(values))
    if kind == STRING:
        return head + b"".join(map(string, values))
    if kind == ARRAY:
        return head + b"".join(values)
    return head + struct.pack(f"<{len(values)}{FORMATS[kind]}", *values)


def key(name, kind, value):
    head = string(name) + struct.pack("<I", kind)
    if kind == STRING:
        return head + string(value)
    if kind == ARRAY:
        return head + value
    return head + struct.pack("<" + FORMATS[kind], value)


def tensor(name, kind, shape, offset):
    return (string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
            + struct.pack("<IQ", kind, offset))


def gguf(keys=(), tensors=(), data=b"", version=3, alignment=32, magic=b"GGUF"):
    head = magic + struct.pack("<IQQ", version, len(tensors), len(keys))
    head += b"".join(keys) + b"".join(tensors)
    if data:
        head += bytes(-len(head) % alignment) + data
    return head


def seeds():
    numbers = [key(f"k{kind}", kind, 1) for kind in FORMATS]
    yield "scalars", 0, gguf(numbers + [key("s", STRING, "text")])
    yield "extremes", 0, gguf([
        key("max", U64, 2**64 - 1), key("min", I64, -2**63), key("low", I8, -128),
        key("infinite", F32, float("inf")), key("large", F64, 1e300),
        key("nan", F32, float("nan")), key("bytes", STRING, b"\0\xff\xfe")])
    yield "arrays", 0, gguf(
        [key(f"a{kind}", ARRAY, array(kind, [1, 0, 1])) for kind in FORMATS]
        + [key("strings", ARRAY, array(STRING, ["a", "", "ccc"])), key("none", ARRAY, array(U32, [])),
           key("equal", ARRAY, array(U32, [7, 7, 7])), key("differing", ARRAY, array(I32, [7, -8]))])
    deep = array(U8, [1, 2])
    for _ in range(3):
        deep = array(ARRAY, [deep, array(STRING, ["x"])])
    yield "nested", 0, gguf([key("deep", ARRAY, deep)])
    yield "too_deep", 0, gguf([key("deep", ARRAY, array(ARRAY, [deep]))])
    yield "model", 0, gguf(
        [key("general.architecture", STRING, "llama"),
         key("tokenizer.ggml.tokens", ARRAY, array(STRING, ["<s>", "a"])),
         key("tokenizer.ggml.scores", ARRAY, array(F32, [0.0, -1.0]))],
        [tensor("a", TYPE_F32, (4, 2), 0), tensor("b", TYPE_Q4_1, (32, 1, 1, 1), 32)], bytes(64))
    yield "version_2", 0, gguf([], [tensor("a", TYPE_F32, (1,), 0)], bytes(4), version=2)
    for alignment in (1, 8, 64):
        yield f"alignment_{alignment}", 0, gguf(
            [key("general.alignment", U32, alignment)],
            [tensor("a", TYPE_F32, (1,), 0), tensor("b", TYPE_F32, (1,), max(alignment, 4))],
            bytes(max(alignment, 4) + 4), alignment=alignment)
    yield "claimed_data", 32, gguf([], [tensor("a", TYPE_Q4_K, (256, 9), 0)])
    yield "panels", 0, gguf([key("general.alignment", U32, 64), key("lacuna.panels", U32, 1)],
                            [tensor("a", 65536 + TYPE_Q4_1, (32, 16), 0), tensor("b", TYPE_F32, (1,), 320)],
                            bytes(324), alignment=64)
    yield "huge_panels", 1, gguf([key("general.alignment", U32, 64), key("lacuna.panels", U32, 1)],
                                 [tensor("a", 65536 + TYPE_Q4_K, (2**31, 2**31), 0)], alignment=64)
    yield "huge", 1, gguf([], [tensor("a", TYPE_F32, (2**30, 2**20), 0),
                               tensor("b", TYPE_F32, (2**62, 1), 2**52)])
    yield "overlap", 0, gguf([], [tensor("a", TYPE_F32, (9,), 0), tensor("b", TYPE_F32, (1,), 32)],
                             bytes(36))
    yield "unknown_type", 0, gguf([], [tensor("a", 77, (3,), 0)], bytes(4))
    yield "split", 0, gguf([key("split.no", U16, 0), key("split.count", U16, 2),
                            key("split.tensors.count", I32, 2)])
    yield "not_split", 0, gguf([key("split.no", U16, 0), key("split.count", U16, 1),
                                key("split.tensors.count", I32, 0)])
    yield "big_endian", 0, b"GGUF" + struct.pack(">IQQ", 3, 0, 0)
    yield "version_1", 0, gguf(version=1)
    yield "other_file", 0, gguf(magic=b"PK\3\4")
    yield "twice", 0, gguf([key("k", U8, 1), key("k", U8, 2)])
    yield "tensor_twice", 0, gguf([], [tensor("a", TYPE_F32, (1,), 0), tensor("a", TYPE_F32, (1,), 32)],
                                  bytes(36))
    yield "bad_bool", 0, gguf([key("k", ARRAY, array(BOOL, [1, 2]))])
    yield "cut", 0, gguf([key("k", STRING, "a long text that is cut")])[:-9]


def main():
    here = pathlib.Path(__file__).resolve().parent
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "corpus" / "gguf"
    folder.mkdir(parents=True, exist_ok=True)
    for name, more, header in seeds():
        (folder / name).write_bytes(bytes([more]) + header)


if __name__ == "__main__":
    main()
