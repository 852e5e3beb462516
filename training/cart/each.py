"""How people ask for every listed product of a kind at once: "two of each tea"."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from training.cart.grammar import NounPhrase
from training.cart.numerals import number_text
from training.noise import without_diacritics

_ENGLISH = (
    "{n} of each {one}",
    "{n} of every {one}",
    "{n} each of the {many}",
    "{n} of each of the {many}",
)
_ENGLISH_OF_TWO = ("both {many}", "both of the {many}", "both the {many}")
_ENGLISH_OF_ALL = ("all {k} {many}", "all {k} of the {many}", "all {k} kinds of {one}")
_SPANISH = (
    "{n} de cada {one}",
    "{n} de cada tipo de {one}",
    "{n} de cada clase de {one}",
    "{n} de cada un{o} de {los} {many}",
)
_SPANISH_OF_TWO = ("{los} dos {many}", "amb{os} {many}")
_SPANISH_OF_ALL = ("{los} {k} {many}", "tod{os} {los} {many}")
_CROATIAN = (
    "po {n} od svak{og} {gen}",
    "po {n} od svake vrste {gen}",
    "po {n} od svih {many}",
    "od svak{og} {gen} po {n}",
)
_CROATIAN_OF_TWO = ("{oba} {few}",)
_CROATIAN_OF_ALL = ("{sva} {k} {few}",)
"""Up to four: behind 5 and more another form would follow."""
_PLAIN = 0.4
"""Of the wishes for one of each, those that tell no number: "both teas"."""
_FOR_ALL = {
    "en": r"each|every|everything|all|both|either|any|whole|entire|full|lot",
    "es": r"cada|tod[oa]s?|amb[oa]s|l[oa]s (?:dos|tres|cuatro|cinco|seis)|por",
    "hr": r"svak\w*|sv[eiau]|svih|svim|oba|obje|obadva|obadvije|po",
}
"""Words of a wish for all of a kind, without diacritics; others have them too."""
_STEM = 4


def each_of(
    language: str,
    phrase: NounPhrase,
    number: int,
    kinds: int,
    rng: random.Random,
    *,
    counted: bool = False,
) -> str:
    """The object of a sentence that wants ``number`` of each of 2 to 4 ``kinds``, all called ``phrase``.

    ``counted``: the number is told. To take "both teas" out might mean all that there are of them.
    """
    plain = number == 1 and not counted and rng.random() < _PLAIN
    write = {"en": _english, "hr": _croatian, "es": _spanish}[language]
    return write(phrase, number, kinds, plain, rng)


def _english(phrase: NounPhrase, number: int, kinds: int, plain: bool, rng: random.Random) -> str:
    ways: tuple[str, ...] = (
        (_ENGLISH_OF_TWO if kinds == 2 else _ENGLISH_OF_ALL) if plain else _ENGLISH
    )
    if phrase.many == phrase.nominative:  # not "both tuna"
        ways = _ENGLISH[:2]
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
    ways = (_CROATIAN_OF_TWO if kinds == 2 else _CROATIAN_OF_ALL) if plain else _CROATIAN
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


def as_listed(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The row's actions; those that a wish for all of a kind means come in the catalog's order.

    Nothing else tells which of them is first, and what is read after one is then the next that is listed.
    They have a word in common, and at most one of them has another that is said.
    """
    plain = without_diacritics(row["text"]).casefold()
    actions = list(row["actions"])
    if not re.search(rf"\b(?:{_FOR_ALL[row['language']]})\b", plain):
        return actions
    place = {name: n for n, name in enumerate(row["catalog"])}
    said = _stems(plain)
    ordered: list[dict[str, Any]] = []
    for _, run in groupby(actions, lambda action: (action["action"], action["quantity"])):
        alike = list(run)
        words = [_stems(without_diacritics(action["product"]).casefold()) for action in alike]
        common = set.intersection(*words)
        told = sum(bool((own - common) & said) for own in words)
        if common and told < 2:
            alike.sort(key=lambda action: place[action["product"]])
        ordered += alike
    return ordered


def _stems(text: str) -> set[str]:
    return {word[:_STEM] for word in re.findall(r"\w+", text)}
