#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of the models, learnt from the corpus, and the corpus as tokens.

usage: tokenizer.py [--dir DIR]

Reads DIR/{train,held_out}.jsonl (corpus.py); writes DIR/tokenizer.json and DIR/{train,held_out}.bin, 16-bit tokens,
each text after the token that separates texts.  Byte-level BPE with GPT-2's pre-tokenizer, which every engine knows.
"""
import numpy
import tokenizers

from common import arguments, lines

N_TOKENS = 4096
SEPARATOR = "<|endoftext|>"  # token 0


def texts(path):
    return (line["text"] for line in lines(path))


def learn(path):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=N_TOKENS, special_tokens=[SEPARATOR], show_progress=False,
                                             initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts(path), trainer)
    assert tokenizer.get_vocab_size() == N_TOKENS and tokenizer.token_to_id(SEPARATOR) == 0
    return tokenizer


def write_tokens(tokenizer, source, target):
    every = list(texts(source))
    tokens = [token for text in tokenizer.encode_batch(every) for token in [0] + text.ids]
    numpy.array(tokens, dtype=numpy.uint16).tofile(target)
    print(f"{target.name}: {len(every)} texts, {len(tokens)} tokens, {sum(map(len, every)) / len(tokens):.2f} bytes each")


def main():
    options = arguments(__doc__).parse_args()
    tokenizer = learn(options.dir / "train.jsonl")
    tokenizer.save(str(options.dir / "tokenizer.json"))
    for name in ("train", "held_out"):
        write_tokens(tokenizer, options.dir / f"{name}.jsonl", options.dir / f"{name}.bin")


if __name__ == "__main__":
    main()
