#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the small vocabularies of the tokenizer's tests, and what their texts must become.

    pip install gguf && python3 make_vocab.py      (writes beside itself; same bytes each time)

bpe_small.gguf   byte-level BPE ("gpt-2" words), trained here on TRAINING
spm_small.gguf   SentencePiece-like BPE by score, with byte tokens, trained here on TRAINING
bpe_small.txt, spm_small.txt
    one text per line: hexadecimal UTF-8, ids plain, ids with special tokens added and parsed;
    separated by tabs, ids by commas.

The expected ids come from the plain, quadratic tokenizers in this file, which share nothing with the
C code: they are written from the descriptions of the two algorithms.
"""
import pathlib
import unicodedata

import gguf

HERE = pathlib.Path(__file__).parent

TRAINING = """
The server keeps every sequence in pages. A page holds the keys and the values of a few tokens; when
the last token of a page is written, the page is sealed and may be shared. The scheduler picks what
runs next: new requests wait until there is room, and running requests never starve. It's what you'd
expect, isn't it? We've seen that they'll come, and I'm sure you're right: don't worry, he'd say.
for (int i = 0; i < n; i++) {
    if (a[i] != b[i])
        return -1;
    total += a[i] * 3.14159;
}
def page(index):
    return pages[index]    # the page, or nothing
1 2 3 10 11 12 100 123 1000 2024 2025 12345
Über die Größe der Seiten läßt sich streiten; die Wörter aber bleiben. Élan, naïve café, señor.
Привет, мир! Как дела? Страницы и слова.
你好，世界！今天天气怎么样？ 日本語のテキスト。
😀 😀😀 🎉
"""

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\t", "a", " a", "a ", "the", " the", "The page", "Hello world",
    " Hello  world ", "It's what you'd expect, isn't it? WE'VE I'M", "'s 't 're 've 'm 'll 'd 'S",
    "for (int i = 0; i < n; i++) {\n\tif (a[i] != b[i]) return -1;\n}\n", "1 12 123 1234 12345 3.14159",
    "    indented\n        more\n\n\nless", "trailing   ", "line\r\nline\u2028line\u00a0line",
    "Größe naïve café señor", "Привет, мир", "你好，世界！", "日本語のテキスト。かな", "😀🎉👍🏽👩\u200d👧",
    "e\u0301 vs é", "\u0301 alone", "①②③ ½ ²", "\x00\x01\x1b\x7f", "\u2581marker\u2581", "Ġ Ċ Ã©",
    "<0x41><0x0A>", "<s>", "<|im_start|>user\nHi<|im_end|>", "a<|end|>b", "<|im_start|><|im_start|>",
    "<tool>x</tool> <tool> <tools>", "<unk> <s></s>", "<|im_sta", "aaaaaaaaaaaaaaaaaaaaaaaa", "thethethe",
    "ababababab", "seqseqseq", "ſ'ſ K", "\ufeffbom\u200b", "a\u3000b\u3000\u3000c", "!!!???...;;;",
    "the" * 40, "\n" * 9, " " * 33 + "x",
]

CONTROL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|end|>"]
USER_DEFINED = ["<tool>", "</tool>", "<tools>", "\n\n\n"]


# ---- byte-level BPE ----

def byte_alphabet():
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    codes = {b: chr(b) for b in printing}
    for byte in range(256):
        if byte not in codes:
            codes[byte] = chr(0x100 + len(codes) - len(printing))
    return codes


def kind(c):
    if c in "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" or "\u2000" <= c <= "\u200a":
        return "space"
    return {"L": "letter", "N": "number"}.get(unicodedata.category(c)[0], "symbol")


def gpt2_words(text):
    """'s|'t|'re|'ve|'m|'ll|'d| ?letters| ?numbers| ?symbols|spaces not before a word|spaces"""
    at = 0
    while at < len(text):
        end = 0
        for tail in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d"):
            if text.startswith(tail, at):
                end = at + len(tail)
                break
        if not end:
            start = at + 1 if text[at] == " " and at + 1 < len(text) else at
            if kind(text[start]) == "space":
                start = at
            end = start
            while end < len(text) and kind(text[end]) == kind(text[start]):
                end += 1
            if kind(text[start]) == "space" and end < len(text) and end - at > 1:
                end -= 1
        yield text[at:end]
        at = end


def merge_once(symbols, pair):
    out, i = [], 0
    while i < len(symbols):
        if tuple(symbols[i:i + 2]) == pair:
            out.append("".join(pair))
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return out


def train(words, n_merges):
    words, merges = [list(w) for w in words], []
    for _ in range(n_merges):
        counts = {}
        for word in words:
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        best = max(counts.items(), key=lambda item: (item[1], item[0]), default=(None, 0))
        if best[1] < 2:
            break
        merges.append(best[0])
        words = [merge_once(word, best[0]) for word in words]
    return merges


def split_special(text, tokens):
    """Longest token first, wherever it stands: [(text, is_special)]"""
    parts = [(text, False)] if text else []
    for token in sorted(tokens, key=len, reverse=True):
        out = []
        for part, special in parts:
            if special:
                out.append((part, True))
                continue
            pieces = part.split(token)
            for i, piece in enumerate(pieces):
                if i > 0:
                    out.append((token, True))
                if piece:
                    out.append((piece, False))
        parts = out
    return parts


class Bpe:
    def __init__(self):
        self.codes = byte_alphabet()
        words = [self.encode(w) for w in gpt2_words(TRAINING)]
        self.merges = train(words, 350)
        self.tokens = [self.codes[b] for b in range(256)]
        self.tokens += ["".join(m) for m in self.merges]
        self.types = [1] * len(self.tokens)
        self.tokens += CONTROL[1:] + USER_DEFINED
        self.types += [3] * len(CONTROL[1:]) + [4] * len(USER_DEFINED)
        self.ids = {t: i for i, t in enumerate(self.tokens)}

    def encode(self, text):
        return "".join(self.codes[b] for b in text.encode())

    def raw(self, text):
        ids = []
        for word in gpt2_words(text):
            symbols = list(self.encode(word))
            for merge in self.merges:
                symbols = merge_once(symbols, merge)
            ids += [self.ids[s] for s in symbols]
        return ids

    def tokenize(self, text, special):
        tokens = USER_DEFINED + (CONTROL[1:] if special else [])
        ids = []
        for part, is_token in split_special(text, tokens):
            ids += [self.ids[part]] if is_token else self.raw(part)
        return ids

    def write(self, path):
        w = gguf.GGUFWriter(path, "llama")
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre("gpt-2")
        w.add_token_list(self.tokens)
        w.add_token_types(self.types)
        w.add_token_merges([" ".join(m) for m in self.merges])
        w.add_bos_token_id(self.ids["<s>"])
        w.add_eos_token_id(self.ids["</s>"])
        finish(w)


# ---- SentencePiece ----

class Spm:
    def __init__(self):
        words = ["\u2581" + w for w in TRAINING.replace("\n", " ").split(" ") if w]
        merges = train(words + ["\u2581" * 8] * 2, 300)
        letters = sorted(set("".join(words)) - set("😀🎉天"))
        self.tokens = CONTROL + USER_DEFINED + [f"<0x{b:02X}>" for b in range(256)]
        self.types = [2] + [3] * (len(CONTROL) - 1) + [4] * len(USER_DEFINED) + [6] * 256
        self.scores = [0.0] * len(self.tokens)
        for i, merge in enumerate(dict.fromkeys("".join(m) for m in merges)):
            self.tokens.append(merge)
            self.types.append(1)
            self.scores.append(-float(i // 2))  # pairs of equal scores: ties are leftmost
        for letter in letters:
            self.tokens.append(letter)
            self.types.append(1)
            self.scores.append(-1000.0)
        self.ids = {t: i for i, t in enumerate(self.tokens)}

    def raw(self, text):
        symbols = list(text.replace(" ", "\u2581"))
        while True:
            best = None
            for i in range(len(symbols) - 1):
                token = self.ids.get(symbols[i] + symbols[i + 1])
                if token is not None and (best is None or self.scores[token] > best[0]):
                    best = (self.scores[token], i)
            if best is None:
                break
            i = best[1]
            symbols[i:i + 2] = [symbols[i] + symbols[i + 1]]
        ids = []
        for symbol in symbols:
            if symbol in self.ids:
                ids.append(self.ids[symbol])
            else:
                ids += [self.ids[f"<0x{b:02X}>"] for b in symbol.encode()]
        return ids

    def tokenize(self, text, special):
        ids = [self.ids["<s>"]] if special else []
        prefix = True
        for part, is_token in split_special(text, USER_DEFINED + (CONTROL if special else [])):
            if is_token:
                ids.append(self.ids[part])
            else:
                ids += self.raw(" " + part if prefix else part)
            prefix = is_token
        return ids

    def write(self, path):
        w = gguf.GGUFWriter(path, "llama")
        w.add_tokenizer_model("llama")
        w.add_token_list(self.tokens)
        w.add_token_scores(self.scores)
        w.add_token_types(self.types)
        w.add_unk_token_id(0)
        w.add_bos_token_id(self.ids["<s>"])
        w.add_eos_token_id(self.ids["</s>"])
        finish(w)


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def main():
    for name, vocab in (("bpe_small", Bpe()), ("spm_small", Spm())):
        vocab.write(HERE / f"{name}.gguf")
        with open(HERE / f"{name}.txt", "w", encoding="ascii") as out:
            for text in TEXTS:
                row = [text.encode().hex()]
                row += [",".join(map(str, vocab.tokenize(text, special))) for special in (False, True)]
                out.write("\t".join(row) + "\n")


if __name__ == "__main__":
    main()
