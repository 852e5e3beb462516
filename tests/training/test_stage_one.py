"""What the default model's tuning brings together, and that it runs, on a tiny base."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.numpy import save_file  # noqa: E402  # torch may be missing

from app.artifacts.adapter_file import write_adapter  # noqa: E402
from app.artifacts.manifest import BasePackage  # noqa: E402
from app.classification.cart import CartHeads  # noqa: E402
from app.classification.model_files import cart_tensors  # noqa: E402
from app.classification.prompt import Prompt  # noqa: E402
from app.domain import CART_OUTCOMES, OUT_OF_SCOPE  # noqa: E402
from app.errors import FileDamaged, InputError  # noqa: E402
from tests.training.tiny_checkpoints import write_tiny_gemma  # noqa: E402
from training import stage_one, storefront  # noqa: E402
from training.bases import Base, Tokeniser  # noqa: E402
from training.cart.dataset import TOGETHER  # noqa: E402
from training.examples import Example, read_late, read_rows  # noqa: E402
from training.joint import JointConfig  # noqa: E402
from training.stage_one import SPELLINGS, Text, group_texts, spelt  # noqa: E402
from training.storefront import (  # noqa: E402
    DEFAULT,
    LabelSet,
    Variant,
    training_seeds,
    with_swaps,
)
from training.tuned_files import read_cart_heads, read_tuned  # noqa: E402
from training.tuning import Tuned  # noqa: E402

SETS = [
    LabelSet(
        "storefront",
        ("order_status", "gift", OUT_OF_SCOPE),
        [
            Example("where is my order", "order_status"),
            Example("gdje je moj paket", "order_status", "hr"),
            Example("can you wrap it", "gift"),
            Example("what is love", OUT_OF_SCOPE),
        ],
    ),
    LabelSet("clinc150", ("joke", OUT_OF_SCOPE), [Example("make me laugh", "joke")]),
    LabelSet(
        "shop books",
        ("author", "order_status", OUT_OF_SCOPE),
        [Example("where is my order", "order_status"), Example("who wrote it", "author")],
    ),
]
UNLABELLED = [("moj paket", "hr"), ("donde está mi", "es")]
HEADS = [np.zeros((count, 32), np.float32) for count in (3, 2, 3)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Heads as wide as the real base's, all else small."""
    directory = write_tiny_gemma(
        tmp_path_factory.mktemp("base"), head_dim=256, query_pre_attn_scalar=256, hidden_size=32,
        num_hidden_layers=2, num_attention_heads=1,
    )  # fmt: skip
    nothing = BasePackage(requirements=(), wheel_sha256=(), members=(), sha256="0" * 64)
    return Base(directory, nothing, "none")


def test_every_text_is_grouped_with_its_own_sets_label():
    """The same words in two sets stand twice, each pointing at a row of its own set."""
    groups = group_texts(SETS, HEADS, UNLABELLED)
    assert groups.keys() == DEFAULT.shares.keys()
    assert [t.label for t in groups["own"]] == [0, 0, 1, 2]
    assert [(t.text, t.label) for t in groups["open"]] == [("make me laugh", 3)]
    assert [(t.text, t.label) for t in groups["shops"]] == [
        ("where is my order", 6),
        ("who wrote it", 5),
    ]
    assert [(t.text, t.language, t.label) for t in groups["unlabelled"]] == [
        (text, language, -1) for text, language in UNLABELLED
    ]


def test_shares_of_the_groups_fill_the_batch():
    """Nothing is left over, and none of the groups is left out."""
    assert sum(DEFAULT.shares.values()) == pytest.approx(1.0)
    assert min(DEFAULT.shares.values()) > 0


def test_texts_are_spelt_as_written_and_in_noisy_ways(base: Base):
    """As written twice, for it is what is measured; label and teacher's row stay with all spellings."""
    tokeniser = Tokeniser(base, Prompt())
    texts = [Text("where is my order, please?", "en", 4), Text("gdje je moj paket", "hr")]
    rows = {texts[0].text: 7, texts[1].text: 2}
    found = spelt(texts, tokeniser, rows, seed=3)
    assert [(m.label, m.target) for m in found] == [(4, 7), (-1, 2)]
    for text, message in zip(texts, found, strict=True):
        (own,) = tokeniser.prompts([text.text])
        assert len(message.spellings) == 2 + SPELLINGS
        assert message.spellings[:2] == (own, own)
        assert len(set(message.spellings)) > 2
    assert spelt(texts, tokeniser, rows, seed=3) == found
    assert spelt(texts, tokeniser, rows, seed=4) != found


def test_swaps_mean_the_same_about_something_else():
    """Examples stay, copies differ from theirs in a slot's value only; without slots there is none."""
    tea, mug = (
        Example(f"do you have {name}", "stock", slots={"product": name}) for name in ("tea", "mugs")
    )
    plain = Example("bye", "small_talk")
    found = with_swaps([tea, mug, plain], 3, seed=1)
    assert found[:3] == [tea, mug, plain]
    assert len(found) > 3
    assert {(e.text, e.intent) for e in found[3:]} <= {(tea.text, "stock"), (mug.text, "stock")}


@pytest.fixture
def few_carts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_one, "CART_ROWS", 240)
    monkeypatch.setattr(stage_one, "CART_HELD_OUT", 3)
    monkeypatch.setattr(stage_one, "WRITTEN_SHARE", 0.0)


def test_carts_that_were_written_whole_take_the_place_of_generated_ones(
    base: Base, tmp_path: Path, few_carts: None, monkeypatch: pytest.MonkeyPatch
):
    tokeniser = Tokeniser(base, Prompt())
    generated = stage_one.cart_rows(tokeniser, tmp_path, lambda *_: None)
    monkeypatch.setattr(stage_one, "WRITTEN_SHARE", 1.0)
    written = stage_one.cart_rows(tokeniser, tmp_path, lambda *_: None)
    runs = groupby(read_rows(tmp_path / "train.jsonl"), lambda row: row["catalog"])
    assert len(written) == len(list(runs)) * TOGETHER
    assert not {row.tokens for row in written} & {row.tokens for row in generated}


def test_carts_are_renamed_and_answered_in_json_in_part(
    base: Base, tmp_path: Path, few_carts: None
):
    """Made once and kept; simple rows alone end in JSON, and some rows' names are nobody's."""
    tokeniser = Tokeniser(base, Prompt())
    found = stage_one.cart_rows(tokeniser, tmp_path, lambda *_: None)
    written = read_rows(tmp_path / "train.jsonl")
    assert len(found) == len(written) == 240
    told = [row["kind"] for row, e in zip(written, found, strict=True) if e.answer >= 0]
    assert set(told) <= {"single", "absent", "no_action"}
    assert 5 < len(told) < 60
    lines = Counter(
        any(tuple(tokeniser.plain(name)) != tuple(tokens) for name, tokens in catalog)
        for catalog in (
            list(zip(row["catalog"], _product_tokens(e), strict=True))
            for row, e in zip(written, found, strict=True)
        )
    )
    assert 20 < lines[True] < 120
    for row, e in zip(written, found, strict=True):
        assert (e.outcome == CART_OUTCOMES.index("actions")) == bool(row["actions"])
        assert (e.wording is None) == (e.answer >= 0)


def _product_tokens(encoded: Any) -> list[tuple[int, ...]]:
    """The tokens between line ends, without the line "Catalog:" before the first."""
    newline = encoded.tokens[encoded.products[0]]
    first = next(i for i, token in enumerate(encoded.tokens) if token == newline)
    ends = [first, *encoded.products]
    return [encoded.tokens[a + 1 : b] for a, b in pairwise(ends)]


class _Encoder:
    """In the teacher's place: an embedding a text, by its length."""

    def embed(self, texts: list[str], _progress: object) -> np.ndarray:
        angles = np.array([len(text) for text in texts], np.float32)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_the_default_model_is_tuned_and_kept(
    base: Base, tmp_path: Path, few_carts: None, monkeypatch: pytest.MonkeyPatch
):
    """Every part together for two steps: only the storefront's head stays, the cart's beside it."""
    monkeypatch.setattr(stage_one, "label_sets", lambda _data: SETS)
    monkeypatch.setattr(stage_one, "unlabelled_texts", lambda _data, _sets: UNLABELLED)
    monkeypatch.setattr(stage_one, "composed_texts", lambda _sets: [])
    monkeypatch.setattr(stage_one, "packaged_teacher", lambda *_: _Encoder())
    short = replace(DEFAULT, catalogs=8, tuning=JointConfig(steps=2, batch_size=16))
    tuned = stage_one.tune_default(
        base, tmp_path, tmp_path, tmp_path / "run", "cpu", lambda *_: None, short
    )
    assert [rows.shape for rows, _ in tuned.heads] == [(3, 32)]
    kept = read_tuned(tmp_path / "run")
    assert kept is not None
    assert np.array_equal(kept.heads[0][0], tuned.heads[0][0])
    assert len(kept.adapter) == 2 * 7
    assert all(np.abs(b).max() > 0 for _, b in kept.adapter.values())
    carts = read_cart_heads(tmp_path / "run")
    assert carts is not None
    assert carts.wording is not None
    assert np.abs(carts.wording.outcome_rows).max() > 0
    _assert_goes_on(base, tmp_path, tuned, carts, short)


def _assert_goes_on(
    base: Base, directory: Path, tuned: Tuned, carts: CartHeads, variant: Variant
) -> None:
    """A version made of the result is where the next run begins: learning nothing changes nothing."""
    version = directory / "version"
    version.mkdir()
    write_adapter(version / "adapter-1.safetensors", tuned.adapter)
    rows, bias = tuned.heads[0]
    save_file({"rows": rows, "bias": bias + 1}, version / "head.safetensors")
    save_file(cart_tensors(carts), version / "cart.safetensors")
    still = JointConfig(learning_rate=0, head_learning_rate=0, steps=1, batch_size=16)
    rank = DEFAULT.rank
    for whole, width in ((False, rank), (False, 2 * rank), (True, rank)):
        again = stage_one.tune_default(
            base,
            directory,
            directory,
            directory / "again",
            "cpu",
            lambda *_: None,
            replace(variant, tuning=still, whole=whole, whole_rate=0, kept=width),
            version,
        )
        assert np.array_equal(again.heads[0][0], rows)
        assert np.array_equal(again.heads[0][1], bias + 1)
        for name, (a, b) in again.adapter.items():
            first, second = tuned.adapter[name]
            # Of all numbers no more rows are kept than a small matrix has.
            assert len(a) == (min(width, *(b @ a).shape) if whole else width)
            assert b @ a == pytest.approx(second @ first, abs=1e-3)
    kept = read_cart_heads(directory / "again")
    assert kept is not None
    assert kept.wording is not None
    assert carts.wording is not None
    assert np.array_equal(kept.query, carts.query)
    assert np.array_equal(kept.wording.gate_rows, carts.wording.gate_rows)


def test_what_is_no_version_cannot_be_gone_on_from(tmp_path: Path):
    """Said before any work, with the directory's name."""
    write_adapter(tmp_path / "adapter-1.safetensors", {})
    with pytest.raises(FileDamaged, match="no version to go on from"):
        stage_one.read_start(tmp_path)


def test_balanced_factors_change_what_they_changed():
    """Rows and columns come out equally long; one that does nothing stays without harm."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((3, 5)) * 1e-3, rng.standard_normal((4, 3)) * 50
    a[2] = 0
    even_a, even_b = stage_one.balanced({"x": (a, b)})["x"]
    assert even_b @ even_a == pytest.approx(b @ a)
    lengths = np.linalg.norm(even_a, axis=1), np.linalg.norm(even_b, axis=0)
    assert lengths[0][:2] == pytest.approx(lengths[1][:2])
    assert np.isfinite(even_b).all()


def test_composed_texts_are_nobodys_own_and_keep_their_language(monkeypatch: pytest.MonkeyPatch):
    """Two messages of one language in one, and messages about carts in all three."""
    monkeypatch.setattr(storefront, "JOINED", 40)
    monkeypatch.setattr(storefront, "CART_TEXTS", 5)
    found = storefront.composed_texts(SETS)
    assert found == storefront.composed_texts(SETS)
    assert {language for _, language in found} == {"en", "hr", "es"}
    croatian = [text for text, language in found if language == "hr" and "gdje je moj" in text]
    assert all(text.count("gdje je moj paket") == 2 for text in croatian)
    written = {e.text for label_set in SETS for e in label_set.examples}
    assert not written & {text for text, _ in found}


def test_late_messages_are_learned():
    """All of them, beside the training side of the seeds."""
    learned = {e.family for e in training_seeds()}
    assert {e.family for e in read_late()} <= learned


def test_without_seeds_nothing_is_made_that_should_be_renamed(
    base: Base, monkeypatch: pytest.MonkeyPatch
):
    """A checkout without them would else train on rows none of which has made-up names."""
    monkeypatch.setattr(stage_one, "read_seeds", list)
    with pytest.raises(InputError, match="no seeds"):
        stage_one.CartPupil(Tokeniser(base, Prompt()))
