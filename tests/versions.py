"""A loader of several fake versions of one model, some of which fail: for tests of changing them."""

from __future__ import annotations

import threading
import weakref

from app.classification.classifier import Classifier
from app.errors import ShopintentError
from app.serving.background import GiveWay
from app.serving.batcher import Loaded
from tests.conftest import PATIENCE
from tests.fake_artifact import fake_classifier, fake_manifest, fake_model
from tests.gated import GatedBackend


class Versions:
    """``load`` serves version 1 unless told otherwise. What a version is made of can be replaced."""

    def __init__(self) -> None:
        self.failing: dict[str, ShopintentError] = {}
        self.gated: dict[str, GatedBackend] = {}
        self.held: dict[str, threading.Event] = {}
        """Versions whose loading waits."""
        self.loaded: list[tuple[str, weakref.ref[Classifier]]] = []
        self.give_way: dict[str, GiveWay | None] = {}
        """What each version was told to call while it loads."""
        self.shares: dict[str, float] | None = None

    def load(
        self, name: str, version: str | None = None, give_way: GiveWay | None = None, /
    ) -> Loaded:
        version = version or "1"
        self.give_way[version] = give_way
        if version in self.held:
            assert self.held[version].wait(PATIENCE)
        if version in self.failing:
            raise self.failing[version]
        gated = self.gated.get(version)
        classifier = Classifier(gated, fake_model()) if gated else fake_classifier()
        self.loaded.append((version, weakref.ref(classifier)))
        return Loaded(fake_manifest(name, version), classifier, self.shares)

    @property
    def in_memory(self) -> list[str]:
        return [version for version, classifier in self.loaded if classifier() is not None]
