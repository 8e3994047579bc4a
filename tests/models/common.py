# SPDX-License-Identifier: Apache-2.0
"""Where everything that is made is kept, and how it is read."""
import argparse
import json
import lzma
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXT = ROOT / "tests/models/text"  # answers that were kept, in parts


def arguments(doc):
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=pathlib.Path, default=ROOT / "build/models")
    return parser


def answers(directory):
    """Every answer there is (sample.py): those kept in TEXT, then those of DIR/raw.jsonl."""
    for part in sorted(TEXT.glob("*.jsonl.xz")):
        with lzma.open(part, "rt", encoding="utf-8") as file:
            yield from map(json.loads, file)
    raw = directory / "raw.jsonl"
    if raw.exists():
        yield from lines(raw)


def lines(path):
    """The objects of a file that holds one per line."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
