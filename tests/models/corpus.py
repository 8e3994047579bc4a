#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The corpus from the raw answers: what is worth learning from, once each, and the part that is held out.

usage: corpus.py [--dir DIR]

Reads the answers of sample.py, writes DIR/train.jsonl and DIR/held_out.jsonl: {"topic", "text"} a line.  A text is held
out by its own hash: the split does not depend on what else there is.
"""
import collections
import hashlib
import json
import re
import zlib

from common import answers, arguments

SHORTEST, LONGEST = 200, 2400  # bytes
MOST_COMPRESSIBLE = 0.40  # compressed bytes of one: below this it repeats itself
SHINGLE, BITS = 6, 1 << 30  # words; of the filter of shingles seen
MOST_SEEN = 0.5  # share of a text's shingles that earlier ones have, too
HELD_OUT_PART = 50
PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-",
                       "\u2026": "...", "\u00a0": " "})


def tidy(text, ended):
    """Plain ASCII paragraphs; what was cut off ends with its last whole sentence."""
    text = text.translate(PLAIN).replace("**", "")
    text = re.sub(r"^(Title:.*|#+ .*)\n+", "", text.strip())
    text = re.sub(r"[ \t]+", " ", re.sub(r" *\n\s*", "\n", text)).strip()
    if not ended:
        text = text[:max(text.rfind(end) for end in (".", "!", "?", '."', '!"', '?"')) + 1]
        if text.count('"') % 2:
            text += '"'
    return text


def is_good(text):
    if not SHORTEST <= len(text) <= LONGEST or not text.isascii():
        return False
    if re.search(r"[{}\[\]<>|*_#@=\\]|https?:|\d{3}", text) or re.match(r"(Sure|Here|As an|I'm sorry|I am sorry)\b", text):
        return False
    if text[-1] not in '.!?"':
        return False
    if len(zlib.compress(text.encode())) < MOST_COMPRESSIBLE * len(text):
        return False
    sentences = re.split(r"(?<=[.!?])\s+", text)
    return max(collections.Counter(sentences).values()) <= 2


class Seen:
    """Shingles of words of earlier texts, as bits of a filter."""

    def __init__(self):
        self.bits = bytearray(BITS // 8)

    def is_new(self, text):
        words = re.findall(r"[a-z']+", text.lower())
        places = [zlib.crc32(" ".join(words[i:i + SHINGLE]).encode()) % BITS for i in range(len(words) - SHINGLE + 1)]
        n_seen = sum(self.bits[p >> 3] >> (p & 7) & 1 for p in places)
        for p in places:
            self.bits[p >> 3] |= 1 << (p & 7)
        return n_seen <= MOST_SEEN * len(places)


def is_held_out(text):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % HELD_OUT_PART == 0


def main():
    options = arguments(__doc__).parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    seen, n, n_bytes = Seen(), collections.Counter(), collections.Counter()
    names = ("train", "held_out")
    files = {name: open(options.dir / f"{name}.jsonl", "w", encoding="utf-8") for name in names}
    for answer in answers(options.dir):
        text = tidy(answer["text"], answer["ended"])
        kind = "dropped" if not is_good(text) else "repeated" if not seen.is_new(text) else names[is_held_out(text)]
        n[kind] += 1
        n_bytes[kind] += len(text)
        if kind in files:
            files[kind].write(json.dumps({"topic": answer["topic"], "text": text}) + "\n")
    for kind in n:
        print(f"{kind:9} {n[kind]:7} texts {n_bytes[kind] / 1e6:8.2f} MB")


if __name__ == "__main__":
    main()
