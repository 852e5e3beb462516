"""A fake model whose batches wait for the test: makes queues and drops visible without sleeping."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from app.backends.base import BackendOptions, HiddenStates, TokenIds
from app.backends.fake import FakeBackend
from app.classification.classifier import Classifier
from app.serving.batcher import Loaded
from tests.fake_artifact import HIDDEN, fake_cascade, fake_manifest, fake_model

PATIENCE = 30.0


class GatedBackend(FakeBackend):
    """Every batch after loading waits until :meth:`open`; ``batches`` tells what was computed."""

    def __init__(self, *, fail_on: str | None = None, max_sequences: int = 16) -> None:
        options = BackendOptions(threads=1, max_sequences=max_sequences)
        super().__init__(HIDDEN, options, fail_on=fail_on)
        self.batches: list[list[str]] = []
        self.waiting = threading.Semaphore(0)
        self.closed = False
        self._gate = threading.Event()
        self._armed = False

    def open(self) -> None:
        self._gate.set()

    def embed(self, messages: Sequence[TokenIds]) -> HiddenStates:
        if not self._armed:  # the batch that measures the pace
            self._armed = True
            return super().embed(messages)
        self.batches.append([bytes(tokens).decode() for tokens in messages])
        self.waiting.release()
        assert self._gate.wait(PATIENCE)
        return super().embed(messages)

    def wait_until_busy(self) -> None:
        """Until the owner thread holds a batch."""
        assert self.waiting.acquire(timeout=PATIENCE)

    def close(self) -> None:
        self.closed = True

    def load(self, name: str) -> Loaded:
        """A loader for the registry."""
        del name
        return Loaded(fake_manifest(), Classifier(self, fake_model()))

    def load_staged(self, name: str) -> Loaded:
        """The same with a model whose n-grams may answer first, where they are let."""
        del name
        model = replace(fake_model(), cascade=fake_cascade())
        return Loaded(fake_manifest(), Classifier(self, model))
