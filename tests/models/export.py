#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes trained models as GGUF files.

usage: export.py NAME... [--dir DIR] [--type Q8_0|F16|F32] [--out DIR]

Reads DIR/NAME.pt (train.py) and DIR/tokenizer.json; writes OUT/NAME.gguf, or OUT/NAME-TYPE.gguf if TYPE is not Q8_0.
Norms and routers are F32 in any case.
"""
import json
import pathlib

import gguf
import numpy
import torch

from common import ROOT, arguments
from model import SHAPES

NORMAL, CONTROL = 1, 3
WINDOW = 4096  # of a SmallThinker: what says that every fourth layer sees all, and has no rotary positions


def architecture(shape):
    return "smallthinker" if shape.is_moe else "llama"


def write_metadata(w, name, shape, kept):
    tokens = kept["step"] * kept["batch"] * shape.n_ctx
    w.add_name(name)
    w.add_description(f"Short stories in simple words. {sum(p.numel() for p in kept['model'].values())} parameters, "
                      f"{tokens / 1e6:.1f} M tokens of training, {shape.activation} feed-forward.")
    w.add_author("the lacuna project")
    w.add_license("Apache-2.0")
    w.add_languages(["en"])
    w.add_tags(["text-generation"])
    w.add_string("general.origin", "trained by tests/models/train.py on answers of SmolLM2-135M-Instruct (Apache-2.0)")
    w.add_uint64("general.training.tokens", tokens)
    w.add_float32("general.training.held_out_loss", kept["held_out"])
    w.add_context_length(shape.n_ctx)
    w.add_embedding_length(shape.n_embd)
    w.add_block_count(shape.n_layers)
    w.add_feed_forward_length(shape.n_ff)
    w.add_head_count(shape.n_head)
    w.add_head_count_kv(shape.n_head_kv)
    w.add_key_length(shape.head_dim)
    w.add_value_length(shape.head_dim)
    w.add_rope_dimension_count(shape.head_dim)
    w.add_rope_freq_base(shape.rope_base)
    w.add_layer_norm_rms_eps(shape.norm_eps)
    w.add_vocab_size(shape.n_vocab)
    if shape.is_moe:
        w.add_expert_count(shape.n_experts)
        w.add_expert_used_count(shape.n_used)
        w.add_expert_feed_forward_length(shape.n_ff)
        w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        w.add_sliding_window(WINDOW)
    elif shape.activation != "silu":
        w.add_string(f"{w.arch}.hidden_activation", shape.activation)


def write_tokenizer(w, path):
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types([CONTROL] + [NORMAL] * (len(tokens) - 1))
    w.add_token_merges(merges)
    w.add_bos_token_id(0)
    w.add_eos_token_id(0)
    w.add_add_bos_token(True)


def tensors(shape, state):
    """(name of GGUF, values): experts apart, [expert][row][column]."""
    for name, values in state.items():
        values = values.float().numpy()
        name = name.replace(".attn.", ".").replace(".ffn.", ".")
        if shape.is_moe and name.endswith(("ffn_gate.weight", "ffn_up.weight")):
            values = values.reshape(shape.n_experts, shape.n_ff, shape.n_embd)
            name = name.replace(".weight", "_exps.weight")
        elif shape.is_moe and name.endswith("ffn_down.weight"):
            values = values.reshape(shape.n_embd, shape.n_experts, shape.n_ff).transpose(1, 0, 2)
            name = name.replace(".weight", "_exps.weight")
        yield name, numpy.ascontiguousarray(values)


def write_tensors(w, shape, state, kind):
    for name, values in tensors(shape, state):
        if values.ndim == 1 or "ffn_gate_inp" in name:
            w.add_tensor(name, values)
        else:
            w.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def export(name, folder, out, kind):
    shape, kept = SHAPES[name], torch.load(folder / f"{name}.pt", map_location="cpu", weights_only=True)
    path = out / (f"{name}.gguf" if kind == gguf.GGMLQuantizationType.Q8_0 else f"{name}-{kind.name}.gguf")
    w = gguf.GGUFWriter(path, architecture(shape))
    write_metadata(w, name, shape, kept)
    w.add_file_type(gguf.LlamaFileType[{"F32": "ALL_F32"}.get(kind.name, f"MOSTLY_{kind.name}")])
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_tokenizer(w, folder / "tokenizer.json")
    write_tensors(w, shape, kept["model"], kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def main():
    parser = arguments(__doc__)
    parser.add_argument("names", nargs="+", choices=sorted(SHAPES))
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/models")
    parser.add_argument("--type", choices=("Q8_0", "F16", "F32"), default="Q8_0")
    options = parser.parse_args()
    for name in options.names:
        export(name, options.dir, options.out, gguf.GGMLQuantizationType[options.type])


if __name__ == "__main__":
    main()
