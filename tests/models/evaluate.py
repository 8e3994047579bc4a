#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the trained models are like, on text that none of them has seen: the tables of README.md.

usage: evaluate.py [NAME...] [--dir DIR] [--texts N]

Reads DIR/NAME.pt and DIR/held_out.jsonl.  For each model: perplexity per token; of a ReLU model the share of gated
activations that are exactly zero, by layer; of a mixture of experts, by layer: the shares of its experts, how much the
hottest quarter takes overall and on one topic, how far hot sets of topics agree, and how often the router of the next
layer, applied one layer ahead, names the experts that are then chosen.
"""
import collections
import itertools
import math

import tokenizers
import torch
import torch.nn.functional as F

from common import arguments, lines
from model import SHAPES, Model, Notes



def load(name, folder):
    model = Model(SHAPES[name])
    model.load_state_dict(torch.load(folder / f"{name}.pt", map_location="cpu", weights_only=True)["model"])
    return model.eval()


def held_out(folder, n_texts, n_ctx):
    """[(topic, tokens)], each text after the separator and before one."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [(line["topic"], torch.tensor([0] + tokenizer.encode(line["text"]).ids + [0])[:n_ctx + 1])
            for line in itertools.islice(lines(folder / "held_out.jsonl"), n_texts)]


class Zeros(Notes):
    """Of each layer, the share of activations that are exactly zero."""

    def __init__(self):
        self.n_zero, self.n_all, self.layer = collections.Counter(), collections.Counter(), 0

    def hidden(self, h):
        self.n_zero[self.layer] += int((h == 0).sum())
        self.n_all[self.layer] += h.numel()
        self.layer += 1

    def share(self, layer):
        return self.n_zero[layer] / self.n_all[layer]


class Routing(Notes):
    """Counts of the experts that were chosen, [topic][layer][expert]; and how many of them the next layer's router named
    one layer earlier."""

    def __init__(self, model):
        self.model, self.topic, self.n = model, None, {}
        self.n_ahead, self.n_chosen = torch.zeros(len(model.blk)), torch.zeros(len(model.blk))
        self.chosen = []

    def routed(self, logits, chosen):
        self.chosen.append(chosen)

    def note(self, inputs):
        """inputs[l]: the residual that enters layer l."""
        counts = self.n.setdefault(self.topic, torch.zeros(len(self.model.blk), self.model.shape.n_experts))
        for layer, chosen in enumerate(self.chosen):
            counts[layer] += torch.bincount(chosen.flatten(), minlength=counts.shape[1])
            if layer == 0:
                continue
            router = self.model.blk[layer].ffn.ffn_gate_inp
            ahead = router(inputs[layer - 1]).topk(self.model.shape.n_used, -1).indices
            self.n_ahead[layer] += (chosen.unsqueeze(-1) == ahead.unsqueeze(-2)).any(-1).sum()
            self.n_chosen[layer] += chosen.numel()
        self.chosen = []


@torch.no_grad()
def run(model, texts, notes, at_end=lambda topic, inputs: None):
    """Perplexity per token."""
    inputs, loss, n = [], 0.0, 0
    hooks = [layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for layer in model.blk]
    for topic, tokens in texts:
        inputs.clear()
        notes.layer = 0
        logits = model(tokens[:-1].unsqueeze(0), notes)
        loss += F.cross_entropy(logits[0], tokens[1:], reduction="sum").item()
        n += len(tokens) - 1
        at_end(topic, inputs)
    for hook in hooks:
        hook.remove()
    return math.exp(loss / n)


def print_relu(model, texts):
    zeros = Zeros()
    perplexity = run(model, texts, zeros)
    shares = [zeros.share(layer) for layer in range(len(model.blk))]
    print(f"perplexity {perplexity:.3f}; gated activations that are zero, by layer: "
          f"{' '.join(f'{100 * s:.1f}' for s in shares)} %, all {100 * sum(shares) / len(shares):.1f} %")


def hottest(counts, n):
    return set(counts.topk(n).indices.tolist())


def print_moe(model, texts):
    routing = Routing(model)

    def at_end(topic, inputs):
        routing.topic = topic
        routing.note(inputs)

    print(f"perplexity {run(model, texts, routing, at_end):.3f}")
    total, n_hot = sum(routing.n.values()), model.shape.n_experts // 4
    print("layer  shares of the experts in %, hottest first              hottest quarter of all, of a topic   topics agree  ahead")
    for layer in range(len(model.blk)):
        share = total[layer] / total[layer].sum()
        topics = [counts[layer] / counts[layer].sum() for counts in routing.n.values()]
        sets = [hottest(t, n_hot) for t in topics]
        agree = [len(a & b) / n_hot for i, a in enumerate(sets) for b in sets[:i]]
        ahead = f"{100 * routing.n_ahead[layer] / routing.n_chosen[layer]:.0f} %" if layer else ""
        print(f"{layer:5}  {' '.join(f'{100 * s:.1f}' for s in share.sort(descending=True).values)}  "
              f"{100 * share.topk(n_hot).values.sum():.0f} %  "
              f"{100 * sum(t.topk(n_hot).values.sum() for t in topics) / len(topics):.0f} %  "
              f"{100 * sum(agree) / len(agree):.0f} %  {ahead}")


def main():
    parser = arguments(__doc__)
    parser.add_argument("names", nargs="*", default=sorted(SHAPES))
    parser.add_argument("--texts", type=int, default=400)
    options = parser.parse_args()
    for name in options.names:
        model = load(name, options.dir)
        texts = held_out(options.dir, options.texts, model.shape.n_ctx)
        print(f"\n{name}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")
        (print_moe if model.shape.is_moe else print_relu)(model, texts)


if __name__ == "__main__":
    main()
