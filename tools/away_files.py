"""What tools/train_away.py sends to another machine, small: lessons, the base, the teacher.

Token ids and texts compressed, the base as its file stores it, the teacher in 8 bits; of both embedding
tables only the rows that are needed. There they are read as if nothing were missing.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from app.backends.gguf_file import GgufFile
from app.backends.gguf_quantise import dequantise
from training.joint import Message, Pool
from training.stage_one import Lessons
from training.teacher import FILES, LONGEST, TASK, packaged_teacher

TABLE = "token_embd.weight"


def squeeze(path: Path, into: Path) -> None:
    """A file compressed into a folder."""
    (into / f"{path.name}.xz").write_bytes(lzma.compress(path.read_bytes(), preset=3))


def write_lessons(directory: Path, lessons: Lessons) -> None:
    """Token ids in one array, lengths of the spellings and how many each message has, in others."""
    directory.mkdir()
    messages = [m for pool in lessons.pools for m in pool.messages]
    ways = [way for m in messages for way in m.spellings]
    ids = np.fromiter((token for way in ways for token in way), np.uint32)
    arrays = {
        "ids": ids,
        "lengths": np.array([len(way) for way in ways], np.uint16),
        "spellings": np.array([len(m.spellings) for m in messages], np.uint8),
        "labels": np.array([m.label for m in messages], np.int32),
        "targets": np.array([m.target for m in messages], np.int32),
        "shares": np.array([pool.share for pool in lessons.pools]),
        "counts": np.array([len(pool.messages) for pool in lessons.pools]),
        **{f"head-{n:03}": head.astype(np.float16) for n, head in enumerate(lessons.heads)},
    }
    np.savez_compressed(directory / "messages.npz", **arrays)  # type: ignore[arg-type]
    texts = json.dumps(lessons.texts, ensure_ascii=False).encode()
    (directory / "texts.json.xz").write_bytes(lzma.compress(texts, preset=3))


def read_lessons(directory: Path) -> Lessons:
    """What :func:`write_lessons` wrote; heads to half precision."""
    stored = np.load(directory / "messages.npz")
    ends = np.cumsum(stored["lengths"].astype(np.int64)).tolist()
    ids = stored["ids"].tolist()
    ways = iter([tuple(ids[a:b]) for a, b in zip([0, *ends], ends, strict=False)])
    messages = [
        Message(tuple(next(ways) for _ in range(count)), label, target)
        for count, label, target in zip(
            *(stored[name].tolist() for name in ("spellings", "labels", "targets")), strict=True
        )
    ]
    pools, start = [], 0
    for share, count in zip(stored["shares"].tolist(), stored["counts"].tolist(), strict=True):
        pools.append(Pool(share, messages[start : start + count]))
        start += count
    heads = [stored[n].astype(np.float32) for n in sorted(stored.files) if n.startswith("head-")]
    texts = json.loads(lzma.decompress((directory / "texts.json.xz").read_bytes()))
    return Lessons(pools, heads, texts)


def write_base(path: Path, file: GgufFile, used: set[int]) -> None:
    """Tensors as they are stored, their types beside them; of the table only some rows."""
    rows = np.array(sorted(used))
    tensors, types = {}, {}
    for name, info in file.tensors.items():
        stored = file.rows(name, 0, info.rows)
        tensors[name] = torch.from_numpy(np.array(stored[rows] if name == TABLE else stored))
        types[name] = info.type.name
    save_file(tensors, path, types)


def read_base(work: Path, device: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """As :func:`training.gemma.read_checkpoint`; rows of the table that did not come are zeros."""
    path = work / "base.safetensors"
    with safe_open(path, "np") as stored:
        types = stored.metadata()
        tensors = {
            name: torch.from_numpy(dequantise(stored.get_tensor(name), GGMLQuantizationType[kind]))
            .squeeze(0)
            .to(device)
            for name, kind in types.items()
        }
    rows = tensors.pop(TABLE)
    used = torch.from_numpy(np.load(work / "used.npy")).long().to(device)
    table = torch.zeros(int(used.max()) + 1, rows.shape[1], device=device)
    table[used] = rows
    return tensors, table


def write_teacher(directory: Path, cache: Path, texts: Sequence[str]) -> None:
    """Its matrices in 8 bits, a scale a row, and the rows of its table that the texts need."""
    packaged_teacher(cache, "cpu")
    source = next(path for path in cache.glob("teacher-*") if path.is_dir())
    directory.mkdir(exist_ok=True)
    squeeze(source / "tokenizer.json", directory)
    tokeniser = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokeniser.enable_truncation(LONGEST)
    used: set[int] = set()
    for start in range(0, len(texts), 10_000):
        for encoded in tokeniser.encode_batch(
            [TASK + text for text in texts[start : start + 10_000]]
        ):
            used.update(encoded.ids)
    places = torch.tensor(sorted(used))
    small: dict[str, torch.Tensor] = {"places": places.int()}
    for file in FILES[:3]:
        for name, stored in load_file(source / file).items():
            tensor = stored.float()
            if "embed_tokens" in name:
                tensor = tensor[places]
            if tensor.dim() < 2:
                small[f"{file}|{name}"] = tensor
                continue
            scale = tensor.abs().amax(1).clamp(min=1e-8) / 127
            small[f"{file}|{name}"] = (tensor / scale[:, None]).round().to(torch.int8)
            small[f"{file}|{name}|scale"] = scale
    save_file(small, directory / "small.safetensors")


def unfold_teacher(directory: Path) -> None:
    """What :func:`write_teacher` wrote, as the encoder's own files, in bfloat16."""
    small = load_file(directory / "small.safetensors")
    places = small.pop("places").long()
    files: dict[str, dict[str, torch.Tensor]] = {}
    for key, stored in small.items():
        file, name, *scale = key.split("|")
        if scale:
            continue
        tensor = stored.float()
        if tensor.dim() > 1:
            tensor = (tensor * small[f"{key}|scale"][:, None]).bfloat16()
        if "embed_tokens" in name:
            table = torch.zeros(int(places.max()) + 1, tensor.shape[1], dtype=torch.bfloat16)
            table[places] = tensor
            tensor = table
        files.setdefault(file, {})[name] = tensor
    for file, tensors in files.items():
        (directory / file).parent.mkdir(exist_ok=True)
        save_file(tensors, directory / file)
    (directory / "tokenizer.json").write_bytes(
        lzma.decompress((directory / "tokenizer.json.xz").read_bytes())
    )
