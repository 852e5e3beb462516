from __future__ import annotations

from pathlib import Path

import pytest

from app.artifacts.manifest import CartGolden, CartPromptSpec, CartSpec
from app.artifacts.store import Artifact, Store
from app.backends.base import BackendOptions
from app.backends.fake import FakeBackend
from app.classification import cart_reader
from app.classification.cart import CartCalibration, CartModel
from app.classification.cart_reader import MAX_ENTRY_TOKENS, MAX_PRODUCTS, CartReader, Catalog
from app.classification.loading import load_classifier
from app.errors import CatalogInvalid, FileDamaged, GoldenMismatch, ManifestInvalid
from tests.fake_artifact import write_fake_artifact
from tests.fake_cart import HIDDEN, SHOP, fake_cart, fake_heads


def reader(max_prefix_tokens: int = 768, spec: CartSpec | None = None) -> CartReader:
    options = BackendOptions(threads=1, max_prefix_tokens=max_prefix_tokens)
    backend = FakeBackend(HIDDEN, options)
    return CartReader(backend, CartModel(spec or CartSpec(), fake_heads(HIDDEN), CartCalibration()))


def test_a_short_catalog_is_read_whole_and_in_order():
    """Every product is marked, in the order given."""
    carts = reader()
    message = carts.prepare("two green teas", carts.catalog(SHOP))
    assert message.products == SHOP
    assert len(message.prefix.marks) == len(SHOP)
    assert carts.decide(message).actions[0].product == SHOP[0]


@pytest.mark.parametrize(
    ("count", "length", "most"), [(500, 6, MAX_PRODUCTS), (500, 40, 19), (60, 40, 19), (30, 190, 8)]
)
def test_a_long_catalog_fits_after_the_shortlist(count: int, length: int, most: int):
    """At most 64 products within the tokens that the backend takes, in the catalog's order."""
    carts = reader()
    entries = [f"{number:05}".ljust(length, "x") for number in range(count)]
    entries[count // 2] = "Green Tea"
    message = carts.prepare("two green teas", carts.catalog(entries))
    assert len(message.prefix.tokens) <= 768
    assert most // 2 < len(message.products) <= most
    assert "Green Tea" in message.products
    assert list(message.products) == sorted(message.products, key=entries.index)
    assert len(message.prefix.marks) == len(message.products)


def test_a_very_long_entry_loses_its_middle():
    """One entry never takes the place of all others, and is still given back whole."""
    carts = reader()
    entry = "Green Tea " + "x" * 180 + " 20 bags"
    message = carts.prepare("tea", carts.catalog([entry, "Oil"]))
    assert message.products == (entry, "Oil")
    assert message.prefix.marks[0] < MAX_ENTRY_TOKENS + len("Catalog:\n") + 1


def test_a_catalog_is_prepared_once(monkeypatch: pytest.MonkeyPatch):
    """The same entries give the same object; the oldest go when there are too many products."""
    monkeypatch.setattr(cart_reader, "_REMEMBERED_PRODUCTS", 10)
    carts = reader()
    first = carts.catalog(SHOP)
    assert carts.catalog(list(SHOP)) is first
    assert carts.known(SHOP)
    carts.catalog(["a", "b", "c"])
    assert carts.known(SHOP)
    carts.catalog(["d", "e"])
    assert not carts.known(SHOP)
    assert carts.catalog(SHOP) is not first


def test_the_second_message_on_a_catalog_is_counted_without_it():
    """So the queue knows what it costs."""
    carts = reader()
    catalog = carts.catalog(SHOP)
    first = carts.prepare("two green teas", catalog)
    assert first.size == len(first.prefix.tokens) + len(first.message.tokens)
    carts.decide(first)
    assert carts.prepare("two green teas", catalog).size == len(first.message.tokens)


def test_a_catalog_is_free_only_while_the_backend_keeps_it():
    """Of catalogs in turn, more than it keeps, each is paid for again, and the queue knows it."""
    options = BackendOptions(threads=1, kept_prefix_tokens=100)
    model = CartModel(CartSpec(), fake_heads(HIDDEN), CartCalibration())
    carts = CartReader(FakeBackend(HIDDEN, options), model)
    shops = [carts.catalog([f"Green Tea {shop} {n}" for n in range(2)]) for shop in range(3)]
    for catalog in shops:
        carts.decide(carts.prepare("two", catalog))
    messages = [carts.prepare("two", catalog) for catalog in shops]
    assert 100 / 3 < len(messages[0].prefix.tokens) <= 50
    free = [message.size == len(message.message.tokens) for message in messages]
    assert free == [False, True, True]


def test_entries_that_look_alike_to_the_model_are_one_product():
    """The first spelling counts; the digest tells spellings apart, and borders of entries."""
    catalog = Catalog(["Tea", " Tea ", "Te\u200ba", "Oil"])
    assert catalog.products == ("Tea", "Oil")
    digests = {
        Catalog(e).digest for e in (["Tea"], [" Tea"], ["Te", "a"], ["T", "ea"], ["\ud83d!"])
    }
    assert len(digests) == 5


@pytest.mark.parametrize(("entries", "index"), [([], None), (["a", "\x00"], 1), ([""], 0)])
def test_entries_that_say_nothing_are_refused(entries: list[str], index: int | None):
    """With their place."""
    with pytest.raises(CatalogInvalid) as caught:
        Catalog(entries)
    assert caught.value.index == index


def test_a_prompt_that_leaves_no_room_is_refused():
    """Found when the model is loaded."""
    long = CartSpec(prompt=CartPromptSpec(catalog_prefix="x" * 250))
    with pytest.raises(ManifestInvalid):
        reader(max_prefix_tokens=128, spec=long)
    with pytest.raises(ManifestInvalid):
        reader(spec=CartSpec(prompt=CartPromptSpec(message_suffix="x" * 60)))


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    write_fake_artifact(tmp_path, cart=fake_cart())
    return Store(tmp_path).resolve("storefront")


def changed(artifact: Artifact, **changes: object) -> Artifact:
    assert artifact.manifest.cart is not None
    cart = artifact.manifest.cart.model_copy(update=changes)
    return Artifact(artifact.directory, artifact.manifest.model_copy(update={"cart": cart}))


OPTIONS = BackendOptions(threads=1, max_sequences=4, max_tokens=512)


def test_an_artifact_with_cart_heads_reads_carts(artifact: Artifact):
    """Loaded, warm and true to its golden carts."""
    classifier = load_classifier(artifact, OPTIONS)
    carts = classifier.cart
    assert carts is not None
    decision = carts.decide(carts.prepare("remove the laptop", carts.catalog(SHOP)))
    assert [(a.action, a.product) for a in decision.actions] == [("remove", 'Laptop 14" i5')]
    classifier.close()


def test_an_artifact_without_reads_none(tmp_path: Path):
    """As every artifact before."""
    write_fake_artifact(tmp_path)
    assert load_classifier(Store(tmp_path).resolve("storefront"), OPTIONS).cart is None


@pytest.mark.parametrize(
    "golden",
    [
        CartGolden(text="two green teas", catalog=SHOP, outcome="no_action"),
        CartGolden(text="two green teas", catalog=SHOP, outcome="actions"),
    ],
)
def test_other_carts_than_the_published_ones_stop_the_load(artifact: Artifact, golden: CartGolden):
    """Outcome and actions must come out again; the message is not told."""
    with pytest.raises(GoldenMismatch, match="golden cart 1") as caught:
        load_classifier(changed(artifact, golden=(golden,)), OPTIONS)
    assert "teas" not in str(caught.value)


def test_heads_that_are_not_published_are_refused(artifact: Artifact):
    """Only verified files are read."""
    with pytest.raises(ManifestInvalid, match=r"other\.safetensors"):
        load_classifier(changed(artifact, heads="other.safetensors"), OPTIONS)


def test_heads_that_are_damaged_are_refused(artifact: Artifact):
    """Before anything heavy is loaded."""
    (artifact.directory / "cart.safetensors").write_bytes(b"noise")
    with pytest.raises(FileDamaged):
        load_classifier(artifact, OPTIONS)
