"""How many of it: numbers, units and dozens, in agreement with the noun."""

from __future__ import annotations

import random

from training.cart.grammar import NounPhrase, plural
from training.cart.numerals import LARGEST_QUANTITY, number_text

# Croatian units: gender, nominative, accusative, with 2-4, with 5 and more.
CROATIAN_UNITS = {
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
    "set": ("m", "set", "set", "seta", "setova"),
    "komplet": ("m", "komplet", "komplet", "kompleta", "kompleta"),
    "posudica": ("f", "posudica", "posudicu", "posudice", "posudica"),
    "posuda": ("f", "posuda", "posudu", "posude", "posuda"),
    "rola": ("f", "rola", "rolu", "role", "rola"),
    "konzerva": ("f", "konzerva", "konzervu", "konzerve", "konzervi"),
}
_SPANISH_FEMININE = {
    "lata", "botella", "bolsa", "caja", "tableta", "barra", "pastilla", "bandeja", "tarrina", "garrafa",
}  # fmt: skip
_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12)
_WEIGHTS = (40, 20, 11, 7, 5, 5, 2, 2, 1, 3, 3)
# What people round to; the other half of the larger quantities is any number.
_ROUND_TENS = (
    11,
    14,
    15,
    16,
    18,
    20,
    24,
    25,
    30,
    35,
    36,
    40,
    45,
    48,
    50,
    60,
    70,
    72,
    75,
    80,
    90,
    99,
)
_ROUND_HUNDREDS = (
    100, 110, 120, 125, 144, 150, 160, 180, 200, 220, 240, 250, 300, 320, 350, 360, 400, 450, 480,
    500, 550, 600, 650, 700, 750, 800, 850, 900, 950, 999,
)  # fmt: skip
_DOZENS = {
    "en": {6: "half a dozen", 12: "a dozen", 24: "two dozen", 36: "three dozen"},
    "hr": {6: "pola tuceta", 12: "tucet", 24: "dva tuceta", 36: "tri tuceta"},
    "es": {6: "media docena de", 12: "una docena de", 24: "dos docenas de", 36: "tres docenas de"},
}
_FREE_DOZENS: dict[str, dict[int, tuple[str, ...]]] = {
    "en": {
        6: ("half a dozen", "half dozen", "a half dozen"), 12: ("a dozen", "one dozen", "1 dozen"),
        18: ("a dozen and a half", "dozen and a half"), 24: ("two dozen", "2 dozen"),
        36: ("three dozen", "3 dozen"), 48: ("four dozen", "4 dozen"), 60: ("five dozen", "5 dozen"),
        72: ("six dozen", "6 dozen"),
    },
    "hr": {
        6: ("pola tuceta",), 12: ("tucet", "jedan tucet", "1 tucet"), 18: ("tucet i pol",),
        24: ("dva tuceta", "2 tuceta"), 36: ("tri tuceta", "3 tuceta"),
        48: ("četiri tuceta", "4 tuceta"), 60: ("pet tuceta", "5 tuceta"),
    },
    "es": {
        6: ("media docena de",), 12: ("una docena de", "1 docena de", "docena de"),
        18: ("docena y media de", "una docena y media de"), 24: ("dos docenas de", "2 docenas de"),
        36: ("tres docenas de", "3 docenas de"), 48: ("cuatro docenas de", "4 docenas de"),
        60: ("cinco docenas de", "5 docenas de"),
    },
}  # fmt: skip
_PIECES = {"en": "pcs", "hr": "kom", "es": "uds"}
# Ways of writing a quantity beside a name, not a sentence; {g} is the genitive.
_SIGNS = {
    "en": ("{n}x {p}", "{n} x {p}", "{n}x {p}", "{p} x{n}", "{p} x {n}", "{n}× {p}", "x{n} {p}",
           "{n} pcs {p}", "{p} - {n} pcs", "{p} ({n})", "{n} pcs of {p}", "{p}, {n} pcs", "{p} *{n}"),
    "hr": ("{n}x {p}", "{n} x {p}", "{p} x{n}", "{p} x {n}", "{n}× {p}", "x{n} {p}", "{n} kom {p}",
           "{n} kom {g}", "{n}kom {g}", "{p} {n} kom", "{p}, {n} kom", "{p} ({n} kom)",
           "{p} - {n} kom"),
    "es": ("{n}x {p}", "{n} x {p}", "{p} x{n}", "{p} x {n}", "{n}× {p}", "x{n} {p}", "{n} uds {p}",
           "{n} uds de {p}", "{p} {n} uds", "{p}, {n} uds", "{p} ({n} uds)", "{p} - {n} uds"),
}  # fmt: skip


def draw_quantity(rng: random.Random, least: int = 1) -> int:
    """A whole number from 1 to 999: most often a small one, one in ten of two or three digits."""
    while True:
        roll = rng.random()
        if roll < 0.03:
            number = rng.choice(_ROUND_HUNDREDS)
            number = number if rng.random() < 0.5 else rng.randint(100, LARGEST_QUANTITY)
        elif roll < 0.11:
            number = rng.choice(_ROUND_TENS) if rng.random() < 0.5 else rng.randint(11, 99)
        else:
            number = rng.choices(_COUNTS, _WEIGHTS)[0]
        if number >= least:
            return number


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
    line: bool = False,
    leading: bool = False,
    freely: bool = False,
) -> str:
    """The phrase with its quantity, as the object of a sentence.

    ``explicit`` always tells the number, also when it is one; ``nominative`` is for lists, ``line``
    for lists with one product a line, where signs (2x, 3 pcs) are more common than words;
    ``leading`` for running lists, where the number stands first; ``freely`` takes more dozens, and
    other words for them.
    """
    roll = rng.random()
    nominative = nominative and not phrase.object_only
    one = phrase.nominative if nominative else phrase.accusative
    if number == 1 and not explicit and roll < 0.6:
        return one if line else _single(language, phrase, one, rng)
    if rng.random() < (0.6 if line else 0.14):
        return _signed(language, phrase, number, rng, leading=leading)
    if units and (phrase.plural_only or roll > 0.8):
        unit = rng.choice(units)
        return _in_units(language, phrase, number, unit, rng, nominative=nominative)
    if phrase.plural_only:
        return f"{number}x {phrase.nominative}" if number > 1 or explicit else one
    if roll < 0.4 and (dozens := _dozens(language, number, rng, freely=freely)):
        return f"{dozens} {phrase.many}"
    return _in_words(language, phrase, number, rng, roll, nominative=nominative)


def _signed(
    language: str, phrase: NounPhrase, number: int, rng: random.Random, *, leading: bool
) -> str:
    """By a sign. ``leading`` puts the number first, so that it cannot belong to what comes next."""
    pieces = _PIECES[language]
    styles = [
        style
        for style in _SIGNS[language]
        if not (leading and style.startswith("{p}") and "(" not in style)
        and not ((phrase.plural_only or phrase.object_only) and not {"x", "×"} & set(style))
    ]
    style = rng.choice(styles)
    if phrase.nominative[-1].isdigit() and style.startswith("{p}"):
        style = "{p} (x{n})" if leading else "{p} x{n}"  # a bare number would join the name's own
    if number == 1:
        style = style.replace(pieces, {"pcs": "pc", "uds": "ud"}.get(pieces, pieces))
    return style.format(n=number, p=phrase.nominative, g=phrase.genitive)


def _in_words(
    language: str,
    phrase: NounPhrase,
    number: int,
    rng: random.Random,
    roll: float,
    *,
    nominative: bool,
) -> str:
    if number == 2 and roll < 0.2 and language != "hr":  # "par" is also a vague few in Croatian
        return f"{'a couple of' if language == 'en' else 'un par de'} {phrase.few}"
    numeral = number_text(language, number, phrase.gender, rng, nominative=nominative)
    form = phrase.accusative if number == 1 else after_number(phrase, number, language)
    if nominative and form == phrase.accusative:
        form = phrase.nominative
    if form == phrase.accusative and phrase.object_only and _lives(phrase):
        numeral = str(number)  # not "jedan": it is "jednog medvjedića"
    if form[0].isdigit() and numeral.isdigit():
        numeral += "x"  # "2 20w chargers" would read as 220
    return f"{numeral} {form}"


def _lives(phrase: NounPhrase) -> bool:
    """Whether the Croatian accusative is that of a masculine being, which is its genitive."""
    first, few = phrase.accusative.split()[0], phrase.few.split()[0]
    return phrase.gender == "m" and (first == few or first.endswith(("og", "eg")))


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
    if phrase.described:
        return phrase.nominative
    if language == "en":
        return f"the {phrase.nominative}"
    article = {
        ("m", False): "el", ("fa", False): "el", ("f", False): "la",
        ("m", True): "los", ("f", True): "las",
    }[phrase.gender, phrase.plural_only]  # fmt: skip
    return f"{article} {phrase.nominative}"


def _single(language: str, phrase: NounPhrase, one: str, rng: random.Random) -> str:
    if language == "hr" or rng.random() < 0.35 or phrase.described:
        return one
    if phrase.plural_only or rng.random() < 0.2:
        return definite(language, phrase)
    if language == "es":
        return f"{'una' if phrase.gender == 'f' else 'un'} {one}"
    # Spoken: an 85% chocolate, an 18v drill; "an SPF" and the like stay out by the first letter.
    vowel = one[0].lower() in "aeio8" or one.startswith(("11", "18", "un", "um"))
    vowel = vowel and not one.startswith(("uni", "Uni"))
    return f"{'an' if vowel else 'a'} {one}"


def _dozens(language: str, number: int, rng: random.Random, *, freely: bool) -> str | None:
    if freely and number in _FREE_DOZENS[language]:
        return rng.choice(_FREE_DOZENS[language][number])
    return _DOZENS[language].get(number)


def _in_units(
    language: str,
    phrase: NounPhrase,
    number: int,
    unit: str,
    rng: random.Random,
    *,
    nominative: bool,
) -> str:
    if language == "hr":
        gender, *forms = CROATIAN_UNITS[unit]
        if nominative:
            forms[1] = forms[0]
        counted_unit = NounPhrase.of([*forms, forms[0]], gender)
        numeral = number_text("hr", number, gender, rng, nominative=nominative)
        return f"{numeral} {after_number(counted_unit, number)} {phrase.genitive}"
    gender = "f" if unit in _SPANISH_FEMININE else "m"
    numeral = number_text(language, number, gender, rng)
    if language == "es":
        word = unit if number == 1 else {"par": "pares"}.get(unit, plural("es", unit))
        return f"{numeral} {word} de {phrase.nominative}"
    if number == 1 and rng.random() < 0.6:
        numeral = "a"
    return f"{numeral} {unit if number == 1 else plural('en', unit)} of {phrase.nominative}"
