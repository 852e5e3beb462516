from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from app.artifacts.manifest import CartSpec
from app.classification.cart import CartCalibration, CartModel
from app.classification.model_files import cart_tensors, read_cart, write_cart
from app.errors import FileDamaged
from tests.fake_cart import random_heads

SPEC = CartSpec()
HIDDEN = 32


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    calibration = CartCalibration(pointer_temperature=1.5, bias=-0.25)
    assert write_cart(tmp_path, CartModel(SPEC, random_heads(HIDDEN), calibration)) == (
        "cart.safetensors", "cart_calibration.json",
    )  # fmt: skip
    return tmp_path


def test_what_is_written_is_read(directory: Path):
    """Heads and calibration come back as they were."""
    read = read_cart(directory, SPEC, HIDDEN)
    written, found = cart_tensors(random_heads(HIDDEN)), cart_tensors(read.heads)
    assert found.keys() == written.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(found[name], array)
    assert read.calibration == CartCalibration(pointer_temperature=1.5, bias=-0.25)


def test_half_precision_is_read_too(directory: Path):
    """A publisher may halve the file; computing is in float32."""
    tensors = load_file(directory / SPEC.heads)
    save_file({k: v.astype(np.float16) for k, v in tensors.items()}, directory / SPEC.heads)
    assert read_cart(directory, SPEC, HIDDEN).heads.query.dtype == np.float32


def test_heads_that_do_not_know_names_are_whole(tmp_path: Path):
    """The features of names are an addition: heads without them are served as they are."""
    plain = CartModel(SPEC, random_heads(HIDDEN, wording=False), CartCalibration())
    write_cart(tmp_path, plain)
    assert read_cart(tmp_path, SPEC, HIDDEN).heads.wording is None


@pytest.mark.parametrize("name", [*cart_tensors(random_heads(HIDDEN))])
def test_heads_of_other_shapes_are_refused(directory: Path, name: str):
    """Missing, cut or unfinite arrays are damage with a name."""
    tensors = load_file(directory / SPEC.heads)
    for broken in (None, tensors[name][..., :-1], np.full_like(tensors[name], np.nan)):
        changed = {k: v for k, v in tensors.items() if k != name}
        if broken is not None:
            changed[name] = np.ascontiguousarray(broken)
        save_file(changed, directory / SPEC.heads)
        with pytest.raises(FileDamaged, match=name.partition(".")[2] or name):
            read_cart(directory, SPEC, HIDDEN)


def test_heads_of_another_model_are_refused(directory: Path):
    """The hidden size must be that of the weights."""
    with pytest.raises(FileDamaged, match="query"):
        read_cart(directory, SPEC, HIDDEN + 1)


@pytest.mark.parametrize("name", [SPEC.heads, SPEC.calibration])
def test_a_file_of_noise_is_refused(directory: Path, name: str):
    """Whatever the library says, it has our name at the border."""
    (directory / name).write_bytes(b"\x10" * 200)
    with pytest.raises(FileDamaged, match=name.partition(".")[2] or name):
        read_cart(directory, SPEC, HIDDEN)


@pytest.mark.parametrize(
    "change",
    [{"bias": None}, {"surprise": 1.0}, {"bias": "much"}, {"bias": 1e999},
     {"outcome_temperature": 0}, {"action_temperature": -1.0}],
)  # fmt: skip
def test_a_calibration_that_makes_no_sense_is_refused(
    directory: Path, change: dict[str, float | None]
):
    """Missing, unknown or unusable values are damage."""
    path = directory / SPEC.calibration
    content = json.loads(path.read_text()) | change
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    with pytest.raises(FileDamaged, match=SPEC.calibration):
        read_cart(directory, SPEC, HIDDEN)
