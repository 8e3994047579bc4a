#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains one of the models of model.py.

usage: train.py NAME [--dir DIR] [--tokens 20e6]

Reads DIR/{train,held_out}.bin (tokenizer.py); writes DIR/NAME.pt every few minutes and at the end: stopped and started
again, it goes on from there with the same batches.  Progress is also kept in DIR/NAME.log, a JSON object a line.
A GPU is used when there is one.

stories-relu: the L1 norm of the gated activations is part of the loss (ProSparse, arXiv 2402.13516).  How much is
wanted is known, not the weight that gives it: the share of activations that are zero shall rise from ZEROS_FIRST to
ZEROS_LAST, along half a sine from RISE_FROM to RISE_TO of the steps, and the weight follows from what it is.
stories-moe: so is an even load of the experts (Switch Transformer, arXiv 2101.03961), with a weight small enough that
experts still differ; and so are small logits of the routers (the z loss of ST-MoE, arXiv 2202.08906, for sigmoids), which read
the residual as it is: without it they grow with it until many experts of a token have the score 1.0, and a choice among
these is one of rounding.
"""
import json
import math
import time

import numpy
import torch
import torch.nn.functional as F

from common import arguments
from model import SHAPES, Model, Notes

BATCH, SEED = 16, 1
ROWS = 4  # of a batch at a time: what they need then lies in a processor's caches
PEAK_RATE, END_RATE, WARM_UP = 3e-3, 3e-4, 100  # of learning; steps
DECAY, CLIP = 0.1, 1.0
ZEROS_FIRST, ZEROS_LAST, RISE_FROM, RISE_TO = 0.5, 0.89, 0.1, 0.7
PRESSURE_FIRST, PRESSURE_GAIN = 0.01, 0.2
BALANCE, SMALL_LOGITS = 0.003, 0.001
SAVE_SECONDS, REPORT_STEPS, N_HELD_OUT = 240, 50, 128


class Losses(Notes):
    """What else than the next token shall be learnt, of a part of a batch.  pressure: a tensor, so that loss_of is not compiled
    for each value, or None."""

    def __init__(self, pressure):
        self.pressure, self.more, self.n_zero, self.n_all = pressure, 0.0, 0, 0

    def hidden(self, h):
        if self.pressure is not None:
            self.more = self.more + self.pressure * h.abs().mean()
        self.n_zero = self.n_zero + (h.detach() == 0).sum()
        self.n_all += h.numel()

    def routed(self, logits, chosen):
        score, n = torch.sigmoid(logits), logits.shape[-1]
        share = F.one_hot(chosen, n).to(score.dtype).mean((0, 1, 2))
        wanted = (score / score.sum(-1, keepdim=True)).mean((0, 1))
        self.more = self.more + BALANCE * n * (share * wanted).sum() + SMALL_LOGITS * logits.square().mean()


class Tokens:
    def __init__(self, path, n_ctx):
        self.data, self.n = torch.from_numpy(numpy.fromfile(path, dtype=numpy.uint16).astype(numpy.int32)), n_ctx + 1

    def windows(self, at, device):
        rows = torch.stack([self.data[i:i + self.n] for i in at.tolist()]).long().to(device)
        return rows[:, :-1], rows[:, 1:]

    def batch(self, step, device):
        """The same one for a step, whatever was done before."""
        at = torch.randint(len(self.data) - self.n, (BATCH,), generator=torch.Generator().manual_seed(SEED * 10**6 + step))
        return self.windows(at, device)

    def spread(self, n_windows, device):
        """Windows all over the text, BATCH at a time."""
        for at in torch.linspace(0, len(self.data) - self.n, n_windows).long().split(BATCH):
            yield self.windows(at, device)


def rate(step, n_steps):
    if step < WARM_UP:
        return PEAK_RATE * (step + 1) / WARM_UP
    return END_RATE + (PEAK_RATE - END_RATE) * (1 + math.cos(math.pi * (step - WARM_UP) / max(1, n_steps - WARM_UP))) / 2


def wanted_zeros(step, n_steps):
    part = min(max((step / n_steps - RISE_FROM) / (RISE_TO - RISE_FROM), 0.0), 1.0)
    return ZEROS_FIRST + (ZEROS_LAST - ZEROS_FIRST) * math.sin(part * math.pi / 2)


def multiplies_bfloat16(device):
    """Other processors would take longer than with floats."""
    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()


@torch.compile  # a fifth less time than step by step; a minute at first
def loss_of(model, tokens, targets, notes=None):
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=multiplies_bfloat16(tokens.device)):
        logits = model(tokens, notes)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


class Run:
    def __init__(self, name, folder, n_tokens):
        self.name, self.folder = name, folder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(SEED)
        shape = SHAPES[name]
        self.model = Model(shape).to(self.device)
        self.n_steps = int(n_tokens / BATCH / shape.n_ctx)
        self.data, self.held_out = (Tokens(folder / f"{part}.bin", shape.n_ctx) for part in ("train", "held_out"))
        parts = [[p for p in self.model.parameters() if (p.dim() == 2) == is_matrix] for is_matrix in (True, False)]
        self.optimizer = torch.optim.AdamW([{"params": parts[0], "weight_decay": DECAY},
                                            {"params": parts[1], "weight_decay": 0.0}], lr=PEAK_RATE, betas=(0.9, 0.95))
        self.step, self.seconds, self.last_held_out = 0, 0.0, math.nan
        self.pressure = PRESSURE_FIRST
        if self.file.exists():
            self.load()

    @property
    def file(self):
        return self.folder / f"{self.name}.pt"

    def load(self):
        kept = torch.load(self.file, map_location=self.device, weights_only=True)
        if kept["n_steps"] != self.n_steps:
            raise SystemExit(f"{self.file} was made for {kept['n_steps']} steps, not {self.n_steps}: the schedule differs")
        self.model.load_state_dict(kept["model"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.step, self.seconds, self.last_held_out = kept["step"], kept["seconds"], kept["held_out"]
        self.pressure = kept["pressure"]

    def save(self):
        kept = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step,
                "seconds": self.seconds, "n_steps": self.n_steps, "batch": BATCH, "held_out": self.last_held_out,
                "pressure": self.pressure}
        torch.save(kept, self.file.with_suffix(".new"))
        self.file.with_suffix(".new").replace(self.file)

    def learn(self):
        """One step.  Returns the loss of the next token, and the share of activations that were zero."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.step, self.n_steps)
        self.optimizer.zero_grad(set_to_none=True)
        mean, zero, share, is_pressed = 0.0, 0.0, ROWS / BATCH, self.name == "stories-relu"
        for rows in zip(*(part.split(ROWS) for part in self.data.batch(self.step, self.device))):
            notes = Losses(torch.tensor(self.pressure) if is_pressed else None)
            loss = loss_of(self.model, *rows, notes)
            ((loss + notes.more) * share).backward()
            mean += loss.item() * share
            zero += float(notes.n_zero) / notes.n_all * share
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        if is_pressed:
            self.pressure *= math.exp(PRESSURE_GAIN * (wanted_zeros(self.step, self.n_steps) - zero))
        self.step += 1
        return mean, zero

    @torch.no_grad()
    def held_out_loss(self):
        losses = [loss_of(self.model, *rows).item() for rows in self.held_out.spread(N_HELD_OUT, self.device)]
        return sum(losses) / len(losses)

    def report(self, loss, zero):
        tokens = self.step * BATCH * self.model.shape.n_ctx
        line = {"step": self.step, "of": self.n_steps, "tokens": tokens, "loss": round(loss, 4), "zero": round(zero, 4),
                "pressure": round(self.pressure, 4), "seconds": round(self.seconds), "tok/s": round(tokens / self.seconds)}
        if self.step % (10 * REPORT_STEPS) == 0 or self.step == self.n_steps:
            self.last_held_out = self.held_out_loss()
            line["held_out"] = round(self.last_held_out, 4)
        print(json.dumps(line), flush=True)
        with open(self.folder / f"{self.name}.log", "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def all(self):
        saved = time.perf_counter()
        while self.step < self.n_steps:
            begin = time.perf_counter()
            loss, zero = self.learn()
            self.seconds += time.perf_counter() - begin
            if self.step % REPORT_STEPS == 0 or self.step == self.n_steps:
                self.report(loss, zero)
            if time.perf_counter() - saved > SAVE_SECONDS or self.step == self.n_steps:
                self.save()
                saved = time.perf_counter()


def main():
    parser = arguments(__doc__)
    parser.add_argument("name", choices=sorted(SHAPES))
    parser.add_argument("--tokens", type=float, default=20e6)
    options = parser.parse_args()
    Run(options.name, options.dir, options.tokens).all()


if __name__ == "__main__":
    main()
