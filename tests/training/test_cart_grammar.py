"""Forms of mentions and quantities in three languages."""

from __future__ import annotations

import random
import re

import pytest

from app.classification.numbers import numbers_in
from training.cart.grammar import read_phrase
from training.cart.numerals import LARGEST_QUANTITY, number_words, spelling_words
from training.cart.quantities import after_number, counted, definite, draw_quantity

WATER = "f:[kokosov] {voda|vodu|vode|voda}"


def test_croatian_adjectives_agree_in_every_case():
    """A mention declines with its head: one, two to four, five and more, without."""
    phrase = read_phrase("hr", "[mal] {} od 330 ml", WATER)
    assert phrase.nominative == "mala kokosova voda od 330 ml"
    assert phrase.accusative == "malu kokosovu vodu od 330 ml"
    assert phrase.few == "male kokosove vode od 330 ml"
    assert phrase.many == "malih kokosovih voda od 330 ml"
    assert phrase.genitive == "male kokosove vode od 330 ml"


def test_croatian_masculine_neuter_and_soft_stems():
    """Soft stems take -e-, masculine objects keep their nominative."""
    tea = read_phrase("hr", "[zelen] {}", "m:{čaj|čaja|čajeva}")
    assert (tea.accusative, tea.few, tea.genitive) == ("zeleni čaj", "zelena čaja", "zelenog čaja")
    milk = read_phrase("hr", "[svjež'] {}", "n:{mlijeko|mlijeka|mlijeka}")
    assert (milk.nominative, milk.genitive) == ("svježe mlijeko", "svježeg mlijeka")
    socks = read_phrase("hr", "[vunen] {}", "fp:{čarape|čarapa}")
    assert (socks.accusative, socks.genitive) == ("vunene čarape", "vunenih čarapa")


def test_spanish_adjectives_agree_and_water_takes_el():
    """Gender and number reach the adjective; a feminine with stressed a takes "el"."""
    shirt = read_phrase("es", "{} [negro]", "f:{camiseta}")
    assert (shirt.nominative, shirt.many) == ("camiseta negra", "camisetas negras")
    water = read_phrase("es", "{} [pequeño]", "fa:{agua} de coco")
    assert definite("es", water) == "el agua de coco pequeña"
    assert read_phrase("es", "{} [marrón]", "m:{cargador|cargadores}").many == "cargadores marrones"


def test_english_plural_stands_on_the_head():
    """The head takes the plural, not the words around it."""
    assert read_phrase("en", "black {} size L", "t-shirt").many == "black t-shirts size L"
    assert read_phrase("en", "loaf|loaves", "loaf|loaves").many == "loaves"
    assert read_phrase("en", "p:jeans", "p:jeans").plural_only


@pytest.mark.parametrize(
    ("number", "form"),
    [(1, "vodu"), (2, "vode"), (4, "vode"), (5, "voda"), (11, "voda"), (12, "voda"), (21, "vodu"),
     (22, "vode"), (25, "voda"), (99, "voda")],
)  # fmt: skip
def test_croatian_numbers_choose_the_form(number, form):
    """22 counts like 2, 21 like 1, 12 like 5."""
    phrase = read_phrase("hr", "f:{voda|vodu|vode|voda}")
    assert after_number(phrase, number) == form


def test_plurals_are_counted_in_units_or_by_sign():
    """Nobody orders "two nappies" and means two packs: packs or a multiplication sign say it."""
    rng = random.Random(1)
    for language, head, unit in (
        ("en", "p:nappies", "pack"), ("hr", "fp:{pelene|pelena}", "paket"),
        ("es", "mp:{pañales}", "paquete"),
    ):  # fmt: skip
        phrase = read_phrase(language, head, head)
        for _ in range(50):
            text = counted(language, phrase, 2, (unit,), rng)
            assert unit in text or "x" in text or "×" in text


@pytest.mark.parametrize(
    ("language", "number", "gender", "words"),
    [
        ("en", 21, "m", "twenty-one"), ("en", 340, "m", "three hundred and forty"),
        ("hr", 22, "f", "dvadeset dvije"), ("hr", 101, "n", "sto jedno"),
        ("hr", 616, "m", "šesto šesnaest"), ("es", 21, "m", "veintiún"),
        ("es", 31, "f", "treinta y una"), ("es", 100, "f", "cien"),
        ("es", 532, "f", "quinientas treinta y dos"), ("es", 115, "m", "ciento quince"),
    ],
)  # fmt: skip
def test_numbers_are_spelt_in_agreement(language, number, gender, words):
    """Gender reaches the last word, and the hundreds in Spanish."""
    assert number_words(language, number, gender) == words


def test_numbers_without_their_noun_and_as_subjects():
    """Spanish "uno" stands alone; a Croatian list says "jedna", a sentence "jednu"."""
    assert number_words("es", 1, "m", standing=True) == "uno"
    assert number_words("es", 31, "m", standing=True) == "treinta y uno"
    assert number_words("hr", 1, "f") == "jednu"
    assert number_words("hr", 1, "f", nominative=True) == "jedna"
    assert {"hundred", "jedna", "doscientas"} <= spelling_words()


def test_quantities_reach_three_digits():
    """Most are small, one in ten has two or three digits, none is above 999."""
    rng = random.Random(3)
    drawn = [draw_quantity(rng) for _ in range(4000)]
    assert min(drawn) == 1
    assert max(drawn) <= LARGEST_QUANTITY
    assert 0.02 < sum(n > 99 for n in drawn) / len(drawn) < 0.05
    assert 0.05 < sum(10 < n < 100 for n in drawn) / len(drawn) < 0.2


@pytest.mark.parametrize(
    ("language", "head"), [("en", "lime"), ("hr", "m:{limun|limuna|limuna}"), ("es", "f:{lima}")]
)
def test_dozens_said_freely_are_the_numbers_that_the_reader_tells(language, head):
    """Training says "3 dozen" and "docena y media" as well; the served reader counts them alike."""
    rng = random.Random(4)
    phrase = read_phrase(language, head, head)
    for number in (6, 12, 18, 24, 36, 48, 60):
        told = {counted(language, phrase, number, (), rng, freely=True) for _ in range(200)}
        dozens = {text for text in told if re.search("dozen|docena|tucet", text)}
        assert dozens
        for text in dozens:
            assert number in numbers_in(text), text
    plain = {counted(language, phrase, 18, (), rng) for _ in range(200)}
    assert not any(re.search("dozen|docena|tucet", text) for text in plain)


def test_a_sign_never_joins_the_numbers_of_a_name():
    """A name that ends in a digit takes its quantity by x; a running list puts the number first."""
    rng = random.Random(2)
    screws = read_phrase("en", "{} 4x40", "screw")
    for _ in range(300):
        text = counted("en", screws, 3, (), rng, line=True)
        assert "4x40 3" not in text
        listed = counted("en", read_phrase("en", "mug", "mug"), 3, (), rng, leading=True)
        assert not listed.endswith(("3", "pcs"))


def test_rare_words_are_marked():
    """A tilde before a head or a mention marks all that is made of it."""
    assert read_phrase("es", "{} [verde]", "~m:{tecito}").rare
    assert read_phrase("es", "~{} de perlitas", "m:{collar}").add(after="Drava").rare
    assert not read_phrase("es", "m:{té}", "~m:{tecito}").rare
