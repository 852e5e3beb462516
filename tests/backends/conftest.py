from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("llama_cpp", reason="the extra `cpu` is not installed")

from app.artifacts.store import Artifact, Store
from tests.backends.tiny_gguf import write_tiny_artifact, write_tiny_gguf


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("weights") / "tiny.gguf")


@pytest.fixture
def tiny_artifact(tmp_path: Path) -> Artifact:
    write_tiny_artifact(tmp_path / "store")
    return Store(tmp_path / "store").resolve("tiny")
