"""The whole numbers that a message tells, in digits or in English, Croatian or Spanish words.

Which of them is a quantity is the model's to say; a quantity is seldom anything else.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

from app.classification.ngrams import without_diacritics

LARGEST = 999
_TOKEN = re.compile(r"\d+|[^\W\d_]+|[^\w\s-]|\n")
"""Words, numbers, and the signs and line breaks between them, which end a number; hyphens join it."""

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
    "jedna": 1, "jedno": 1, "jednu": 1, "jednog": 1, "jednoga": 1, "jedne": 1, "jednim": 1, "dvije": 2,
    "dvoje": 2, "dviju": 2, "dvjema": 2, "troje": 3, "triju": 3, "trima": 3, "cetri": 4, "cetvero": 4,
    "cetiriju": 4, "petero": 5, "petoro": 5, "sestero": 6, "sedmero": 7, "osmero": 8, "devetero": 9,
    "desetero": 10, "dvades": 20, "dvaes": 20, "trides": 30, "dvjesta": 200, "trista": 300,
    "seststo": 600, "dvi": 2, "dve": 2, "dvaju": 2, "dvama": 2, "cetirima": 4, "cetvoro": 4, "sestoro": 6,
    "sedmoro": 7, "osmoro": 8, "devetoro": 9, "desetoro": 10, "jedanest": 11, "dvanest": 12,
    "trinest": 13, "cetrnest": 14, "petnest": 15, "sesnest": 16, "sedamnest": 17, "osamnest": 18,
    "devetnest": 19,
    "una": 1, "uno": 1, "veintiuna": 21, "veintiuno": 21, "veinti": 20, "fourty": 40,
}  # fmt: skip
_HUNDRED = {"hundred", "hundreds", "stotina", "stotine", "stotinu"}
_DOZEN = {"dozen", "dozens", "docena", "docenas", "tucet", "tuceta", "tuceti"}
_HALF = {"half", "media", "medias", "pola", "pol"}
_HALF_DOZEN = re.compile(
    rf"(?<![\d/⁄.,])1\s?[/⁄]\s?2(?=[\s-]+(?:(?:a|of|de)\s+)?(?:{'|'.join(sorted(_DOZEN))})\b)"
)
"""A half in digits, where a dozen follows: that of a kilogram is no quantity."""
_PAIR = {"couple", "par", "pair"}
_AND = {"and", "y", "i"}
"""Words that may stand within a number ("trideset i pet") and end none."""
_JOINTS = _AND | {"a", "of", "de"}
"""Those of dozens ("half a dozen"). Elsewhere "of" is of a kind: "veinte de cinco litros" is no 25."""
_MOST_JOINTS = 3
"""At a stretch; without a bound a thousand of them would be looked through a thousand times."""
_NO_NUMBER = re.compile(r"\b(?:što|treće)\b", re.IGNORECASE)
"""What is a number without its diacritics only: "what" and "third" are no hundred and no "trece"."""


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


def _fused() -> re.Pattern[str]:
    """Hundreds, tens and the rest in one word: "treintaidós" is good Spanish, "dvadesetpet" is common."""
    tens = "|".join(word for word, n in _VALUES.items() if 20 <= n < 100 and n % 10 == 0)
    rest = "|".join(word for word, n in _VALUES.items() if n < 100 and (n < 20 or n % 10))
    hundreds = "|".join(word for word, n in _VALUES.items() if n >= 100)
    return re.compile(rf"({hundreds})?([iy]?)({tens})?([iy]?)({rest})?")


_FUSED = _fused()


def numbers_in(message: str) -> Counter[int]:
    """How often each from 1 to 999 is told.

    Those in words are read as a whole: "twenty-five" is 25, "two dozen" are 2 and 24.
    """
    plain = without_diacritics("".join(map(_plain, _NO_NUMBER.sub(",", message))))
    plain = _HALF_DOZEN.sub(" and half ", plain)
    tokens = [part for token in _TOKEN.findall(plain) for part in _apart(token)]
    return Counter(n for n in _read(tokens) if 0 < n <= LARGEST)


def _plain(character: str) -> str:
    """Without what would become digits of the number before it: "m²", "1½"."""
    if unicodedata.category(character) != "No":
        return character
    return " and half " if character == "½" else " "


def _apart(token: str) -> Sequence[str]:
    """The words of a number that was written as one; anything else as it is."""
    if token in _VALUES or (found := _FUSED.fullmatch(token)) is None:
        return (token,)
    parts = [part for part in found.groups() if part]
    return parts if sum(part in _VALUES for part in parts) > 1 else (token,)


def _read(tokens: Sequence[str]) -> Iterator[int]:
    place = 0
    while place < len(tokens):
        number, behind = _number(tokens, place)
        if number:
            yield number
        elif tokens[place] in _PAIR:
            of = place + 1 + (_at(tokens, place + 1) in {"of", "de"})
            if _at(tokens, of) in _DOZEN:  # "a couple of dozen", not "a couple and a dozen"
                number, behind = 2, of
            else:
                yield 2
        dozens, after = _dozens(tokens, behind, number)
        if dozens:
            yield dozens
        place = max(after, place + 1)


def _number(tokens: Sequence[str], place: int) -> tuple[int, int]:
    """The number that begins at this place, 0 for none, and the place behind it."""
    value = 0
    if tokens[place].isdecimal():  # "❶" is a digit too, but no number
        value, place = int(tokens[place][:4]), place + 1
        if value >= 10 or _at(tokens, place) not in _HUNDRED:
            return value, place
    while True:
        after = place + 1 if value and _at(tokens, place) in _AND else place
        token = _at(tokens, after)
        more = _VALUES.get(token, 0)
        if token in _HUNDRED and value < 10 and after == place:
            value = 100 * max(value, 1)
        elif more and (not value or _continues(value, more) or _old_teen(tokens[place - 1], more)):
            value += more
        else:
            return value, place
        place = after + 1


def _dozens(tokens: Sequence[str], place: int, number: int) -> tuple[int, int]:
    """What "dozen" makes of the number before this place, 0 for no such word, and the place behind."""
    half = _past_joints(tokens, place)
    of_half = _past_joints(tokens, half + 1)
    if _at(tokens, place) in _DOZEN:
        dozens = 12 * max(number, 1)
        half = _past_joints(tokens, place + 1)
        if half > place + 1 and _at(tokens, half) in _HALF and not _halves(tokens, half + 1):
            return dozens + 6, half + 1
        return dozens, place + 1
    if _at(tokens, half) in _HALF and _at(tokens, of_half) in _DOZEN:
        if half == place and number:  # "two half dozens"; "two and a half dozen" are thirty
            return 6 * number, of_half + 1
        return 12 * number + 6, of_half + 1
    return 0, place


def _halves(tokens: Sequence[str], place: int) -> bool:
    """Whether what stands here is what is halved: "a dozen and half a loaf" are no eighteen."""
    return _at(tokens, place) == "a" or _at(tokens, _past_joints(tokens, place)) in _DOZEN


def _continues(value: int, more: int) -> bool:
    """Whether a number's next word may be of this value: smaller than what is still open."""
    if value % 100 == 0:
        return value > 0 and more < 100
    return value % 10 == 0 and value % 100 > 10 and more < 10


def _old_teen(before: str, more: int) -> bool:
    """Whether 16 to 19 are told as some still write them: "diez y seis"."""
    return before == "diez" and 6 <= more <= 9


def _past_joints(tokens: Sequence[str], place: int) -> int:
    end = place + _MOST_JOINTS
    while place < end and _at(tokens, place) in _JOINTS:
        place += 1
    return place


def _at(tokens: Sequence[str], place: int) -> str:
    return tokens[place] if place < len(tokens) else ""
