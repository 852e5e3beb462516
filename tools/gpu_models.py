"""Models to measure beside a GPTQ checkpoint: it unpacked, it in 4 bits, a larger one of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from app.backends.gptq_checkpoint import Checkpoint, QuantisedMatrix, pack

LLAMA_1B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256,
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "tie_word_embeddings": True, "bos_token_id": 2,
}  # fmt: skip
"""The shape of Llama 3.2 1B; random weights, so for timing only."""


def write_plain(packed: Path, plain: Path) -> None:
    """The checkpoint without quantisation: equal shapes and bytes to any 16-bit model of its kind."""
    checkpoint = Checkpoint(packed)
    tensors, matrices = checkpoint.read()
    tensors |= {f"{name}.weight": matrix.dense().half() for name, matrix in matrices.items()}
    plain.mkdir()
    config = {k: v for k, v in checkpoint.config.items() if k != "quantization_config"}
    (plain / "config.json").write_text(json.dumps(config))
    for path in packed.glob("tokenizer*"):
        (plain / path.name).write_bytes(path.read_bytes())
    named = {f"model.{name}": t.contiguous() for name, t in tensors.items()}
    save_file(named, plain / "model.safetensors", {"format": "pt"})


def write_four_bits(packed: Path, out: Path, group: int = 32) -> None:
    """The checkpoint's matrices rounded to 4 bits: for time and memory, not for answers."""
    checkpoint = Checkpoint(packed)
    tensors, matrices = checkpoint.read()
    named = {f"model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    for name, matrix in matrices.items():
        named |= {f"model.{name}.{k}": v for k, v in _rounded(matrix, group).items()}
    out.mkdir()
    scheme = {
        "bits": 4,
        "group_size": group,
        "desc_act": False,
        "sym": True,
        "quant_method": "gptq",
    }
    config = {**checkpoint.config, "quantization_config": scheme}
    (out / "config.json").write_text(json.dumps(config))
    (out / "quantize_config.json").write_text(json.dumps(scheme))
    for path in packed.glob("tokenizer*"):
        (out / path.name).write_bytes(path.read_bytes())
    save_file(named, out / "model.safetensors", {"format": "pt"})


def _rounded(matrix: QuantisedMatrix, group: int) -> dict[str, torch.Tensor]:
    weight = matrix.dense().view(matrix.rows, -1, group)
    scales = (weight.abs().amax(dim=2) / 7).clamp(min=1e-6)
    codes = (weight / scales.unsqueeze(2)).round().clamp(-8, 7).long() + 8
    groups = matrix.columns // group
    return {
        "qweight": pack(codes.view(matrix.rows, -1), 4).T.contiguous(),
        "qzeros": torch.full((groups, matrix.rows // 8), 0x77777777, dtype=torch.int32),
        "scales": scales.T.contiguous().half(),
        "g_idx": (torch.arange(matrix.columns) // group).int(),
    }


def write_llama(work: Path) -> None:
    """Random 4-bit codes, groups of 128: the paper's model in size, not in sense."""
    config = dict(LLAMA_1B)
    hidden, inner, kv = 2048, 8192, 512
    sizes = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden), "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    tensors = {
        "model.embed_tokens.weight": (torch.randn(128256, hidden) * 0.02).half(),
        "model.norm.weight": torch.ones(hidden).half(),
    }
    for layer in range(16):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{norm}.weight"] = torch.ones(hidden).half()
        for name, (rows, columns) in sizes.items():
            place = f"{prefix}.{name}"
            words = torch.randint(-(2**31), 2**31 - 1, (columns // 8, rows), dtype=torch.int64)
            tensors[f"{place}.qweight"] = words.to(torch.int32)
            tensors[f"{place}.qzeros"] = torch.full((columns // 128, rows // 8), 0x77777777).int()
            tensors[f"{place}.scales"] = torch.full((columns // 128, rows), 0.003).half()
            tensors[f"{place}.g_idx"] = (torch.arange(columns) // 128).int()
    (work / "llama-gptq").mkdir()
    scheme = {"bits": 4, "group_size": 128, "desc_act": False, "sym": True, "quant_method": "gptq"}
    config["quantization_config"] = scheme
    (work / "llama-gptq" / "config.json").write_text(json.dumps(config))
    save_file(tensors, work / "llama-gptq" / "model.safetensors", {"format": "pt"})
