"""A Hugging Face checkpoint as a GGUF file: the kinds of model that are written here.

Llama (Llama 1-3, SmolLM2 and others of that ``model_type``) and the text models of Gemma 3. Everything
else goes through llama.cpp's own converter (:mod:`training.llama_converter`). The output layer is left out:
the service never computes it. Names and metadata after llama.cpp's ``src/llama-arch.cpp``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoConfig, AutoModel

from app.errors import InputError
from training.hf_vocabulary import add_vocabulary
from training.layouts import to_neighbours, turned_heads
from training.tuning import GGUF_MODULES

_STORED = {
    torch.float32: gguf.GGMLQuantizationType.F32,
    torch.float16: gguf.GGMLQuantizationType.F16,
    torch.bfloat16: gguf.GGMLQuantizationType.BF16,
}
_LLAMA_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_GEMMA_NORMS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
}
_GEMMA_LOCAL_THETA, _GEMMA_PATTERN = 10_000.0, 6
"""llama.cpp has these of Gemma 3 in its code; a checkpoint that differs cannot be written."""


class UnknownKind(InputError):
    """A checkpoint that this module cannot write."""


def write_checkpoint(directory: Path, output: Path) -> None:
    """Write the model and tokeniser of ``directory`` to ``output``, matrices in the type they have.

    Deterministic: equal checkpoints give equal files. Raises :class:`UnknownKind`.
    """
    config = AutoConfig.from_pretrained(directory)
    kind = config.model_type
    if kind not in {"llama", "gemma3_text"}:
        raise UnknownKind(f"{directory.name} is a model of the kind {kind!r}")
    writer = gguf.GGUFWriter(output, "llama" if kind == "llama" else "gemma3")
    writer.add_file_type(gguf.LlamaFileType.GUESSED)
    tensors = _llama(config, writer) if kind == "llama" else _gemma(config, writer)
    model = AutoModel.from_pretrained(directory, dtype="auto")
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    add_vocabulary(writer, directory, len(weights["embed_tokens.weight"]))
    for name, values in tensors(weights):
        _add(writer, name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


Tensors = Callable[[Mapping[str, torch.Tensor]], Iterator[tuple[str, torch.Tensor]]]


def _shared(config: Any, writer: gguf.GGUFWriter) -> None:
    heads = config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_head_size(config))
    writer.add_value_length(_head_size(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _head_size(config: Any) -> int:
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def _llama(config: Any, writer: gguf.GGUFWriter) -> Tensors:
    if getattr(config, "hidden_act", "silu") != "silu":
        raise UnknownKind(f"its activation is {config.hidden_act!r}")
    _shared(config, writer)
    writer.add_rope_dimension_count(_head_size(config))
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    factors = None
    if rope["rope_type"] == "llama3":
        factors = llama3_factors(rope, _head_size(config))
    elif rope["rope_type"] != "default":
        raise UnknownKind(f"its rotary embedding is of the type {rope['rope_type']!r}")
    heads = turned_heads(config.to_dict())

    def tensors(weights: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        if factors is not None:
            yield "rope_freqs.weight", torch.from_numpy(factors)
        for name, values in weights.items():
            gguf_name = _name(name, _LLAMA_NORMS)
            count = heads.get(gguf_name.split(".")[2]) if gguf_name.startswith("blk.") else None
            yield gguf_name, _reordered(values, count) if count else values

    return tensors


def _reordered(values: torch.Tensor, heads: int) -> torch.Tensor:
    return torch.from_numpy(to_neighbours(_bits(values), heads)).view(values.dtype)


def _gemma(config: Any, writer: gguf.GGUFWriter) -> Tensors:
    rope = config.rope_parameters
    near, far = rope["sliding_attention"], rope["full_attention"]
    pattern = ["sliding_attention"] * (_GEMMA_PATTERN - 1) + ["full_attention"]
    expected = [pattern[i % _GEMMA_PATTERN] for i in range(config.num_hidden_layers)]
    known = (
        list(config.layer_types) == expected
        and near["rope_type"] == far["rope_type"] == "default"
        and near["rope_theta"] == _GEMMA_LOCAL_THETA
        and config.query_pre_attn_scalar == _head_size(config)
        and not config.attention_bias
    )
    if not known:
        raise UnknownKind("its attention is not that of a plain Gemma 3")
    _shared(config, writer)
    writer.add_rope_freq_base(far["rope_theta"])
    writer.add_sliding_window(config.sliding_window)

    def tensors(weights: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        for name, values in weights.items():
            # Gemma scales by one plus the weight; llama.cpp by the weight.
            shifted = values.float() + 1.0 if name.endswith("norm.weight") else values
            yield _name(name, _GEMMA_NORMS), shifted

    return tensors


def llama3_factors(rope: Mapping[str, Any], head_size: int) -> npt.NDArray[np.float32]:
    """What each frequency is divided by (head size / 2,): long waves slower, as Llama 3.1 introduced."""
    frequencies = rope["rope_theta"] ** -(np.arange(0, head_size, 2, dtype=np.float64) / head_size)
    waves = 2.0 * math.pi / frequencies
    context = rope["original_max_position_embeddings"]
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    blend = np.clip((context / waves - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - blend) / factor + blend), np.float32)


def _name(name: str, norms: Mapping[str, str]) -> str:
    """The GGUF name of a tensor of a decoder. Raises :class:`UnknownKind` for any other."""
    outer = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
    if name in outer:
        return outer[name]
    place, _, rest = name.removeprefix("layers.").partition(".")
    module, _, attribute = rest.rpartition(".")
    short = {**GGUF_MODULES, **norms}.get(module)
    if not name.startswith("layers.") or short is None or attribute != "weight":
        raise UnknownKind(f"it has a tensor {name}")
    return f"blk.{place}.{short}.weight"


def _bits(values: torch.Tensor) -> npt.NDArray[Any]:
    """The numbers as numpy holds them; bfloat16, which it does not know, as 16-bit patterns."""
    values = values.contiguous().cpu()
    if values.dtype == torch.bfloat16:
        return np.asarray(values.view(torch.int16).numpy())
    return np.asarray(values.numpy())


def _add(writer: gguf.GGUFWriter, name: str, values: torch.Tensor) -> None:
    """Vectors are stored as float32, which is what llama.cpp computes with."""
    if values.dim() == 1:
        values = values.float()
    if values.dtype not in _STORED:
        raise UnknownKind(f"it holds numbers of the type {values.dtype}")
    stored = np.ascontiguousarray(_bits(values)).view(np.uint8)
    writer.add_tensor(name, stored, raw_dtype=_STORED[values.dtype])
