"""How many of it: numbers, units and dozens, in agreement with the noun."""

from __future__ import annotations

import random

from training.cart.grammar import NounPhrase, plural

_WORDS = {
    "en": {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight",
           9: "nine", 10: "ten", 11: "eleven", 12: "twelve", 15: "fifteen", 20: "twenty",
           24: "twenty four", 25: "twenty-five", 30: "thirty", 40: "forty", 50: "fifty"},
    "hr": {3: "tri", 4: "četiri", 5: "pet", 6: "šest", 7: "sedam", 8: "osam", 9: "devet",
           10: "deset", 11: "jedanaest", 12: "dvanaest", 15: "petnaest", 20: "dvadeset",
           25: "dvadeset pet", 30: "trideset", 40: "četrdeset", 50: "pedeset"},
    "es": {2: "dos", 3: "tres", 4: "cuatro", 5: "cinco", 6: "seis", 7: "siete", 8: "ocho",
           9: "nueve", 10: "diez", 11: "once", 12: "doce", 15: "quince", 20: "veinte",
           25: "veinticinco", 30: "treinta", 40: "cuarenta", 50: "cincuenta"},
}  # fmt: skip
_AGREEING = {
    "hr": {1: {"m": "jedan", "f": "jednu", "n": "jedno"}, 2: {"m": "dva", "f": "dvije", "n": "dva"}},
    "es": {1: {"m": "un", "f": "una", "fa": "un"}},
}  # fmt: skip
# Croatian units: gender, nominative, accusative, with 2-4, with 5 and more.
_CROATIAN_UNITS = {
    "limenka": ("f", "limenka", "limenku", "limenke", "limenki"),
    "tetrapak": ("m", "tetrapak", "tetrapak", "tetrapaka", "tetrapaka"),
    "boca": ("f", "boca", "bocu", "boce", "boca"),
    "vrećica": ("f", "vrećica", "vrećicu", "vrećice", "vrećica"),
    "kutija": ("f", "kutija", "kutiju", "kutije", "kutija"),
    "litra": ("f", "litra", "litru", "litre", "litara"),
    "čašica": ("f", "čašica", "čašicu", "čašice", "čašica"),
    "tabla": ("f", "tabla", "tablu", "table", "tabli"),
    "paket": ("m", "paket", "paket", "paketa", "paketa"),
    "staklenka": ("f", "staklenka", "staklenku", "staklenke", "staklenki"),
    "tegla": ("f", "tegla", "teglu", "tegle", "tegli"),
    "par": ("m", "par", "par", "para", "pari"),
    "tuba": ("f", "tuba", "tubu", "tube", "tuba"),
    "bočica": ("f", "bočica", "bočicu", "bočice", "bočica"),
    "vreća": ("f", "vreća", "vreću", "vreće", "vreća"),
    "kanta": ("f", "kanta", "kantu", "kante", "kanti"),
}
_SPANISH_FEMININE = {"lata", "botella", "bolsa", "caja", "tableta", "barra", "pastilla"}
_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12)
_WEIGHTS = (40, 20, 11, 7, 5, 5, 2, 2, 1, 3, 3)
_RARE = (11, 14, 15, 16, 18, 20, 24, 25, 30, 36, 40, 48, 50, 60, 75, 99)


def draw_quantity(rng: random.Random, least: int = 1) -> int:
    """A whole number from 1 to 99, most often a small one."""
    while True:
        rare = rng.random() < 0.03
        number = rng.choice(_RARE) if rare else rng.choices(_COUNTS, _WEIGHTS)[0]
        if number >= least:
            return number


def number_text(language: str, number: int, gender: str, rng: random.Random) -> str:
    """The number in words that agree with the gender, or in digits."""
    agreeing = _AGREEING.get(language, {}).get(number)
    word = agreeing[gender] if agreeing else _WORDS[language].get(number)
    return word if word and rng.random() < 0.6 else str(number)


def standing_number(language: str, number: int, gender: str, rng: random.Random) -> str:
    """A number without its noun: Spanish says uno, not un."""
    text = number_text(language, number, gender, rng)
    return "uno" if text == "un" else text


def counting_gender(phrase: NounPhrase) -> str:
    """The gender in which a number stands alone: plurals are counted in masculine units."""
    return "m" if phrase.plural_only else phrase.gender


def counted(
    language: str,
    phrase: NounPhrase,
    number: int,
    units: tuple[str, ...],
    rng: random.Random,
    *,
    explicit: bool = False,
    nominative: bool = False,
) -> str:
    """The phrase with its quantity, as the object of a sentence.

    ``explicit`` always tells the number, also when it is one; ``nominative`` is for lists.
    """
    roll = rng.random()
    one = phrase.nominative if nominative else phrase.accusative
    if number == 1 and not explicit and roll < 0.6:
        return _single(language, phrase, one, rng)
    if roll < 0.12:
        style = rng.choice(("{n}x {p}", "{n} x {p}", "{p} x{n}", "{p} x {n}", "{n}× {p}"))
        return style.format(n=number, p=phrase.nominative)
    if units and (phrase.plural_only or roll > 0.8):
        return _in_units(language, phrase, number, rng.choice(units), rng)
    if phrase.plural_only:
        return f"{number}x {phrase.nominative}" if number > 1 or explicit else one
    return _in_words(language, phrase, number, rng, roll)


def _in_words(
    language: str, phrase: NounPhrase, number: int, rng: random.Random, roll: float
) -> str:
    if number in {6, 12, 24} and roll < 0.4:
        return _dozens(language, phrase.many, number)
    if number == 2 and roll < 0.3 and language != "hr":  # "par" is also a vague few in Croatian
        return f"{'a couple of' if language == 'en' else 'un par de'} {phrase.few}"
    numeral = number_text(language, number, phrase.gender, rng)
    form = phrase.accusative if number == 1 else after_number(phrase, number, language)
    if form[0].isdigit() and numeral.isdigit():
        numeral += "x"  # "2 20w chargers" would read as 220
    return f"{numeral} {form}"


def after_number(phrase: NounPhrase, number: int, language: str = "hr") -> str:
    """The form that a number asks for: Croatian counts 22 like 2 and 21 like 1."""
    if language != "hr":
        return phrase.many
    if number % 10 in {2, 3, 4} and number % 100 not in {12, 13, 14}:
        return phrase.few
    return phrase.accusative if number % 10 == 1 and number % 100 != 11 else phrase.many


def definite(language: str, phrase: NounPhrase, *, nominative: bool = False) -> str:
    """The phrase as something that both sides know: the tea, el té."""
    if language == "hr":
        return phrase.nominative if nominative else phrase.accusative
    if language == "en":
        return f"the {phrase.nominative}"
    article = {
        ("m", False): "el", ("fa", False): "el", ("f", False): "la",
        ("m", True): "los", ("f", True): "las",
    }[phrase.gender, phrase.plural_only]  # fmt: skip
    return f"{article} {phrase.nominative}"


def _single(language: str, phrase: NounPhrase, one: str, rng: random.Random) -> str:
    if language == "hr" or rng.random() < 0.5:
        return one
    if phrase.plural_only or rng.random() < 0.2:
        return definite(language, phrase)
    if language == "es":
        return f"{'una' if phrase.gender == 'f' else 'un'} {one}"
    # Spoken: an 85% chocolate, an 18v drill; "an SPF" and the like stay out by the first letter.
    vowel = one[0].lower() in "aeio8" or one.startswith(("11", "18"))
    return f"{'an' if vowel else 'a'} {one}"


def _dozens(language: str, many: str, number: int) -> str:
    words = {
        "en": {6: "half a dozen", 12: "a dozen", 24: "two dozen"},
        "hr": {6: "pola tuceta", 12: "tucet", 24: "dva tuceta"},
        "es": {6: "media docena de", 12: "una docena de", 24: "dos docenas de"},
    }
    return f"{words[language][number]} {many}"


def _in_units(language: str, phrase: NounPhrase, number: int, unit: str, rng: random.Random) -> str:
    if language == "hr":
        gender, *forms = _CROATIAN_UNITS[unit]
        counted_unit = NounPhrase.of([*forms, forms[0]], gender)
        numeral = number_text("hr", number, gender, rng)
        return f"{numeral} {after_number(counted_unit, number)} {phrase.genitive}"
    gender = "f" if unit in _SPANISH_FEMININE else "m"
    numeral = number_text(language, number, gender, rng)
    if language == "es":
        word = unit if number == 1 else {"par": "pares"}.get(unit, plural("es", unit))
        return f"{numeral} {word} de {phrase.nominative}"
    if number == 1 and rng.random() < 0.6:
        numeral = "a"
    return f"{numeral} {unit if number == 1 else plural('en', unit)} of {phrase.nominative}"
