"""A model directory without the pieces of its vocabulary that the GGUF weights leave out.

Which stay is said in :mod:`app.backends.gguf_vocabulary`: a kept piece brings all that is joined on the way
to it, so a trimmed tokeniser needs the joins of kept pieces to kept pieces and no others.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from app.artifacts.manifest import read_json
from app.backends.gguf_vocabulary import Ids
from app.errors import InputError

_TABLES = ("embed_tokens.weight", "lm_head.weight")
_TOKENISER, _SPECIAL = "tokenizer.json", "tokenizer_config.json"


def trim(directory: Path, kept: Ids) -> None:
    """Rewrite tensors, tokeniser and configuration to the ``kept`` ids (ascending), numbered anew in order.

    Raises :class:`InputError` for a tokeniser that is not BPE in a ``tokenizer.json`` or does more with ids
    than put some around a text, and for a table of another name.
    """
    numbers = {int(old): new for new, old in enumerate(kept)}
    path = directory / _TOKENISER
    content: Any = read_json(path) if path.is_file() else {"model": {}}
    around = (content.get("post_processor") or {}).get("type", "TemplateProcessing")
    if content["model"].get("type") != "BPE" or around != "TemplateProcessing":
        raise InputError(
            f"{directory.name}: only a BPE tokeniser in {_TOKENISER} can be trimmed, "
            f"with a template at most; its model is {content['model'].get('type')}, behind it {around}"
        )
    trimmed = _trimmed(content, numbers)
    found = 0
    for stored in sorted(directory.glob("*.safetensors")):
        tensors, rows = load_file(stored), torch.from_numpy(kept)
        for name in [name for name in tensors if name.endswith(_TABLES)]:
            tensors[name] = tensors[name][rows].contiguous()
            found += 1
        save_file(tensors, stored, {"format": "pt"})
    if not found:
        raise InputError(f"{directory.name} has no tensor named {' or '.join(_TABLES)}")
    path.write_text(json.dumps(trimmed, ensure_ascii=False), encoding="utf-8")
    added = {token["content"] for token in trimmed["added_tokens"]}
    _unname(directory / _SPECIAL, {*trimmed["model"]["vocab"], *added})
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
    trimmed = {
        **content,
        "model": {**model, "vocab": vocabulary, "merges": joins},
        "added_tokens": added,
    }
    if content.get("post_processor"):
        around = content["post_processor"]["special_tokens"]
        renumbered = {
            name: {**token, "ids": [numbers[number] for number in token["ids"]]}
            for name, token in around.items()
        }
        trimmed["post_processor"] = {**content["post_processor"], "special_tokens": renumbered}
    return trimmed


def _stays(join: Sequence[str], vocabulary: Mapping[str, int]) -> bool:
    left, right = join
    return left in vocabulary and right in vocabulary and left + right in vocabulary


def _unname(path: Path, known: Collection[str]) -> None:
    """Special tokens that did not stay have no name: a reader would add them anew, beyond the table."""
    if path.is_file():
        config = read_json(path)
        for key, value in config.items():
            if key.endswith("_token") and isinstance(value, str) and value not in known:
                config[key] = None
        path.write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


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
