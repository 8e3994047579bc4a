# SPDX-License-Identifier: Apache-2.0
"""Where everything that is made is kept, and how it is read."""
import argparse
import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]


def arguments(doc):
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=pathlib.Path, default=ROOT / "build/models")
    return parser


def lines(path):
    """The objects of a file that holds one per line."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
