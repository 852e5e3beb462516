"""The model store: names and versions on disk, and which version is active.

``<store>/<name>/<version>/`` holds an artifact. A version is a whole number; the highest one is active
unless the file ``<store>/<name>/active`` names another. Its first line is the version to serve, or
``latest``; the lines below are those that were served before, for going back. Below ``latest`` the
first is the version that was the highest when it was written.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from app.artifacts.manifest import (
    MANIFEST,
    BaseModelId,
    Manifest,
    WeightsRecipe,
    read_json,
    read_manifest,
    sha256_of,
    verify_files,
    write_atomically,
)
from app.artifacts.signature import read_signing_key, verify_signature
from app.errors import FileDamaged, ManifestInvalid, UnknownModel, WeightsNotBuilt

ACTIVE = "active"
LATEST = "latest"
WEIGHTS = "weights"
BUILD = "build.json"
_REMEMBERED = 16
"""Versions in the file ``active``."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A published version whose files have been verified."""

    directory: Path
    manifest: Manifest

    @property
    def label(self) -> str:
        return f"{self.manifest.name}/{self.manifest.version}"

    @property
    def weights_directory(self) -> Path:
        return self.directory / WEIGHTS

    def recipe(self) -> WeightsRecipe:
        """How the weights are built. Raises :class:`ManifestInvalid` when there is no usable recipe."""
        recipe = self.manifest.weights
        if recipe is None:
            raise ManifestInvalid(f"{self.label} names no weights")
        if not recipe.output or Path(recipe.output).name != recipe.output:
            raise ManifestInvalid(f"{self.label}: {recipe.output!r} is not a plain file name")
        unpublished = set(recipe.inputs) - set(self.manifest.entries())
        if unpublished:
            raise ManifestInvalid(f"{self.label}: {min(unpublished)} is not among the files")
        return recipe

    def recipe_digest(self) -> str:
        return self.recipe().digest(self.manifest.entries())

    def weights_path(self) -> Path:
        """The weights file, verified against the recipe and the marker that the build wrote last.

        Raises :class:`WeightsNotBuilt` when this machine has not built them, or not from this recipe,
        and :class:`FileDamaged` when the file has changed since.
        """
        recipe = self.recipe()
        if isinstance(recipe.base, BaseModelId):
            if recipe.output not in self.manifest.entries():
                raise ManifestInvalid(f"{self.label}: {recipe.output} is not among the files")
            return self.directory / recipe.output
        marker = self.weights_directory / BUILD
        if not marker.is_file():
            raise WeightsNotBuilt(f"{self.label} {_BUILD_IT.format(self.manifest.name)}")
        build = read_json(marker)
        if build.get("recipe_digest") != self.recipe_digest():
            raise WeightsNotBuilt(
                f"{self.label} was built from another recipe and {_BUILD_IT.format(self.manifest.name)}"
            )
        path = self.weights_directory / recipe.output
        if not path.is_file():
            raise FileDamaged(f"{self.label}: {recipe.output} is missing; build it again")
        if path.stat().st_size != build.get("bytes") or sha256_of(path) != build.get("sha256"):
            raise FileDamaged(
                f"{self.label}: {recipe.output} is not the file that was built; build it again"
            )
        return path


_BUILD_IT = "has no weights on this machine yet: run `shopintent models build {}`"


def write_build_marker(artifact: Artifact, *, sha256: str, size: int, built_with: str) -> None:
    """Makes the weights count: :meth:`Artifact.weights_path` reads this."""
    marker = {
        "recipe_digest": artifact.recipe_digest(),
        "sha256": sha256,
        "bytes": size,
        "built_with": built_with,
    }
    path = artifact.weights_directory / BUILD
    write_atomically(path, json.dumps(marker, indent=1).encode() + b"\n")


class Store:
    """A directory of artifacts. Holds no state: every call looks at the disk.

    With a ``signing_key`` only manifests that were signed with it count.
    """

    def __init__(self, root: Path, signing_key: bytes | None = None) -> None:
        self.root = root
        self.signing_key = signing_key

    @classmethod
    def open(cls, root: Path, signing_key_file: Path | None) -> Store:
        """Raises :class:`ManifestInvalid` when the key cannot be read."""
        return cls(root, read_signing_key(signing_key_file) if signing_key_file else None)

    def names(self) -> tuple[str, ...]:
        """Models with at least one published version, sorted."""
        if not self.root.is_dir():
            return ()
        found = (entry.name for entry in os.scandir(self.root) if entry.is_dir())
        return tuple(
            sorted(name for name in found if _NAME.fullmatch(name) and self._published(name))
        )

    def versions(self, name: str) -> tuple[str, ...]:
        """Published versions, lowest first. Raises :class:`UnknownModel` when there are none."""
        versions = self._published(name) if _NAME.fullmatch(name) else ()
        if not versions:
            raise UnknownModel(f"no model of the name {name[:64]!r}")
        return versions

    def active_version(self, name: str) -> str:
        """The version to serve. Raises :class:`ManifestInvalid` when ``active`` names a missing one."""
        versions = self.versions(name)
        pointed = self._pointed(name)
        if pointed is None:
            return versions[-1]
        chosen = pointed[0] if pointed else ""
        if chosen == LATEST:
            return versions[-1]
        if chosen not in versions:
            raise ManifestInvalid(
                f"{name}/{ACTIVE} names version {chosen[:16]!r}, which is not there"
            )
        return chosen

    def previous_version(self, name: str, live: str | None = None) -> str:
        """The version to go back to: the one served before, else the next lower one.

        Before ``live``, where it is known what is served, which need not be what is active here. Raises
        :class:`UnknownModel` when there is none.
        """
        versions = self.versions(name)
        active = live or self.active_version(name)
        served = self._served(name)
        earlier = served[served.index(active) + 1 :] if active in served else served[1:]
        before = [v for v in earlier if v in versions and v != active]
        lower = [version for version in versions if int(version) < int(active)]
        if not before and not lower:
            raise UnknownModel(f"there is no version of {name!r} before {active}")
        return before[0] if before else lower[-1]

    def _served(self, name: str) -> list[str]:
        """The active version and those served before it, the last first."""
        pointed = self._pointed(name) or [LATEST]
        if pointed[0] != LATEST:
            return pointed
        known = [version for version in pointed[1:] if _VERSION.fullmatch(version)]
        newest = int(known[0]) if known else 0
        # Nobody writes down which versions were followed since: all that came.
        return [*(v for v in reversed(self.versions(name)) if int(v) > newest), *known]

    def _pointed(self, name: str) -> list[str] | None:
        pointer = self.root / name / ACTIVE
        if not pointer.is_file():
            return None
        return pointer.read_text(errors="replace").splitlines()

    def resolve(self, name: str, version: str | None = None) -> Artifact:
        """A version (the active one by default), its manifest read and all its files verified.

        Raises :class:`UnknownModel` or another :class:`app.errors.ArtifactError`.
        """
        # An empty version is none, as of a variable that is not set: it must not be written down as active.
        version = self.active_version(name) if version is None else version
        if version not in self.versions(name):
            raise UnknownModel(f"no version {version[:16]!r} of the model {name!r}")
        directory = self.root / name / version
        if self.signing_key is not None:
            verify_signature(directory, self.signing_key)
        manifest = read_manifest(directory)
        verify_files(directory, manifest)
        return Artifact(directory, manifest)

    def activate(self, name: str, version: str, live: str | None = None) -> Artifact:
        """Make a verified version the active one; atomic.

        To go back to is ``live``, where it is known what has been served; else what was active.
        """
        artifact = self.resolve(name, version)
        served = [live] if live else []
        before = self._served(name) if self._pointed(name) or not live else []
        self._point(name, list(dict.fromkeys([version, *served, *before])))
        return artifact

    def roll_back(self, name: str, to: str | None = None) -> Artifact:
        """Go back to a verified version, by default :meth:`previous_version`; forget those after it."""
        version = to or self.previous_version(name)
        artifact = self.resolve(name, version)
        before = self._served(name)
        self._point(name, before[before.index(version) :] if version in before else [version])
        return artifact

    def follow_latest(self, name: str) -> str:
        """Let the highest version be active, now and when higher ones come; returns it."""
        latest = self.versions(name)[-1]
        if self._pointed(name) is not None:
            before = self._served(name)
            self._point(name, [LATEST, latest, *(v for v in before if v != latest)])
        return latest

    def _point(self, name: str, versions: list[str]) -> None:
        lines = "".join(f"{version}\n" for version in versions[:_REMEMBERED])
        write_atomically(self.root / name / ACTIVE, lines.encode())

    def _published(self, name: str) -> tuple[str, ...]:
        directory = self.root / name
        if not directory.is_dir():
            return ()
        found = (entry.name for entry in os.scandir(directory))
        return tuple(
            sorted(
                (
                    v
                    for v in found
                    if _VERSION.fullmatch(v) and (directory / v / MANIFEST).is_file()
                ),
                key=int,
            )
        )
