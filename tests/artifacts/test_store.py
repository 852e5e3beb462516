from __future__ import annotations

from pathlib import Path

import pytest

from app.artifacts.manifest import MANIFEST, BaseFile, BaseModelId, WeightsRecipe
from app.artifacts.store import ACTIVE, Artifact, Store
from app.errors import ArtifactError, FileDamaged, ManifestInvalid, UnknownModel
from tests.fake_artifact import write_fake_artifact


@pytest.fixture
def store(tmp_path: Path) -> Store:
    for version in ("1", "2", "10"):
        write_fake_artifact(tmp_path, version=version)
    write_fake_artifact(tmp_path, name="another")
    return Store(tmp_path)


def test_names_and_versions(store: Store):
    """Sorted; versions as numbers."""
    assert store.names() == ("another", "storefront")
    assert store.versions("storefront") == ("1", "2", "10")


def test_a_store_that_is_not_there_is_empty(tmp_path: Path):
    """No directory, no models, no crash."""
    assert Store(tmp_path / "none").names() == ()


def test_the_highest_version_is_active(store: Store):
    """Ten comes after two."""
    assert store.active_version("storefront") == "10"
    assert store.resolve("storefront").manifest.version == "10"
    assert store.resolve("storefront", "2").manifest.version == "2"


def test_activate_and_roll_back(store: Store):
    """A pointer names the version to serve, and can be turned back."""
    store.activate("storefront", "2")
    assert store.resolve("storefront").manifest.version == "2"
    store.activate("storefront", "10")
    assert store.active_version("storefront") == "10"


def test_only_whole_versions_can_be_activated(store: Store):
    """A damaged one is refused and the pointer stays."""
    (store.root / "storefront" / "1" / "calibration.json").write_text("{}")
    with pytest.raises(FileDamaged):
        store.activate("storefront", "1")
    with pytest.raises(UnknownModel):
        store.activate("storefront", "7")
    assert store.active_version("storefront") == "10"


@pytest.mark.parametrize("pointer", ["7", "", "../another/1", "1 2", "latest 1"])
def test_a_pointer_to_nothing_is_an_error(store: Store, pointer: str):
    """Never silently another version than the operator asked for."""
    (store.root / "storefront" / ACTIVE).write_text(pointer)
    with pytest.raises(ManifestInvalid, match="names version"):
        store.resolve("storefront")


@pytest.mark.parametrize("name", ["nothing", "", "../storefront", ".cache", "a/b", "X", "a" * 80])
def test_unknown_names(store: Store, name: str):
    """Names from outside never become paths."""
    with pytest.raises(UnknownModel):
        store.resolve(name)


def test_a_version_without_manifest_is_not_there(store: Store):
    """What is being written or was half copied does not count."""
    (store.root / "storefront" / "11").mkdir()
    (store.root / "storefront" / "11" / "head.safetensors").write_bytes(b"")
    (store.root / "storefront" / "notes").mkdir()
    assert store.versions("storefront") == ("1", "2", "10")


@pytest.mark.parametrize("path", ["head.safetensors", "ngrams.safetensors", "calibration.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_refused(store: Store, path: str, damage: str):
    """One bit, a missing byte or no file at all."""
    file = store.root / "storefront" / "10" / path
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "flip":
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(content[:-1])
    else:
        file.unlink()
    with pytest.raises(FileDamaged, match=path):
        store.resolve("storefront")


def test_a_renamed_copy_is_refused(store: Store):
    """A manifest says who it is."""
    (store.root / "storefront" / "10").rename(store.root / "storefront" / "12")
    with pytest.raises(ManifestInvalid, match="copied or renamed"):
        store.resolve("storefront")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 2}'])
def test_an_unreadable_manifest_is_refused(store: Store, content: str):
    """With the artifact's name in the message."""
    (store.root / "storefront" / "10" / MANIFEST).write_text(content)
    with pytest.raises(ManifestInvalid, match="10"):
        store.resolve("storefront")


def _with_recipe(artifact: Artifact, **fields: object) -> Artifact:
    recipe = WeightsRecipe.model_validate(
        {
            "base": BaseFile(path="base.gguf", sha256="0" * 64),
            "adapters": (),
            "quantisation": "Q4_0",
            "output": "model.gguf",
            **fields,
        }
    )
    return Artifact(artifact.directory, artifact.manifest.model_copy(update={"weights": recipe}))


@pytest.mark.parametrize(
    "fields", [{"output": "../model.gguf"}, {"output": ""}, {"adapters": ("none.safetensors",)}]
)
def test_a_recipe_stays_inside_the_artifact(store: Store, fields: dict[str, object]):
    """Outputs are plain names and adapters are published files."""
    with pytest.raises(ArtifactError):
        _with_recipe(store.resolve("storefront"), **fields).recipe()


def test_an_artifact_without_a_recipe_has_no_weights(store: Store):
    """Asked for, they are an error with a name."""
    with pytest.raises(ManifestInvalid, match="names no weights"):
        store.resolve("storefront").weights_path()


def test_published_weights_need_no_build(store: Store):
    """Weights among the files were verified with them; others are refused."""
    artifact = store.resolve("storefront")
    hub = BaseModelId(id="some/model")
    published = _with_recipe(artifact, base=hub, output="head.safetensors")
    assert published.weights_path() == artifact.directory / "head.safetensors"
    with pytest.raises(ManifestInvalid, match="not among the files"):
        _with_recipe(artifact, base=hub).weights_path()


def test_going_back_follows_what_was_served(store: Store):
    """The pointer remembers the versions before; going back forgets those after."""
    assert store.previous_version("storefront") == "2"
    store.activate("storefront", "1")
    assert store.previous_version("storefront") == "10"
    store.activate("storefront", "2")
    assert store.roll_back("storefront").manifest.version == "1"
    assert store.roll_back("storefront").manifest.version == "10"
    assert (store.root / "storefront" / ACTIVE).read_text() == "10\n"


def test_going_back_leads_to_what_was_live(store: Store):
    """Not to a higher version that was copied in and never served."""
    store.activate("storefront", "1", live="2")
    assert store.previous_version("storefront") == "2"
    (store.root / "storefront" / ACTIVE).write_text("10\n1\n")
    store.activate("storefront", "2", live="1")
    assert (store.root / "storefront" / ACTIVE).read_text() == "2\n1\n10\n"
    (store.root / "storefront" / ACTIVE).unlink()
    store.activate("storefront", "2", live="2")
    assert store.previous_version("storefront") == "1"


def test_going_back_leads_before_what_is_live(store: Store):
    """Which is not the highest where that was copied in meanwhile and never served."""
    assert store.previous_version("storefront", live="2") == "1"
    (store.root / "storefront" / ACTIVE).write_text("10\n1\n")
    assert store.previous_version("storefront", live="10") == "1"
    assert store.previous_version("storefront", live="2") == "1"


def test_nothing_to_go_back_to(store: Store):
    """The lowest version, served from the start, has none before it."""
    (store.root / "storefront" / ACTIVE).write_text("1\n")
    with pytest.raises(UnknownModel, match="before 1"):
        store.roll_back("storefront")


def test_follow_the_latest(store: Store):
    """The highest version is active again, and higher ones will be; a store without a pointer does so."""
    assert store.follow_latest("storefront") == "10"
    assert not (store.root / "storefront" / ACTIVE).exists()
    store.activate("storefront", "1")
    assert store.follow_latest("storefront") == "10"
    assert store.active_version("storefront") == "10"
    write_fake_artifact(store.root, version="11")
    assert store.active_version("storefront") == "11"


def test_following_the_latest_forgets_nothing(store: Store):
    """A version that was gone back from is not gone back to, not even some versions later."""
    assert store.roll_back("storefront", "2").manifest.version == "2"  # 10 is bad
    write_fake_artifact(store.root, version="11")
    assert store.follow_latest("storefront") == "11"
    assert store.follow_latest("storefront") == "11"
    assert (store.root / "storefront" / ACTIVE).read_text() == "latest\n11\n2\n1\n"
    for version in ("12", "13"):  # served too, as they came
        write_fake_artifact(store.root, version=version)
    gone_back = [store.roll_back("storefront").manifest.version for _ in range(4)]
    assert gone_back == ["12", "11", "2", "1"]


def test_a_version_chosen_after_the_latest_remembers_it(store: Store):
    """Going back from it ends where it began."""
    store.activate("storefront", "1")
    store.follow_latest("storefront")
    store.activate("storefront", "2")
    assert store.roll_back("storefront").manifest.version == "10"
    assert store.roll_back("storefront").manifest.version == "1"


def test_an_empty_version_is_none(store: Store):
    """`models activate NAME "$VERSION"` without the variable leaves the store as it was."""
    store.activate("storefront", "2")
    with pytest.raises(UnknownModel):
        store.activate("storefront", "")
    assert store.active_version("storefront") == "2"
