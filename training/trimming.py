"""A model directory without the pieces of its vocabulary that the GGUF weights leave out.

Which stay is said in :mod:`app.backends.gguf_vocabulary`: a kept piece brings all that is joined on the way
to it, so a trimmed tokeniser needs the joins of kept pieces to kept pieces and no others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from app.artifacts.manifest import read_json
from app.backends.gguf_vocabulary import Ids
from app.errors import InputError

_TABLES = ("embed_tokens.weight", "lm_head.weight")
_TOKENISER = "tokenizer.json"


def trim(directory: Path, kept: Ids) -> None:
    """Rewrite tensors, tokeniser and configuration to the ``kept`` ids (ascending), numbered anew in order.

    Raises :class:`InputError` when the tokeniser is not BPE in a ``tokenizer.json``.
    """
    numbers = {int(old): new for new, old in enumerate(kept)}
    path = directory / _TOKENISER
    content: Any = read_json(path) if path.is_file() else {"model": {}}
    if content["model"].get("type") != "BPE":
        raise InputError(f"{directory.name}: only a BPE tokeniser in {_TOKENISER} can be trimmed")
    path.write_text(json.dumps(_trimmed(content, numbers), ensure_ascii=False), encoding="utf-8")
    for stored in sorted(directory.glob("*.safetensors")):
        tensors = load_file(stored)
        rows = torch.from_numpy(kept)
        for name in [name for name in tensors if name.endswith(_TABLES)]:
            tensors[name] = tensors[name][rows].contiguous()
        save_file(tensors, stored, {"format": "pt"})
    for config in ("config.json", "generation_config.json"):
        if (directory / config).is_file():
            _renumber(directory / config, numbers)


def _trimmed(content: dict[str, Any], numbers: Mapping[int, int]) -> dict[str, Any]:
    model = content["model"]
    vocabulary = {
        piece: numbers[number] for piece, number in model["vocab"].items() if number in numbers
    }
    joins = [join for join in model["merges"] if _stays(join, vocabulary)]
    added = [
        {**token, "id": numbers[token["id"]]}
        for token in content["added_tokens"]
        if token["id"] in numbers
    ]
    trimmed = {**content, "model": {**model, "vocab": vocabulary, "merges": joins}}
    after = content.get("post_processor") or {}
    for token in after.get("special_tokens", {}).values():
        token["ids"] = [numbers[number] for number in token["ids"]]
    return {**trimmed, "added_tokens": added}


def _stays(join: str | list[str], vocabulary: Mapping[str, int]) -> bool:
    left, right = join.split(" ") if isinstance(join, str) else join
    return left in vocabulary and right in vocabulary and left + right in vocabulary


def _renumber(path: Path, numbers: Mapping[int, int]) -> None:
    """Ids of special tokens; what names a token that did not stay names none."""
    config = read_json(path)
    for key, value in config.items():
        if key.endswith("_token_id") and isinstance(value, int):
            config[key] = numbers.get(value)
        elif key.endswith("_token_id") and isinstance(value, list):
            config[key] = [numbers[number] for number in value if number in numbers]
    if "vocab_size" in config:
        config["vocab_size"] = len(numbers)
    path.write_text(json.dumps(config, indent=1) + "\n")
