"""How people ask for every listed product of a kind at once: "two of each tea"."""

from __future__ import annotations

import random

from training.cart.grammar import NounPhrase
from training.cart.numerals import number_text

_ENGLISH = (
    "{n} of each {one}",
    "{n} of every {one}",
    "{n} each of the {many}",
    "{n} of each of the {many}",
)
_ENGLISH_OF_TWO = ("both {many}", "both of the {many}", "both the {many}")
_ENGLISH_OF_ALL = (
    "all {k} {many}",
    "all {k} of the {many}",
    "all the {many} you have",
    "every {one} you have",
)
_SPANISH = (
    "{n} de cada {one}", "{n} de cada tipo de {one}", "{n} de cada clase de {one}",
    "{n} de cada un{o} de {los} {many}",
)  # fmt: skip
_SPANISH_OF_TWO = ("{los} dos {many}", "amb{os} {many}")
_SPANISH_OF_ALL = ("{los} {k} {many}", "tod{os} {los} {many}", "tod{os} {los} {many} que haya")
_CROATIAN = (
    "po {n} od svak{og} {gen}", "po {n} od svake vrste {gen}", "po {n} od svih {many}",
    "od svak{og} {gen} po {n}",
)  # fmt: skip
_CROATIAN_OF_TWO = ("{oba} {few}",)
_CROATIAN_OF_ALL = ("{sva} {k} {few}",)
_PLAIN = 0.4
"""Of the wishes for one of each, those that tell no number: "both teas"."""


def each_of(language: str, phrase: NounPhrase, number: int, kinds: int, rng: random.Random) -> str:
    """The object of a sentence that wants ``number`` of each of ``kinds`` products called ``phrase``."""
    plain = number == 1 and rng.random() < _PLAIN
    write = {"en": _english, "hr": _croatian, "es": _spanish}[language]
    return write(phrase, number, kinds, plain, rng)


def _english(phrase: NounPhrase, number: int, kinds: int, plain: bool, rng: random.Random) -> str:
    ways = (_ENGLISH_OF_TWO if kinds == 2 else _ENGLISH_OF_ALL) if plain else _ENGLISH
    return rng.choice(ways).format(
        n=_alone("en", number, "m", rng),
        k=_alone("en", kinds, "m", rng),
        one=phrase.nominative,
        many=phrase.many,
    )


def _spanish(phrase: NounPhrase, number: int, kinds: int, plain: bool, rng: random.Random) -> str:
    ways = (_SPANISH_OF_TWO if kinds == 2 else _SPANISH_OF_ALL) if plain else _SPANISH
    female = phrase.gender.startswith("f")
    gender = "f" if female else "m"
    return rng.choice(ways).format(
        n=_alone("es", number, gender, rng),
        k=_alone("es", kinds, gender, rng),
        one=phrase.nominative,
        many=phrase.many,
        o="a" if female else "o",
        os="as" if female else "os",
        los="las" if female else "los",
    )


def _croatian(phrase: NounPhrase, number: int, kinds: int, plain: bool, rng: random.Random) -> str:
    """Alone or counted; what is "all five" in other languages is told by its number here."""
    ways = _CROATIAN
    if plain and kinds <= 4:
        ways = _CROATIAN_OF_TWO if kinds == 2 else _CROATIAN_OF_ALL
    female = phrase.gender == "f"
    return rng.choice(ways).format(
        n=_alone("hr", number, phrase.gender, rng),
        k=_alone("hr", kinds, phrase.gender, rng),
        gen=phrase.genitive,
        few=phrase.few,
        many=phrase.many,
        og="e" if female else "og",
        oba="obje" if female else "oba",
        sva="sve" if female else "sva",
    )


def _alone(language: str, number: int, gender: str, rng: random.Random) -> str:
    return number_text(language, number, gender, rng, standing=True)
