"""A whole Gemma 3 model of 300 tokens and two layers, random, written in milliseconds.

The true llama.cpp reads it, so tests run the code that serves, not a stand-in.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

from app.artifacts.manifest import (
    BaseFile,
    Label,
    Manifest,
    PromptSpec,
    WeightsRecipe,
    describe_file,
    sha256_of,
    write_manifest,
)

HIDDEN, HEADS, HEAD_SIZE, FEED_FORWARD, LAYERS = 64, 2, 256, 128, 2
BOS = 2
_CONTROL, _BYTE, _NORMAL, _UNKNOWN = 3, 6, 1, 2

MATRICES = {
    "attn_q": (HEADS * HEAD_SIZE, HIDDEN),
    "attn_k": (HEAD_SIZE, HIDDEN),
    "attn_v": (HEAD_SIZE, HIDDEN),
    "attn_output": (HIDDEN, HEADS * HEAD_SIZE),
    "ffn_gate": (FEED_FORWARD, HIDDEN),
    "ffn_up": (FEED_FORWARD, HIDDEN),
    "ffn_down": (HIDDEN, FEED_FORWARD),
}
_NORMS = {
    "attn_norm": HIDDEN,
    "attn_q_norm": HEAD_SIZE,
    "attn_k_norm": HEAD_SIZE,
    "post_attention_norm": HIDDEN,
    "ffn_norm": HIDDEN,
    "post_ffw_norm": HIDDEN,
}


def tokens() -> tuple[list[bytes], list[float], list[int]]:
    """Control tokens, all bytes, and letters with a few words: text, score and type of each."""
    special = [b"<pad>", b"<eos>", b"<bos>", b"<unk>", b"<end_of_turn>"]
    kinds = [_CONTROL, _CONTROL, _CONTROL, _UNKNOWN, _CONTROL]
    pieces = [*"abcdefghijklmnopqrstuvwxyz\u2581?!", "wh", "er", "wher", "where", "or", "my"]
    text = special + [f"<0x{b:02X}>".encode() for b in range(256)] + [p.encode() for p in pieces]
    scores = [-1000.0] * (len(special) + 256) + [-float(i) for i in range(len(pieces))]
    return text, scores, kinds + [_BYTE] * 256 + [_NORMAL] * len(pieces)


def write_tiny_gguf(
    path: Path,
    seed: int = 0,
    *,
    poison: float | None = None,
    layers: int = LAYERS,
    global_theta: float = 10000.0,
    architecture: str = "gemma3",
) -> Path:
    """``poison`` is put in place of one weight of the last norm."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_key_length(HEAD_SIZE)
    writer.add_value_length(HEAD_SIZE)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(global_theta)
    writer.add_sliding_window(64)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    text, scores, kinds = tokens()
    writer.add_tokenizer_model("llama")
    writer.add_token_list(text)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)

    def matrix(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    writer.add_tensor("token_embd.weight", matrix(len(text), HIDDEN))
    last_norm = 1 + matrix(HIDDEN)
    if poison is not None:
        last_norm[0] = poison
    writer.add_tensor("output_norm.weight", last_norm)
    for layer in range(layers):
        for name, shape in MATRICES.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix(*shape))
        for name, width in _NORMS.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", 1 + matrix(width))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_lora(path: Path, seed: int = 1, rank: int = 4) -> dict[str, np.ndarray]:
    """A random adapter of every matrix; returns the change of each tensor."""
    rng = np.random.default_rng(seed)
    tensors, changes = {}, {}
    for layer in range(LAYERS):
        for name, (rows, columns) in MATRICES.items():
            a = (rng.standard_normal((rank, columns)) * 0.1).astype(np.float32)
            b = (rng.standard_normal((rows, rank)) * 0.1).astype(np.float32)
            full = f"blk.{layer}.{name}.weight"
            tensors[f"{full}.lora_a"], tensors[f"{full}.lora_b"] = a, b
            changes[full] = b @ a
    save_file(tensors, path)
    return changes


def write_tiny_artifact(store: Path, quantisation: str = "Q4_0", version: str = "1") -> Manifest:
    """Publish a version with a base file, one adapter and the recipe of its weights."""
    directory = store / "tiny" / version
    directory.mkdir(parents=True)
    base = write_tiny_gguf(store / "base.gguf")
    write_lora(directory / "adapter.safetensors")
    manifest = Manifest(
        name="tiny",
        version=version,
        created="2026-01-01T00:00:00Z",
        format="gguf",
        languages=("en",),
        labels=tuple(Label(intent=name) for name in ("a", "b", "out_of_scope")),
        prompt=PromptSpec(prefix="", suffix="\n"),
        max_message_tokens=64,
        hidden_size=HIDDEN,
        weights=WeightsRecipe(
            base=BaseFile(path="base.gguf", sha256=sha256_of(base)),
            adapters=("adapter.safetensors",),
            quantisation=quantisation,
            output="tiny.gguf",
        ),
        files=(describe_file(directory, "adapter.safetensors"),),
        golden=(),
        evaluation={},
        trained_on=("nothing",),
        licence="Apache-2.0",
    )
    write_manifest(directory, manifest)
    return manifest
