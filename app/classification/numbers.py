"""The whole numbers that a message tells, in digits or in English, Croatian or Spanish words.

Which of them is a quantity is the model's to say; a quantity is seldom anything else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from app.classification.ngrams import without_diacritics

LARGEST = 999
_TOKEN = re.compile(r"\d+|[^\W\d_]+")

_COUNTED = {
    "en": "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen",
    "hr": "jedan dva tri cetiri pet sest sedam osam devet deset jedanaest dvanaest trinaest cetrnaest "
    "petnaest sesnaest sedamnaest osamnaest devetnaest",
    "es": "un dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciseis "
    "diecisiete dieciocho diecinueve veinte veintiun veintidos veintitres veinticuatro veinticinco "
    "veintiseis veintisiete veintiocho veintinueve",
}
_TENS = {
    "en": "ten twenty thirty forty fifty sixty seventy eighty ninety",
    "hr": "deset dvadeset trideset cetrdeset pedeset sezdeset sedamdeset osamdeset devedeset",
    "es": "diez veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa",
}
_HUNDREDS = {
    "hr": "sto dvjesto tristo cetiristo petsto sesto sedamsto osamsto devetsto",
    "es": "cien doscientos trescientos cuatrocientos quinientos seiscientos setecientos ochocientos "
    "novecientos",
    "es, feminine": "ciento doscientas trescientas cuatrocientas quinientas seiscientas setecientas "
    "ochocientas novecientas",
}
_OTHER_FORMS = {
    "jedna": 1, "jedno": 1, "jednu": 1, "jednog": 1, "jednoga": 1, "jedne": 1, "dvije": 2, "dvoje": 2,
    "troje": 3, "cetri": 4, "cetvero": 4, "petero": 5, "dvades": 20, "dvaes": 20, "trides": 30,
    "dvjesta": 200, "trista": 300, "seststo": 600,
    "una": 1, "uno": 1, "veintiuna": 21, "veintiuno": 21, "fourty": 40,
}  # fmt: skip
_HUNDRED = {"hundred", "hundreds", "stotina", "stotine", "stotinu"}
_DOZEN = {"dozen", "dozens", "docena", "docenas", "tucet", "tuceta", "tuceti"}
_HALF = {"half", "media", "pola"}
_PAIR = {"couple", "par", "pair"}
_JOINTS = {"and", "y", "i", "a", "of", "de"}
"""Words that may stand within a number ("trideset i pet", "half a dozen") and end none."""


def _values() -> dict[str, int]:
    values = dict(_OTHER_FORMS)
    for words in _COUNTED.values():
        values |= {word: number for number, word in enumerate(words.split(), start=1)}
    for words in _TENS.values():
        values |= {word: 10 * number for number, word in enumerate(words.split(), start=1)}
    for words in _HUNDREDS.values():
        values |= {word: 100 * number for number, word in enumerate(words.split(), start=1)}
    return values


_VALUES = _values()


def numbers_in(message: str) -> Counter[int]:
    """How often each from 1 to 999 is told.

    Those in words are read as a whole: "twenty-five" is 25, "two dozen" are 2 and 24.
    """
    return Counter(
        n for n in _read(_TOKEN.findall(without_diacritics(message))) if 0 < n <= LARGEST
    )


def _read(tokens: list[str]) -> Iterator[int]:
    current = 0
    half = False
    for token in tokens:
        value = _VALUES.get(token, 0)
        if token in _JOINTS:
            continue
        if token in _DOZEN:
            yield 6 if half else 12 * max(current, 1)
        elif token in _PAIR:
            yield 2
        elif token in _HUNDRED and current < 10:
            current = 100 * max(current, 1)
            continue
        elif value and _continues(current, value):
            current += value
            continue
        yield current
        current = value
        half = token in _HALF
        if token.isdecimal() and len(token) <= 3:
            yield int(token)  # "❶" is a digit too, but no number
    yield current


def _continues(current: int, value: int) -> bool:
    """Whether a number's next word may be of this value: smaller than what is still open."""
    if current % 100 == 0:
        return current > 0 and value < 100
    return current % 10 == 0 and current % 100 > 10 and value < 10
