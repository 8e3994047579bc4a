#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the fixtures beside it: small random models and what an independent engine says of them.

usage: make_fixtures.py --reference PROGRAM --quantize PROGRAM [NAME...]

PROGRAM of --reference is called as `PROGRAM MODEL.gguf OUT.f32 TOKEN,TOKEN,...` and writes one row of
float32 logits per token; --quantize as `PROGRAM IN.gguf OUT.gguf TYPE` (see README.md for the ones
that were used).  Needs the Python packages numpy and gguf, which tests/run.sh does not install: the
tests only read what this made.

  arch/NAME.gguf          one per architecture and kind of rope, F16 matrices
  arch/NAME.json          {"tokens": [...]}
  arch/NAME.logits.f32    row i = logits after token i, of the F32 copy of the same weights
  quant/TYPE.*            the same for each tensor type; the reference is of the dequantised weights
  quant/blocks/TYPE.bin   raw blocks, and TYPE.f32 their values
"""
import argparse
import json
import pathlib
import subprocess
import tempfile

import gguf
import numpy as np

HERE = pathlib.Path(__file__).parent
N_TOKENS = 40

# What differs from a plain llama; the keys are read by Model.  Seeds are such that no choice of experts is
# a near tie, and that rounding K and V to F16 alone stays well within the tests' bar.
ARCHS = {
    "llama": {},
    "llama-rope-factors": {"arch": "llama", "rope_factors": True},
    "llama-rope-linear": {"arch": "llama", "rope_scaling": "linear"},
    "llama-rope-yarn": {"arch": "llama", "rope_scaling": "yarn"},
    "llama-rope-factor-alone": {"arch": "llama", "rope_factor_alone": True},
    "llama-biases": {"arch": "llama", "qkv_bias": True},
    "mixtral": {"arch": "llama", "n_expert": 4, "seed": 3},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": "head"},
    "gemma3": {"qk_norm": "head", "sandwich": True, "window": 16, "tied": True, "n_layer": 7},
    "granite": {"scales": True},
    "olmo2": {"qk_norm": "full", "only_post_norm": True, "seed": 4},
    "olmo2-window": {"arch": "olmo2", "qk_norm": "full", "only_post_norm": True, "window": 16, "n_layer": 5,
                     "rope_scaling": "yarn"},
    "smollm3": {"tied": True, "n_layer": 5},
    "phi3": {"fused": True},
    "phi3-longrope": {"arch": "phi3", "fused": True, "long_factors": True},
    "arcee": {"ungated": True},
    "qwen2moe": {"qkv_bias": True, "n_expert": 4, "shared_expert": True},
    "qwen3moe": {"qk_norm": "head", "n_expert": 4},
    "olmoe": {"qk_norm": "full", "n_expert": 4, "n_head_kv": 4},
    "granitemoe": {"scales": True, "n_expert": 4},
    "granitemoe-shared": {"arch": "granitemoe", "scales": True, "n_expert": 4, "shared_expert": True,
                          "shared_gate": False},
    "smallthinker": {"n_expert": 4, "sigmoid_gate": True, "window": 4096, "n_layer": 5},
    "smallthinker-softmax": {"arch": "smallthinker", "n_expert": 4, "softmax_gate": True},
}
# Tensor types as --quantize names them.
QUANTS = ["BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_NL",
          "IQ4_XS", "MXFP4_MOE", "MIXED_MOE"]
# Experts whose gate and up differ in type: each reads the input in its own form.
MIXED_MOE = {"ffn_gate_exps": gguf.GGMLQuantizationType.Q8_0, "ffn_down_exps": gguf.GGMLQuantizationType.Q8_0,
             "ffn_gate_inp.": gguf.GGMLQuantizationType.Q8_0}


class Model:
    """A random model: its metadata and, in order, its tensors."""

    def __init__(self, name, **shape):
        self.name = name
        self.p = {"arch": name, "seed": 1, "n_vocab": 288, "n_embd": 64, "n_head": 4, "n_head_kv": 2, "head_dim": 16,
                  "n_ff": 96, "n_ff_exp": 32, "n_layer": 3, "n_expert": 0, **shape}
        self.rng = np.random.default_rng(self.p["seed"])
        self.tensors = []
        self.make_tensors()

    def matrix(self, name, *shape, std=0.8):
        values = self.rng.standard_normal(shape, dtype=np.float32) * np.float32(std / np.sqrt(shape[-1]))
        # The F16 values are the truth; the F32 copy holds the same.  Routers are F32 in real files.
        is_router = "ffn_gate_inp" in name
        self.tensors.append((name, values if is_router else values.astype(np.float16)))

    def vector(self, name, n, base=1.0):
        self.tensors.append((name, (base + 0.1 * self.rng.standard_normal(n)).astype(np.float32)))

    def make_tensors(self):
        p = self.p
        self.matrix("token_embd.weight", p["n_vocab"], p["n_embd"], std=np.sqrt(p["n_embd"]))
        self.vector("output_norm.weight", p["n_embd"])
        if not p.get("tied"):
            self.matrix("output.weight", p["n_vocab"], p["n_embd"])
        if p.get("rope_factors"):
            factors = np.linspace(1.0, 8.0, p["head_dim"] // 2, dtype=np.float32)
            self.tensors.append(("rope_freqs.weight", factors))
        if p.get("long_factors"):
            for name, last in (("long", 16.0), ("short", 2.0)):
                factors = np.linspace(1.0, last, p["head_dim"] // 2, dtype=np.float32)
                self.tensors.append((f"rope_factors_{name}.weight", factors))
        for layer in range(p["n_layer"]):
            self.make_norms(f"blk.{layer}.")
            self.make_attention(f"blk.{layer}.")
            if p["n_expert"]:
                self.make_experts(f"blk.{layer}.")
            else:
                self.make_ffn(f"blk.{layer}.")

    def make_norms(self, block):
        p = self.p
        if not p.get("only_post_norm"):
            self.vector(block + "attn_norm.weight", p["n_embd"])
            self.vector(block + "ffn_norm.weight", p["n_embd"])
        if p.get("only_post_norm") or p.get("sandwich"):
            self.vector(block + "post_attention_norm.weight", p["n_embd"])
            self.vector(block + "post_ffw_norm.weight", p["n_embd"])

    def make_attention(self, block):
        p = self.p
        width = {"q": p["n_head"] * p["head_dim"], "k": p["n_head_kv"] * p["head_dim"],
                 "v": p["n_head_kv"] * p["head_dim"]}
        if p.get("fused"):
            self.matrix(block + "attn_qkv.weight", sum(width.values()), p["n_embd"])
        else:
            for kind, n in width.items():
                self.matrix(f"{block}attn_{kind}.weight", n, p["n_embd"])
        if p.get("qkv_bias"):
            for kind, n in width.items():
                self.vector(f"{block}attn_{kind}.bias", n, 0.0)
        if p.get("qk_norm"):
            for kind in "qk":
                n = p["head_dim"] if p["qk_norm"] == "head" else width[kind]
                self.vector(f"{block}attn_{kind}_norm.weight", n)
        self.matrix(block + "attn_output.weight", p["n_embd"], width["q"])

    def make_ffn(self, block):
        p = self.p
        if p.get("fused"):
            self.matrix(block + "ffn_up.weight", 2 * p["n_ff"], p["n_embd"])
        else:
            if not p.get("ungated"):
                self.matrix(block + "ffn_gate.weight", p["n_ff"], p["n_embd"])
            self.matrix(block + "ffn_up.weight", p["n_ff"], p["n_embd"])
        self.matrix(block + "ffn_down.weight", p["n_embd"], p["n_ff"])

    def expert_width(self):
        """Where the architecture has one width for both, it is n_ff."""
        return self.p["n_ff"] if self.p["arch"] in ("llama", "granitemoe", "olmoe") else self.p["n_ff_exp"]

    def make_experts(self, block):
        p, n_ff = self.p, self.expert_width()
        # Wide routers, so that no choice of experts is a near tie.
        self.matrix(block + "ffn_gate_inp.weight", p["n_expert"], p["n_embd"], std=4.0)
        self.matrix(block + "ffn_gate_exps.weight", p["n_expert"], n_ff, p["n_embd"])
        self.matrix(block + "ffn_up_exps.weight", p["n_expert"], n_ff, p["n_embd"])
        self.matrix(block + "ffn_down_exps.weight", p["n_expert"], p["n_embd"], n_ff)
        if p.get("shared_expert"):
            if p.get("shared_gate", True):
                self.tensors.append((block + "ffn_gate_inp_shexp.weight",
                                     self.rng.standard_normal(p["n_embd"], dtype=np.float32) * np.float32(0.1)))
            self.matrix(block + "ffn_gate_shexp.weight", 2 * n_ff, p["n_embd"])
            self.matrix(block + "ffn_up_shexp.weight", 2 * n_ff, p["n_embd"])
            self.matrix(block + "ffn_down_shexp.weight", p["n_embd"], 2 * n_ff)

    def write_keys(self, writer):
        p = self.p
        writer.add_name("fixture")  # llama.cpp treats some names of real models as special
        writer.add_context_length(2048)
        writer.add_embedding_length(p["n_embd"])
        writer.add_block_count(p["n_layer"])
        writer.add_feed_forward_length(p["n_ff"])
        writer.add_head_count(p["n_head"])
        writer.add_head_count_kv(p["n_head_kv"])
        writer.add_key_length(p["head_dim"])
        writer.add_value_length(p["head_dim"])
        writer.add_rope_dimension_count(p["head_dim"])
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_freq_base(10000.0)
        if p.get("rope_scaling"):
            writer.add_rope_scaling_type(gguf.RopeScalingType(p["rope_scaling"]))
            writer.add_rope_scaling_factor(4.0)
            writer.add_rope_scaling_orig_ctx_len(512)
        if p.get("rope_factor_alone"):
            writer.add_rope_scaling_factor(4.0)
        if p.get("long_factors"):
            writer.add_rope_scaling_orig_ctx_len(2048)  # not exceeded: the short ones
            writer.add_rope_scaling_attn_factors(1.1)
        if p["n_expert"]:
            writer.add_expert_count(p["n_expert"])
            writer.add_expert_used_count(2)
            writer.add_expert_feed_forward_length(self.expert_width())
        if p.get("shared_expert"):
            writer.add_expert_shared_feed_forward_length(2 * self.expert_width())
        if p.get("sigmoid_gate"):
            writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        if p.get("softmax_gate"):
            writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX)
        if p.get("window") is not None or p.get("fused"):
            writer.add_sliding_window(p.get("window", 0))
        if p.get("scales"):
            writer.add_embedding_scale(12.0)
            writer.add_residual_scale(0.22)
            writer.add_attention_scale(0.08)
            writer.add_logit_scale(4.0)

    def write_vocabulary(self, writer):
        """SentencePiece: three special tokens, 256 bytes, then single letters."""
        n = self.p["n_vocab"]
        letters = ["\u2581", *"etaoinshrdlucmfwypvbgkqjxz", "th", "he", "in", "er", "an", "re", "nd", "ou"]
        pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] + letters[:n - 259]
        kinds = [2, 3, 3] + [6] * 256 + [1] * (n - 259)
        writer.add_tokenizer_model("llama")
        writer.add_token_list(pieces)
        writer.add_token_types(kinds)
        writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(n - 259)])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_add_space_prefix(False)
        writer.add_vocab_size(n)

    def write(self, path, widen, quantised=None):
        """quantised: the type of tensors whose name holds a word."""
        writer = gguf.GGUFWriter(str(path), self.p["arch"])
        self.write_keys(writer)
        self.write_vocabulary(writer)
        for name, values in self.tensors:
            kind = next((kind for word, kind in (quantised or {}).items() if word in name), None)
            if kind is not None:
                raw = gguf.quants.quantize(values.astype(np.float32), kind)
                writer.add_tensor(name, raw, raw_dtype=kind)
            else:
                writer.add_tensor(name, values.astype(np.float32) if widen else values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def dequantised_copy(source, target):
    """The same file with every tensor as F32; gives the tensor types met."""
    reader = gguf.GGUFReader(str(source))
    writer = gguf.GGUFWriter(str(target), reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        sub = field.types[1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, sub)
    met = set()
    for tensor in reader.tensors:
        met.add(tensor.tensor_type.name)
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values.reshape(tensor.shape[::-1]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(met)


class Maker:
    def __init__(self, reference, quantize, scratch):
        self.reference, self.quantize, self.scratch = reference, quantize, pathlib.Path(scratch)

    def add_logits(self, stem, exact, n_vocab, **facts):
        """What the reference says of `exact`, beside the fixture."""
        rng = np.random.default_rng(7)
        tokens = [1] + rng.integers(3, n_vocab, N_TOKENS - 1).tolist()
        out = stem.with_name(stem.name + ".logits.f32")
        subprocess.run([self.reference, exact, out, ",".join(map(str, tokens))], check=True,
                       stdout=subprocess.DEVNULL)
        logits = np.fromfile(out, np.float32)
        assert logits.size == N_TOKENS * n_vocab and np.isfinite(logits).all(), stem
        stem.with_name(stem.name + ".json").write_text(json.dumps({"tokens": tokens, **facts}) + "\n")
        print(f"{stem.name}: standard deviation of the logits {logits.std():.3f}")

    def arch(self, name):
        model = Model(name, **{"arch": name, **ARCHS[name]})
        stem = HERE / "arch" / name
        model.write(stem.with_name(name + ".gguf"), widen=False)
        exact = self.scratch / (name + ".gguf")
        model.write(exact, widen=True)
        self.add_logits(stem, exact, model.p["n_vocab"])

    def quant(self, name):
        # Rows of 256: one super-block of the K-quants.  MXFP4 is for experts.
        experts = {"n_expert": 2, "n_ff_exp": 256} if name.endswith("_MOE") else {}
        model = Model(name, **{"arch": "qwen3moe" if experts else "llama", "n_embd": 256, "n_head": 4, "n_head_kv": 2,
                               "head_dim": 64, "n_ff": 256, "n_layer": 1, "qk_norm": "head" if experts else None,
                               **experts})
        whole, exact = self.scratch / (name + ".f32.gguf"), self.scratch / (name + ".exact.gguf")
        fixture = HERE / "quant" / (name + ".gguf")
        if name == "MIXED_MOE":
            model.write(fixture, widen=False, quantised=MIXED_MOE)
        else:
            model.write(whole, widen=True)
            subprocess.run([self.quantize, whole, fixture, name], check=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
        types = dequantised_copy(fixture, exact)
        self.add_logits(HERE / "quant" / name, exact, model.p["n_vocab"], types=types)
        self.blocks(fixture)

    def blocks(self, fixture):
        """The first blocks of each type in the fixture, 512 values, with their values."""
        for tensor in gguf.GGUFReader(str(fixture)).tensors:
            kind = tensor.tensor_type
            if kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
                continue
            n_values, n_bytes = gguf.GGML_QUANT_SIZES[kind]
            raw = tensor.data.reshape(-1).view(np.uint8)[:512 // n_values * n_bytes]
            values = gguf.quants.dequantize(raw, kind).astype(np.float32)
            (HERE / "quant/blocks" / (kind.name + ".bin")).write_bytes(raw.tobytes())
            (HERE / "quant/blocks" / (kind.name + ".f32")).write_bytes(values.tobytes())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--reference", required=True)
    parser.add_argument("--quantize", required=True)
    parser.add_argument("names", nargs="*", default=[*ARCHS, *QUANTS])
    options = parser.parse_args()
    (HERE / "arch").mkdir(exist_ok=True)
    (HERE / "quant/blocks").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        maker = Maker(options.reference, options.quantize, scratch)
        for name in options.names:
            (maker.arch if name in ARCHS else maker.quant)(name)


if __name__ == "__main__":
    main()
