"""Chooses a backend and imports only that one: a CPU image needs no torch, a GPU image no llama.cpp."""

from __future__ import annotations

from app.artifacts.checkpoints import verified_checkpoint
from app.artifacts.store import Artifact
from app.backends.base import Backend, BackendOptions
from app.errors import BackendUnavailable


def open_backend(artifact: Artifact, options: BackendOptions, kind: str | None = None) -> Backend:
    """Load the artifact's model. ``kind`` overrides the artifact's own format.

    Raises :class:`app.errors.ArtifactError` when the weights are not there or not the right ones, and
    :class:`app.errors.BackendError` when the library fails.
    """
    manifest = artifact.manifest
    kind = kind or manifest.format
    if kind == "fake":
        from app.backends.fake import FakeBackend

        return FakeBackend(
            manifest.hidden_size, options, max_message_tokens=manifest.max_message_tokens
        )
    if kind == "gguf":
        try:
            from app.backends.gguf import GgufBackend
        except (ImportError, OSError, RuntimeError) as error:
            raise BackendUnavailable(
                f"llama-cpp-python cannot be loaded, install the extra `cpu`: {error}"
            ) from error

        return GgufBackend(
            artifact.weights_path(), manifest.prompt, manifest.max_message_tokens, options
        )
    if kind == "gptq":
        try:
            from app.backends.gptq import GptqBackend
        except (ImportError, OSError, RuntimeError) as error:
            raise BackendUnavailable(
                f"torch and transformers cannot be loaded, install the extra `gpu`: {error}"
            ) from error

        return GptqBackend(
            verified_checkpoint(artifact), manifest.prompt, manifest.max_message_tokens, options
        )
    raise BackendUnavailable(f"there is no backend of the kind {kind!r}: choose gguf, gptq or fake")
