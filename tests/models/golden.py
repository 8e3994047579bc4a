#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What PyTorch says of the model files, for the tests: logits of a held-out text and a greedy continuation.

usage: golden.py FILE.gguf... [--dir DIR] [--out DIR]

The weights are those of the files, dequantised.  Writes OUT/NAME.json: "text", its "tokens" after the separator,
how many of these are the prompt ("n_prompt"), and the tokens of its "continuation" with their "margins", in logits; and
OUT/NAME.logits.f32, a row of logits per token of the text: those of the one after it.  OUT is the folder of the first
file unless said.
"""
import json
import pathlib

import gguf
import numpy
import tokenizers
import torch

from common import arguments, lines
from model import SHAPES, Model

N_TOKENS, N_PROMPT, N_NEW = 32, 12, 24


def state_of(path, shape):
    """The parameters of a model from its file: see export.tensors."""
    state = {}
    for tensor in gguf.GGUFReader(path).tensors:
        values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32))
        name = tensor.name.replace("_exps.", ".")
        if name != tensor.name:
            values = values.permute(1, 0, 2) if "ffn_down" in name else values
            values = values.reshape(shape.n_embd, -1) if "ffn_down" in name else values.reshape(-1, shape.n_embd)
        for part in ("attn", "ffn"):
            if f".{part}_" in name and "norm" not in name:
                name = name.replace(f".{part}_", f".{part}.{part}_")
        state[name] = values
    return state


def load(path):
    shape = SHAPES[path.stem.split("-Q")[0].split("-F")[0]]
    model = Model(shape)
    model.load_state_dict(state_of(path, shape))
    return model.eval()


@torch.no_grad()
def continuation(model, tokens):
    """Greedy; of each token, by how much its logit is above the second best."""
    tokens, margins = list(tokens), []
    for _ in range(N_NEW):
        best = model(torch.tensor([tokens]))[0, -1].topk(2)
        margins.append(round((best.values[0] - best.values[1]).item(), 4))
        tokens.append(best.indices[0].item())
    return tokens[-N_NEW:], margins


@torch.no_grad()
def write(path, text, tokenizer, out):
    model = load(path)
    text = tokenizer.decode(tokenizer.encode(text).ids[:N_TOKENS])
    tokens = [0] + tokenizer.encode(text).ids
    model(torch.tensor([tokens]))[0].numpy().astype(numpy.float32).tofile(out / f"{path.stem}.logits.f32")
    new, margins = continuation(model, tokens[:N_PROMPT])
    golden = {"text": text, "tokens": tokens, "n_prompt": N_PROMPT, "continuation": new, "margins": margins}
    (out / f"{path.stem}.json").write_text(json.dumps(golden) + "\n", encoding="utf-8")
    prompt = tokenizer.decode(tokens[1:N_PROMPT])
    print(f"{path.stem}: {prompt!r} goes on {tokenizer.decode(new)!r}; least margin {min(margins)}")


def main():
    parser = arguments(__doc__)
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    tokenizer = tokenizers.Tokenizer.from_file(str(options.dir / "tokenizer.json"))
    text = next(lines(options.dir / "held_out.jsonl"))["text"]
    for path in options.files:
        write(path, text, tokenizer, options.out or options.files[0].parent)


if __name__ == "__main__":
    main()
