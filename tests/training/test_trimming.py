"""Model directories without part of their vocabulary: what cannot be trimmed is refused and left whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")
trimming = pytest.importorskip("training.trimming")

from safetensors.torch import load_file, save_file  # noqa: E402

from app.errors import InputError  # noqa: E402

TOKENISER = {
    "added_tokens": [{"id": n, "content": t} for n, t in ((0, "<s>"), (4, "<mask>"), (7, "<end>"))],
    "post_processor": {
        "type": "TemplateProcessing",
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    },
    "model": {
        "type": "BPE",
        "vocab": {"<s>": 0, "a": 1, "b": 2, "ab": 3, "<mask>": 4, "c": 5, "bc": 6},
        "merges": [["a", "b"], ["b", "c"]],
    },
}
KEPT = np.array([0, 2, 5, 6, 7])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    write(directory, "tokenizer.json", TOKENISER)
    write(
        directory,
        "tokenizer_config.json",
        {"bos_token": "<s>", "eos_token": "<end>", "mask_token": "<mask>"},
    )
    ids = {"bos_token_id": 0, "eos_token_id": [4, 6], "mask_token_id": 4, "pad_token_id": None}
    write(directory, "config.json", {**ids, "vocab_size": 8, "hidden_size": 2})
    rows = torch.arange(16.0).view(8, 2)
    save_file(
        {"model.embed_tokens.weight": rows, "lm_head.weight": -rows}, directory / "a.safetensors"
    )
    return directory


def write(directory: Path, name: str, content: Any) -> None:
    (directory / name).write_text(json.dumps(content))


def read(directory: Path, name: str) -> Any:
    return json.loads((directory / name).read_text())


def test_what_stays_is_numbered_in_its_order(model: Path):
    trimming.trim(model, KEPT)
    tokeniser = read(model, "tokenizer.json")
    assert tokeniser["model"]["vocab"] == {"<s>": 0, "b": 1, "c": 2, "bc": 3}
    assert tokeniser["model"]["merges"] == [["b", "c"]]
    assert tokeniser["added_tokens"] == [{"id": 0, "content": "<s>"}, {"id": 4, "content": "<end>"}]
    named = read(model, "tokenizer_config.json")
    assert named == {"bos_token": "<s>", "eos_token": "<end>", "mask_token": None}
    config = read(model, "config.json")
    assert [config[f"{name}_token_id"] for name in ("bos", "eos", "mask", "pad")] == [
        0,
        [3],
        None,
        None,
    ]
    assert config["vocab_size"] == 5
    tensors = load_file(model / "a.safetensors")
    expected = torch.tensor([[0.0, 1], [4, 5], [10, 11], [12, 13], [14, 15]])
    assert torch.equal(tensors["model.embed_tokens.weight"], expected)
    assert torch.equal(tensors["lm_head.weight"], -expected)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": {"type": "Unigram"}}, "Unigram"),
        ({"post_processor": {"type": "RobertaProcessing"}}, "RobertaProcessing"),
    ],
)
def test_a_tokeniser_of_another_kind_is_refused(
    model: Path, change: Any, told: str, tmp_path: Path
):
    write(model, "tokenizer.json", {**TOKENISER, **change})
    before = shutil.copytree(model, tmp_path / "before")
    with pytest.raises(InputError, match=told):
        trimming.trim(model, KEPT)
    for path in before.iterdir():
        assert path.read_bytes() == (model / path.name).read_bytes()


def test_a_table_of_another_name_is_refused(model: Path):
    save_file({"wte.weight": torch.zeros(7, 2)}, model / "a.safetensors")
    with pytest.raises(
        InputError, match=r"no tensor named embed_tokens\.weight or lm_head\.weight"
    ):
        trimming.trim(model, KEPT)
    assert read(model, "tokenizer.json") == TOKENISER
