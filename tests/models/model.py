# SPDX-License-Identifier: Apache-2.0
"""The models: decoder-only transformers with norms before the blocks, grouped queries and rotary positions.

The names of the parameters are those of the tensors of a GGUF file, without ".weight".
"""
import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass(frozen=True)
class Shape:
    n_layers: int
    n_ff: int  # neurons, of each expert if there are several
    activation: str  # silu, relu
    n_experts: int = 0  # 0: a dense feed-forward
    n_used: int = 0
    gate_bias: bool = False  # by which neurons may learn to stay off
    n_vocab: int = 4096
    n_embd: int = 256
    n_head: int = 4
    n_head_kv: int = 2
    n_ctx: int = 512
    rope_base: float = 10000.0
    norm_eps: float = 1e-5

    @property
    def head_dim(self):
        return self.n_embd // self.n_head

    @property
    def is_moe(self):
        return self.n_experts > 0

    def has_rope(self, layer):
        """SmallThinker: every fourth layer from the first on has none."""
        return not self.is_moe or layer % 4 != 0


SHAPES = {
    "stories-dense": Shape(n_layers=6, n_ff=768, activation="silu"),
    "stories-relu": Shape(n_layers=6, n_ff=768, activation="relu", gate_bias=True),
    "stories-moe": Shape(n_layers=6, n_ff=64, activation="relu", n_experts=16, n_used=2),
    # What stories-moe computes per token, as a dense model: its yardstick, not shipped.
    "stories-small": Shape(n_layers=6, n_ff=128, activation="silu"),
}


class Norm(nn.Module):
    def __init__(self, n, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(n)), eps

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Rope:
    """Pairs of adjacent channels in the llama family, of the halves of a head elsewhere."""

    def __init__(self, shape):
        half = torch.arange(shape.head_dim // 2, dtype=torch.float64)
        angle = torch.outer(torch.arange(shape.n_ctx, dtype=torch.float64), shape.rope_base ** (-2 * half / shape.head_dim))
        self.cos, self.sin, self.in_halves = angle.cos().float(), angle.sin().float(), shape.is_moe

    def __call__(self, x):
        """x [batch][head][position][channel]"""
        cos, sin = self.cos[:x.shape[2]].to(x.dtype), self.sin[:x.shape[2]].to(x.dtype)
        if self.in_halves:
            a, b = x.chunk(2, dim=-1)
            return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)


def attend(q, k, v):
    """Causal attention, written out: for contexts this short, PyTorch's own takes three times as long to differentiate on CPUs."""
    mask = torch.full((q.shape[2], k.shape[2]), -math.inf, device=q.device).triu(1)
    scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[3]) + mask
    return scores.softmax(-1).to(v.dtype) @ v


class Attention(nn.Module):
    def __init__(self, shape, rope):
        super().__init__()
        self.shape, self.rope = shape, rope
        n_kv = shape.n_head_kv * shape.head_dim
        self.attn_q = nn.Linear(shape.n_embd, shape.n_embd, bias=False)
        self.attn_k = nn.Linear(shape.n_embd, n_kv, bias=False)
        self.attn_v = nn.Linear(shape.n_embd, n_kv, bias=False)
        self.attn_output = nn.Linear(shape.n_embd, shape.n_embd, bias=False)

    def forward(self, x):
        def heads(y, n):
            return y.view(*x.shape[:2], n, self.shape.head_dim).transpose(1, 2)
        q = heads(self.attn_q(x), self.shape.n_head)
        k, v = (heads(f(x), self.shape.n_head_kv) for f in (self.attn_k, self.attn_v))
        if self.rope:
            q, k = self.rope(q), self.rope(k)
        group = self.shape.n_head // self.shape.n_head_kv
        y = attend(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1))
        return self.attn_output(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """h = act(gate x) (up x), and what is noted of it: see Notes."""

    def __init__(self, shape):
        super().__init__()
        n = shape.n_ff * max(shape.n_experts, 1)
        self.act = {"silu": F.silu, "relu": F.relu}[shape.activation]
        self.ffn_gate = nn.Linear(shape.n_embd, n, bias=shape.gate_bias)
        self.ffn_up = nn.Linear(shape.n_embd, n, bias=False)
        self.ffn_down = nn.Linear(n, shape.n_embd, bias=False)

    def hidden(self, x):
        return self.act(self.ffn_gate(x)) * self.ffn_up(x)


class Dense(FeedForward):
    def forward(self, x, _, notes):
        h = self.hidden(x)
        notes.hidden(h)
        return self.ffn_down(h)


class Experts(FeedForward):
    """All experts are computed, and those that the router did not choose weighed with zero: they are so small
    that gathering tokens would take longer."""

    def __init__(self, shape):
        super().__init__(shape)
        self.shape = shape
        self.ffn_gate_inp = nn.Linear(shape.n_embd, shape.n_experts, bias=False)

    def weights(self, layer_input, notes):
        with torch.autocast(layer_input.device.type, enabled=False):
            logits = self.ffn_gate_inp(layer_input.float())
        score = torch.sigmoid(logits)
        top, chosen = score.topk(self.shape.n_used, dim=-1)
        notes.routed(logits, chosen)
        return torch.zeros_like(score).scatter(-1, chosen, top / top.sum(-1, keepdim=True))

    def forward(self, x, layer_input, notes):
        h = self.hidden(x).unflatten(-1, (self.shape.n_experts, self.shape.n_ff))
        h = h * self.weights(layer_input, notes).unsqueeze(-1).to(h.dtype)
        notes.hidden(h)
        return self.ffn_down(h.flatten(-2))


class Layer(nn.Module):
    def __init__(self, shape, rope):
        super().__init__()
        self.attn_norm, self.ffn_norm = (Norm(shape.n_embd, shape.norm_eps) for _ in range(2))
        self.attn = Attention(shape, rope)
        self.ffn = Experts(shape) if shape.is_moe else Dense(shape)

    def forward(self, x, notes):
        y = x + self.attn(self.attn_norm(x))
        return y + self.ffn(self.ffn_norm(y), x, notes)


class Notes:
    """Listens to what the feed-forwards do; this one does not care."""

    def hidden(self, h):
        """h [batch][position][neuron], of experts [..][expert][neuron]"""

    def routed(self, logits, chosen):
        """logits [batch][position][expert] of the router, chosen [batch][position][n_used]"""


class Model(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        rope = Rope(shape)
        self.token_embd = nn.Embedding(shape.n_vocab, shape.n_embd)  # the head, too
        self.blk = nn.ModuleList(Layer(shape, rope if shape.has_rope(l) else None) for l in range(shape.n_layers))
        self.output_norm = Norm(shape.n_embd, shape.norm_eps)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                into_residual = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(p, std=0.02 / (math.sqrt(2 * shape.n_layers) if into_residual else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens, notes=None):
        """Logits [batch][position][n_vocab] of tokens [batch][position]."""
        notes = notes or Notes()
        x = self.token_embd(tokens)
        for layer in self.blk:
            x = layer(x, notes)
        return F.linear(self.output_norm(x), self.token_embd.weight)
