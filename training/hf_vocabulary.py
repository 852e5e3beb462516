"""A Hugging Face tokeniser as the metadata of a GGUF file.

Two kinds are known: byte-level BPE (Llama 3, SmolLM2, GPT-2) and BPE with byte fallback, which was
SentencePiece before (Llama 2, Gemma). llama.cpp splits text before byte-level BPE with rules of its own
that go by names; the name is found by trying which one gives the same ids.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
from transformers import AutoTokenizer

from app.backends.llama_context import LlamaModel
from app.backends.llama_log import route_logs
from app.errors import InputError
from training.bases import beginning

SPLITTERS = (
    *("llama-bpe", "smollm", "gpt-2", "qwen2", "default", "tekken", "gpt-4o", "refact"),
    *("falcon", "deepseek-llm", "deepseek-coder", "olmo", "stablelm2", "starcoder", "mpt"),
)
"""llama.cpp's names of its rules, the likelier ones first."""
PROBES = (
    "where is my order #58213?",
    "It's 12345 items, DON'T you'll see we've",
    "  two  spaces\tand\n\nlines ",
    "moj paket nije stigao, čšćžđ ČŠĆŽĐ 2,50 €",
    "¿dónde está mi pedido? ¡ya!",
    "x=1.5;y_2 (a/b) --- ... user@example.com",
    "👍🏽 👨‍👩‍👧 日本語のテキスト한국어",  # noqa: RUF100 - joiners on purpose
    "1 22 333 4444 55555 a1b22c333",
)
_BYTE = "<0x"
_SPACE = "\u2581"


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """Text and kind of every token, by id."""

    tokens: list[str]
    kinds: list[int]


def add_vocabulary(writer: gguf.GGUFWriter, directory: Path, size: int) -> None:
    """Write the tokeniser of a model directory; ``size`` is the number of rows of its embedding.

    Raises :class:`app.errors.InputError` for a tokeniser of another kind, or one whose rules
    llama.cpp has no name for.
    """
    tokeniser = AutoTokenizer.from_pretrained(directory)
    content = _tokenizer_json(directory)
    model = content["model"]
    vocabulary = _vocabulary(tokeniser, size, byte_tokens=bool(model.get("byte_fallback")))
    if model.get("byte_fallback"):
        _add_fallback(writer, vocabulary, content)
    elif "ByteLevel" in json.dumps(content.get("pre_tokenizer")):
        merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
        splitter = _find_splitter(tokeniser, vocabulary, merges)
        _add_byte_level(writer, vocabulary, merges, splitter)
    else:
        raise InputError("the tokeniser is neither byte-level BPE nor BPE with byte fallback")
    writer.add_add_bos_token(bool(beginning(tokeniser)))
    for add, token in (
        (writer.add_bos_token_id, tokeniser.bos_token_id),
        (writer.add_eos_token_id, tokeniser.eos_token_id),
        (writer.add_unk_token_id, tokeniser.unk_token_id),
        (writer.add_pad_token_id, tokeniser.pad_token_id),
    ):
        if token is not None:
            add(token)


def _tokenizer_json(directory: Path) -> dict[str, Any]:
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"{directory.name} has no tokenizer.json")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if content["model"].get("type") != "BPE":
        raise InputError(
            f"{directory.name}: the tokeniser is {content['model'].get('type')}, not BPE"
        )
    return content


def _vocabulary(tokeniser: Any, size: int, *, byte_tokens: bool) -> _Vocabulary:
    """Ids that have no token, as where an embedding was padded, are marked unused."""
    kinds = [int(gguf.TokenType.UNUSED)] * size
    tokens = [f"[PAD{i}]" for i in range(size)]
    added = tokeniser.added_tokens_decoder
    for text, place in tokeniser.get_vocab().items():
        if place >= size:
            continue
        tokens[place] = text
        kind = gguf.TokenType.NORMAL
        if place in added:
            control = added[place].special
            kind = gguf.TokenType.CONTROL if control else gguf.TokenType.USER_DEFINED
            if not control:
                tokens[place] = text.replace(_SPACE, " ")
        elif byte_tokens and text.startswith(_BYTE) and text.endswith(">"):
            kind = gguf.TokenType.BYTE
        kinds[place] = int(kind)
    if tokeniser.unk_token_id is not None and byte_tokens:
        kinds[tokeniser.unk_token_id] = int(gguf.TokenType.UNKNOWN)
    return _Vocabulary(tokens, kinds)


def _add_fallback(
    writer: gguf.GGUFWriter, vocabulary: _Vocabulary, content: dict[str, Any]
) -> None:
    """Pieces are merged in the order of their ids, which is how SentencePiece numbers them."""
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_scores([-float(place) for place in range(len(vocabulary.tokens))])
    writer.add_token_types(vocabulary.kinds)
    before = json.dumps([content.get("normalizer"), content.get("pre_tokenizer")])
    prepends = '"Prepend"' in before or '"prepend_scheme": "first"' in before
    writer.add_add_space_prefix(prepends or '"prepend_scheme": "always"' in before)


def _add_byte_level(
    writer: gguf.GGUFWriter, vocabulary: _Vocabulary, merges: Sequence[str], splitter: str
) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitter)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    writer.add_token_merges(merges)


def _find_splitter(tokeniser: Any, vocabulary: _Vocabulary, merges: Sequence[str]) -> str:
    wanted = [
        tokeniser(probe, add_special_tokens=False, split_special_tokens=True).input_ids
        for probe in PROBES
    ]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "vocabulary.gguf"
        for splitter in SPLITTERS:
            writer = gguf.GGUFWriter(path, "llama")
            _add_byte_level(writer, vocabulary, merges, splitter)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.close()
            if _ids(path) == wanted:
                return splitter
    raise InputError("llama.cpp has no rules that split text as this tokeniser does")


def _ids(vocabulary: Path) -> list[list[int]]:
    llama_cpp.llama_backend_init()
    route_logs()
    model = LlamaModel(vocabulary, vocabulary_only=True)
    try:
        return [model.tokenise(probe) for probe in PROBES]
    finally:
        model.close()
