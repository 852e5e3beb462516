"""Messages after prefixes on the true llama.cpp: what is remembered changes no answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from app.artifacts.manifest import PromptSpec
from app.backends import gguf_prefix
from app.backends.base import BackendOptions, MarkedTokens
from app.backends.gguf import GgufBackend
from app.errors import InferenceFailed
from tests.backends.tiny_gguf import write_tiny_gguf

OPTIONS = BackendOptions(
    threads=1, max_sequences=4, max_tokens=96, max_prefix_tokens=300, kept_prefix_tokens=400
)
WINDOW = 64
"""Of the tiny model."""
ATOL = 2e-3


def open_tiny(weights: Path, options: BackendOptions = OPTIONS) -> GgufBackend:
    return GgufBackend(weights, PromptSpec(prefix="", suffix="\n"), 64, options)


@pytest.fixture
def backend(tiny_gguf: Path) -> Iterator[GgufBackend]:
    backend = open_tiny(tiny_gguf)
    yield backend
    backend.close()


def catalog(seed: int, tokens: int = 150, step: int = 6) -> MarkedTokens:
    ids = np.random.default_rng(seed).integers(5, 290, tokens).tolist()
    return MarkedTokens(tuple(ids), tuple(range(step - 1, tokens, step)))


def message(backend: GgufBackend, text: str = "put two in my cart") -> MarkedTokens:
    ids = tuple(backend.tokenise(text + "\n123456"))
    return MarkedTokens(ids, tuple(range(len(ids) - 6, len(ids))))


def fresh(weights: Path, prefix: MarkedTokens, text: MarkedTokens) -> tuple[np.ndarray, np.ndarray]:
    """The states that a backend gives which has seen nothing before."""
    backend = open_tiny(weights)
    states = backend.embed_after(prefix, text)
    backend.close()
    return states


def kept(backend: GgufBackend) -> tuple[MarkedTokens, ...]:
    assert backend._prefixes is not None
    return backend._prefixes.kept


@pytest.mark.parametrize("enough", [False, True])
def test_the_last_marks_are_computed_when_the_first_are_not_enough(
    tiny_gguf: Path, backend: GgufBackend, enough: bool
):
    """Either way what is given is what one pass gives, and nothing stays for the next message."""
    prefix, text = catalog(1), message(backend)
    ends, slots = fresh(tiny_gguf, prefix, text)
    asked: list[np.ndarray] = []

    def is_enough(first: np.ndarray) -> bool:
        asked.append(first)
        return enough

    for _ in range(2):
        found = backend.embed_after(prefix, text, is_enough)
        np.testing.assert_allclose(found[0], ends, atol=ATOL)
        np.testing.assert_allclose(found[1], slots[:2] if enough else slots, atol=ATOL)
    assert [first.shape for first in asked] == [(2, 64), (2, 64)]
    np.testing.assert_allclose(asked[0], slots[:2], atol=ATOL)
    other = message(backend, "take it out again")
    np.testing.assert_allclose(
        backend.embed_after(prefix, other)[1], fresh(tiny_gguf, prefix, other)[1], atol=ATOL
    )


def test_states_stand_at_the_marks_and_are_those_of_plain_causal_passes(
    tiny_gguf: Path, backend: GgufBackend
):
    """Each marked token gives what the model computes for the text up to it, with its beginning."""
    prefix, text = catalog(1, tokens=40, step=8), message(backend)
    ends, slots = backend.embed_after(prefix, text)
    assert ends.shape == (5, 64)
    assert slots.shape == (6, 64)
    assert ends.dtype == slots.dtype == np.float32
    plain = GgufBackend(tiny_gguf, PromptSpec(prefix="", suffix=""), 96, OPTIONS)
    whole = [*prefix.tokens, *text.tokens]
    marks = [*prefix.marks, *(len(prefix.tokens) + mark for mark in text.marks)]
    expected = np.concatenate([plain.embed([whole[: mark + 1]]) for mark in marks])
    np.testing.assert_allclose(np.concatenate([ends, slots]), expected, atol=2e-2)
    plain.close()


def test_the_second_message_on_a_prefix_gets_what_it_would_get_alone(
    tiny_gguf: Path, backend: GgufBackend
):
    """Also with other messages and prefixes between."""
    prefix, text = catalog(1), message(backend)
    expected = fresh(tiny_gguf, prefix, text)
    long = message(backend, "a long message that goes past what the window holds at once")
    for other in (None, message(backend, "who?"), long):
        if other is not None:
            backend.embed_after(prefix, other)
        for given, wanted in zip(backend.embed_after(prefix, text), expected, strict=True):
            np.testing.assert_allclose(given, wanted, atol=ATOL)
    backend.embed_after(catalog(2), text)
    for given, wanted in zip(backend.embed_after(prefix, text), expected, strict=True):
        np.testing.assert_allclose(given, wanted, atol=ATOL)


@pytest.mark.parametrize(("products", "passes"), [(16, 1), (17, 2), (32, 2), (33, 3)])
def test_what_follows_the_last_product_takes_no_pass_of_its_own(
    tiny_gguf: Path,
    backend: GgufBackend,
    monkeypatch: pytest.MonkeyPatch,
    products: int,
    passes: int,
):
    """States come out in sixteens; the end of the prefix comes with the last of them, and changes none."""
    tokens = 4 * products
    listed = catalog(3, tokens=tokens, step=4)
    prefix = MarkedTokens((*listed.tokens, 7, 8, 9), listed.marks)
    text = message(backend)
    backend.embed_after(catalog(1), text)
    assert backend._prefixes is not None
    context, sizes = backend._prefixes._context, []
    decode = context.decode
    monkeypatch.setattr(context, "decode", lambda count: (sizes.append(count), decode(count))[1])
    ends, slots = backend.embed_after(prefix, text)
    assert len(sizes) == passes + 1
    assert sum(sizes) == 1 + tokens + 3 + len(text.tokens)
    monkeypatch.setattr(gguf_prefix, "_CHUNK_ROWS", 64)
    for given, wanted in zip((ends, slots), fresh(tiny_gguf, prefix, text), strict=True):
        np.testing.assert_allclose(given, wanted, atol=ATOL)


def test_a_sliding_window_forgets_nothing_that_the_next_message_needs(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
):
    """A message that goes past the window and is taken off again leaves the prefix whole."""
    # With small passes the library would keep 256 cells, were it not told to keep all.
    monkeypatch.setattr(gguf_prefix, "_CHUNK_TOKENS", 32)
    options = BackendOptions(threads=1, max_tokens=200, max_prefix_tokens=300)
    backend = GgufBackend(tiny_gguf, PromptSpec(prefix="", suffix="\n"), 140, options)
    prefix = catalog(1, tokens=290)
    text, long = message(backend), MarkedTokens(tuple(range(10, 214)), (203,))
    assert 256 - len(long.tokens) < WINDOW
    first = backend.embed_after(prefix, text)[1]
    backend.embed_after(prefix, long)
    np.testing.assert_array_equal(backend.embed_after(prefix, text)[1], first)
    backend.embed_after(catalog(2), long)
    backend.embed_after(prefix, long)
    np.testing.assert_allclose(backend.embed_after(prefix, text)[1], first, atol=ATOL)
    backend.close()


def test_only_what_is_new_is_computed(backend: GgufBackend, monkeypatch: pytest.MonkeyPatch):
    """A remembered prefix costs no tokens, whether the context still holds it or not."""
    one, two, text = catalog(1), catalog(2), message(backend)
    backend.embed_after(one, text)
    backend.embed_after(two, text)
    assert backend._prefixes is not None
    context = backend._prefixes._context
    counts: list[int] = []
    decode = context.decode
    monkeypatch.setattr(context, "decode", lambda count: counts.append(count) or decode(count))
    backend.embed_after(two, text)
    backend.embed_after(one, text)
    assert counts == [len(text.tokens)] * 2


def test_the_least_recently_used_prefix_is_forgotten(tiny_gguf: Path, backend: GgufBackend):
    """The bound is in tokens; what is forgotten is computed again, alike."""
    one, two, three = (catalog(seed) for seed in (1, 2, 3))
    text = message(backend)
    for prefix in (one, two, one, three):
        backend.embed_after(prefix, text)
    assert kept(backend) == (one, three)
    np.testing.assert_allclose(
        backend.embed_after(two, text)[1], fresh(tiny_gguf, two, text)[1], atol=ATOL
    )
    assert kept(backend) == (three, two)


def test_a_prefix_beyond_the_bound_is_computed_and_not_remembered(tiny_gguf: Path):
    """Its own next message finds it all the same, as long as no other comes between."""
    options = BackendOptions(threads=1, max_tokens=96, max_prefix_tokens=300, kept_prefix_tokens=0)
    backend = open_tiny(tiny_gguf, options)
    text = message(backend)
    expected = fresh(tiny_gguf, catalog(1), text)
    for prefix in (catalog(1), catalog(1), catalog(2), catalog(1)):
        states = backend.embed_after(prefix, text)
    assert kept(backend) == ()
    np.testing.assert_allclose(states[1], expected[1], atol=ATOL)
    backend.close()


def test_marks_tell_prefixes_apart(backend: GgufBackend):
    """The same tokens read at other places are another prefix."""
    prefix, text = catalog(1), message(backend)
    every = backend.embed_after(prefix, text)[0]
    fewer = backend.embed_after(MarkedTokens(prefix.tokens, prefix.marks[::2]), text)[0]
    np.testing.assert_allclose(fewer, every[::2], atol=ATOL)


@pytest.mark.parametrize("step", [1, 2, 300])
def test_any_density_of_marks_is_read(tiny_gguf: Path, backend: GgufBackend, step: int):
    """Products of one token, and products longer than one pass takes."""
    prefix = catalog(4, tokens=300, step=step)
    text = MarkedTokens((7,) * 60, (0, 1, 2, 58, 59))
    ends, slots = backend.embed_after(prefix, text)
    assert ends.shape == (300 // step, 64)
    some = MarkedTokens(prefix.tokens, (prefix.marks[-1],))
    wanted_ends, wanted_slots = fresh(tiny_gguf, some, text)
    np.testing.assert_allclose(ends[-1:], wanted_ends, atol=2e-2)
    np.testing.assert_allclose(slots, wanted_slots, atol=2e-2)


def test_intents_and_prefixes_do_not_disturb_each_other(backend: GgufBackend):
    """They share the weights, not the memory."""
    prefix, text = catalog(1), message(backend)
    order = backend.tokenise("where is my order?")
    intent = backend.embed([order])
    states = backend.embed_after(prefix, text)
    np.testing.assert_array_equal(backend.embed([order]), intent)
    np.testing.assert_array_equal(backend.embed_after(prefix, text)[1], states[1])


def test_after_a_failure_the_next_message_is_right(
    tiny_gguf: Path, backend: GgufBackend, monkeypatch: pytest.MonkeyPatch
):
    """In the prefix, in the message, or in the library: nothing of it stays behind."""
    prefix, text = catalog(1), message(backend)
    expected = fresh(tiny_gguf, prefix, text)
    bad = MarkedTokens((5, 999_999), (1,))
    with pytest.raises(InferenceFailed):
        backend.embed_after(bad, text)
    assert kept(backend) == ()
    backend.embed_after(prefix, text)
    with pytest.raises(InferenceFailed):
        backend.embed_after(prefix, bad)
    with monkeypatch.context() as broken:
        broken.setattr(llama_cpp, "llama_decode", lambda *_: 1)
        with pytest.raises(InferenceFailed):
            backend.embed_after(prefix, text)
    backend.embed_after(catalog(2), text)
    with monkeypatch.context() as broken:
        broken.setattr(llama_cpp, "llama_state_seq_set_data", lambda *_: 0)
        with pytest.raises(InferenceFailed):
            backend.embed_after(prefix, text)
    for given, wanted in zip(backend.embed_after(prefix, text), expected, strict=True):
        np.testing.assert_allclose(given, wanted, atol=ATOL)


def test_states_that_are_not_finite_are_refused_and_not_remembered(tmp_path: Path):
    """Weights that overflow answer nothing rather than nonsense."""
    backend = open_tiny(write_tiny_gguf(tmp_path / "nan.gguf", poison=float("nan")))
    with pytest.raises(InferenceFailed, match="finite"):
        backend.embed_after(catalog(1), message(backend))
    assert kept(backend) == ()
    backend.close()


def test_more_than_announced_is_refused(backend: GgufBackend):
    """Never handed to the library, which would end the process."""
    text = message(backend)
    for prefix, words in ((catalog(1, 301), text), (catalog(1), MarkedTokens((5,) * 129, (128,)))):
        with pytest.raises(InferenceFailed, match="announced"):
            backend.embed_after(prefix, words)


def test_the_prefix_is_bounded_by_the_models_context(tiny_gguf: Path):
    """What is announced fits behind the beginning and before the longest message."""
    options = BackendOptions(threads=1, max_tokens=96, max_prefix_tokens=100_000)
    backend = open_tiny(tiny_gguf, options)
    longest = backend.info.max_prefix_tokens
    assert longest == 512 - 1 - 64 - 64
    ends, _ = backend.embed_after(catalog(1, longest), MarkedTokens((5,) * 128, (127,)))
    assert np.isfinite(ends).all()
    backend.close()


def test_closed_is_closed(tiny_gguf: Path):
    """Closing frees the second context too; after it there are errors with a name."""
    backend = open_tiny(tiny_gguf)
    text = message(backend)
    backend.embed_after(catalog(1), text)
    backend.close()
    backend.close()
    with pytest.raises(InferenceFailed, match="closed"):
        backend.embed_after(catalog(1), text)
