"""Whole numbers from 1 to 999 in words, in three languages."""

from __future__ import annotations

import random
from functools import cache

LARGEST_QUANTITY = 999

_ONES = {
    "en": "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
          "sixteen seventeen eighteen nineteen",
    "hr": "jedan dva tri četiri pet šest sedam osam devet deset jedanaest dvanaest trinaest "
          "četrnaest petnaest šesnaest sedamnaest osamnaest devetnaest",
    "es": "un dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince "
          "dieciséis diecisiete dieciocho diecinueve",
}  # fmt: skip
_TENS = {
    "en": "twenty thirty forty fifty sixty seventy eighty ninety",
    "hr": "dvadeset trideset četrdeset pedeset šezdeset sedamdeset osamdeset devedeset",
    "es": "veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa",
}
_HUNDREDS = {
    "hr": "sto dvjesto tristo četiristo petsto šesto sedamsto osamsto devetsto",
    "es": "cien doscientos trescientos cuatrocientos quinientos seiscientos setecientos "
          "ochocientos novecientos",
}  # fmt: skip
_TWENTIES = {
    "es": "veintiún veintidós veintitrés veinticuatro veinticinco veintiséis veintisiete veintiocho "
          "veintinueve",
}  # fmt: skip
_FEMININE = {
    "hr": {"jedan": "jednu", "dva": "dvije"},
    "es": {"un": "una", "veintiún": "veintiuna"},
}
_STANDING = {"un": "uno", "veintiún": "veintiuno"}


def number_words(
    language: str, number: int, gender: str, *, standing: bool = False, nominative: bool = False
) -> str:
    """The number in words that agree with the gender (m, f, n, or fa: Spanish "un agua").

    It is the object of a sentence, ``nominative`` its subject. ``standing`` is without its noun:
    Spanish says uno, not un.
    """
    words = _words(language, number).split()
    last = words[-1]
    if gender == "n" and last == "jedan":
        last = "jedno"
    elif gender == "f":
        last = _FEMININE.get(language, {}).get(last, last)
        last = "jedna" if nominative and last == "jednu" else last
    elif standing:
        last = _STANDING.get(last, last)
    words[-1] = last
    if language == "es" and gender in {"f", "fa"}:
        words = [f"{word[:-2]}as" if word.endswith("ientos") else word for word in words]
    return " ".join(words)


def number_text(
    language: str,
    number: int,
    gender: str,
    rng: random.Random,
    *,
    standing: bool = False,
    nominative: bool = False,
) -> str:
    """The number in words or digits, as often as people write them out: small or round ones."""
    spelt = 0.6 if number <= 12 else 0.35 if number < 100 else 0.3 if number % 50 == 0 else 0.15
    if rng.random() >= spelt:
        return str(number)
    words = number_words(language, number, gender, standing=standing, nominative=nominative)
    if language == "en" and rng.random() < 0.5:
        words = words.replace("one hundred", "a hundred") if number < 200 else words
        words = words.replace("-", " ")
    return words


@cache
def spelling_words() -> frozenset[str]:
    """Every word that a number is spelt with."""
    return frozenset(
        word
        for language in _ONES
        for number in range(1, LARGEST_QUANTITY + 1)
        for gender in ("m", "f", "n")
        for nominative in (True, False)
        for word in number_words(language, number, gender, nominative=nominative)
        .replace("-", " ")
        .split()
    )


@cache
def _words(language: str, number: int) -> str:
    """In the masculine."""
    hundreds, rest = divmod(number, 100)
    below = _below_hundred(language, rest)
    if not hundreds:
        return below
    if language == "en":
        head = f"{_ONES['en'].split()[hundreds - 1]} hundred"
        return f"{head} and {below}" if below else head
    head = _HUNDREDS[language].split()[hundreds - 1]
    if head == "cien" and below:
        head = "ciento"
    return f"{head} {below}".strip()


def _below_hundred(language: str, number: int) -> str:
    if number == 0:
        return ""
    if number < 20:
        return _ONES[language].split()[number - 1]
    if 20 < number < 30 and language in _TWENTIES:
        return _TWENTIES[language].split()[number - 21]
    tens, ones = divmod(number, 10)
    head = _TENS[language].split()[tens - 2]
    if not ones:
        return head
    joint = {"en": "-", "hr": " ", "es": " y "}[language]
    return f"{head}{joint}{_ONES[language].split()[ones - 1]}"
