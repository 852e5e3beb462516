from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from app.artifacts.manifest import Manifest, describe_file
from app.classification.model_files import (
    CALIBRATION,
    CASCADE,
    HEAD,
    NGRAMS,
    read_model,
    write_model,
)
from app.classification.ngrams import NgramModel
from app.errors import FileDamaged
from tests.fake_artifact import fake_cascade, fake_model, write_fake_artifact


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_fake_artifact(tmp_path)


@pytest.fixture
def directory(manifest: Manifest, tmp_path: Path) -> Path:
    return tmp_path / manifest.name / manifest.version


def test_what_is_written_is_read(manifest: Manifest, directory: Path):
    """All arrays come back, n-gram weights to half precision."""
    written, read = fake_model(), read_model(directory, manifest)
    assert (read.labels, read.calibration) == (written.labels, written.calibration)
    np.testing.assert_array_equal(read.head.rows, written.head.rows)
    np.testing.assert_array_equal(read.prototypes, written.prototypes)
    for field in fields(NgramModel):
        one, other = getattr(read.ngrams, field.name), getattr(written.ngrams, field.name)
        # What is large stays as narrow in memory as it is in the file.
        narrow = field.name in ("word_weights", "char_weights")
        assert one.dtype == (np.float16 if narrow else other.dtype)
        np.testing.assert_allclose(one, other, rtol=1e-3)


@pytest.mark.parametrize("name", [HEAD, NGRAMS])
def test_a_missing_array_is_named(manifest: Manifest, directory: Path, name: str):
    """A file of another version is refused, not half used."""
    tensors = load_file(directory / name)
    lost = min(tensors)
    del tensors[lost]
    save_file(tensors, directory / name)
    with pytest.raises(FileDamaged, match=lost):
        read_model(directory, manifest)


@pytest.mark.parametrize("name", [HEAD, NGRAMS, CALIBRATION])
def test_a_file_of_noise_is_refused(manifest: Manifest, directory: Path, name: str):
    """Whatever the library says, it has our name at the border."""
    (directory / name).write_bytes(b"\x10" * 200)
    with pytest.raises(FileDamaged, match=name):
        read_model(directory, manifest)


def test_a_head_of_other_labels_is_refused(manifest: Manifest, directory: Path):
    """Shapes must agree with the manifest."""
    fewer = manifest.model_copy(update={"labels": manifest.labels[1:]})
    with pytest.raises(FileDamaged, match="does not fit"):
        read_model(directory, fewer)


def test_a_calibration_of_other_features_is_refused(manifest: Manifest, directory: Path):
    """A gate fitted on other columns would decide nonsense."""
    content = json.loads((directory / CALIBRATION).read_text())
    content["scope_weights"].append(1.0)
    (directory / CALIBRATION).write_text(json.dumps(content))
    with pytest.raises(FileDamaged, match="features"):
        read_model(directory, manifest)


@pytest.mark.parametrize("change", [{"threshold": None}, {"surprise": 1.0}])
def test_a_calibration_with_other_fields_is_refused(
    manifest: Manifest, directory: Path, change: dict[str, float | None]
):
    """Missing or unknown fields are damage with a name."""
    content = json.loads((directory / CALIBRATION).read_text()) | change
    (directory / CALIBRATION).write_text(
        json.dumps({name: value for name, value in content.items() if value is not None})
    )
    with pytest.raises(FileDamaged, match=next(iter(change))):
        read_model(directory, manifest)


def test_a_cascade_is_read_where_the_manifest_names_it(manifest: Manifest, directory: Path):
    """Artifacts from before there was one have none, and a file that nobody published is not read."""
    model = replace(fake_model(), cascade=fake_cascade())
    paths = write_model(directory, model)
    assert CASCADE in paths
    assert read_model(directory, manifest).cascade is None
    named = manifest.model_copy(
        update={"files": tuple(describe_file(directory, path) for path in paths)}
    )
    assert read_model(directory, named).cascade == model.cascade
    for damage in ({"careful": 0.5}, {"calibration": {}, "careful": 0.5, "fast": "0.2"}):
        (directory / CASCADE).write_text(json.dumps(damage))
        with pytest.raises(FileDamaged, match=CASCADE):
            read_model(directory, named)
