"""The ways in which people's thumbs, keyboards and habits change a message; and slot swaps.

Every change keeps the meaning. All randomness comes from the generator that is passed in.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from training.examples import Example

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_SHORT = {
    "en": {
        "please": "pls", "you": "u", "are": "r", "your": "ur", "thanks": "thx", "because": "cuz",
        "the": "teh", "want": "wanna", "what": "wat", "tomorrow": "tmrw", "delivery": "delivry",
        "receive": "recieve", "address": "adress", "for": "4", "to": "2", "i'm": "im",
        "don't": "dont", "can't": "cant", "haven't": "havent", "where's": "wheres", "it's": "its",
        "quantity": "qty", "number": "no.", "order": "ordr", "message": "msg", "about": "abt",
    },
    "hr": {
        "molim": "mol", "hvala": "hvl", "što": "sta", "gdje": "di", "koliko": "kolko",
        "kako": "kak", "dobar dan": "dd", "narudžba": "narudzba", "pozdrav": "poz", "nije": "nij",
        "može": "moze", "danas": "dns", "nisam": "nisan", "treba": "triba", "sutra": "sutr",
    },
    "es": {
        "por favor": "xfa", "porque": "xq", "que": "q", "también": "tb", "para": "pa", "por": "x",
        "gracias": "grax", "estoy": "toy", "donde": "dnd", "cuando": "cdo", "pedido": "pedio",
        "mensaje": "msj", "muchas": "mxs", "buenas": "wenas", "está": "sta", "hola": "ola",
    },
}  # fmt: skip
_OPENERS = {
    "en": (
        "hi", "hello", "hey there", "good morning", "hi team", "sorry to bother you but",
        "quick question", "ok so", "excuse me",
    ),
    "hr": (
        "bok", "pozdrav", "dobar dan", "poštovani", "ej", "imam pitanje", "oprostite", "pozz",
        "dobra večer",
    ),
    "es": (
        "hola", "buenas", "buen día", "hola qué tal", "buenas tardes", "disculpe", "una consulta",
        "oye", "mira",
    ),
}  # fmt: skip
_CLOSERS = {
    "en": (
        "thanks", "thank you", "pls", "asap", "cheers", "??", "!!", "regards", "thx in advance",
        "🙏", "please help",
    ),
    "hr": (
        "hvala", "molim vas", "hvala unaprijed", "lp", "??", "!!", "🙏", "hitno",
        "unaprijed zahvaljujem",
    ),
    "es": ("gracias", "por favor", "xfa", "muchas gracias", "??", "!!", "🙏", "urgente", "saludos"),
}  # fmt: skip


def _neighbours() -> dict[str, str]:
    near: dict[str, str] = {}
    for y, row in enumerate(_ROWS):
        for x, key in enumerate(row):
            around = row[max(0, x - 1) : x] + row[x + 1 : x + 2]
            for other in (y - 1, y + 1):
                if 0 <= other < len(_ROWS):
                    around += _ROWS[other][max(0, x - 1) : x + 1]
            near[key] = around
    return near


_NEAR = _neighbours()


def typo(text: str, rng: random.Random) -> str:
    """One slip of the thumb: neighbour key, dropped, doubled or swapped letters."""
    places = [i for i, c in enumerate(text) if c.isalpha()]
    if len(places) < 4:
        return text
    i = rng.choice(places[1:])
    kind = rng.randrange(4)
    letter = text[i]
    if kind == 0 and letter.lower() in _NEAR:
        return text[:i] + rng.choice(_NEAR[letter.lower()]) + text[i + 1 :]
    if kind == 1:
        return text[:i] + text[i + 1 :]
    if kind == 2:
        return text[:i] + letter + text[i:]
    if i + 1 < len(text) and text[i + 1].isalpha():
        return text[:i] + text[i + 1] + letter + text[i + 2 :]
    return text


def without_diacritics(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.replace("đ", "d").replace("Đ", "D"))
    return unicodedata.normalize("NFC", "".join(c for c in plain if not unicodedata.combining(c)))


def without_punctuation(text: str) -> str:
    kept = "".join(c for c in text if c not in ",.!?¿¡;:\"'")
    return " ".join(kept.split()) or text


def missing_space(text: str, rng: random.Random) -> str:
    places = [i for i, c in enumerate(text) if c == " "]
    if len(places) < 3:
        return text
    i = rng.choice(places)
    return text[:i] + text[i + 1 :]


def shorthand(text: str, language: str, rng: random.Random) -> str:
    words = text.split(" ")
    table = _SHORT.get(language, {})
    return " ".join(
        table[w.lower()] if w.lower() in table and rng.random() < 0.6 else w for w in words
    )


def noisy(text: str, language: str, rng: random.Random) -> str:
    """A message as another customer would have typed it; about two changes on average."""
    changes: Sequence[tuple[float, Callable[[str], str]]] = (
        (0.25, lambda t: shorthand(t, language, rng)),
        (0.50, str.lower),
        (0.03, str.upper),
        (0.35, without_punctuation),
        (0.35, without_diacritics),
        (0.10, lambda t: f"{rng.choice(_OPENERS[language])} {t}"),
        (0.12, lambda t: f"{t} {rng.choice(_CLOSERS[language])}"),
        (0.35, lambda t: typo(t, rng)),
        (0.15, lambda t: typo(typo(t, rng), rng)),
        (0.06, lambda t: missing_space(t, rng)),
    )
    for chance, change in changes:
        if rng.random() < chance:
            text = change(text)
    return text


def swap_slots(
    example: Example, fillers: Mapping[tuple[str, str], Sequence[str]], rng: random.Random
) -> Example:
    """The same wish about something else: each slot may take another seed's value of its kind."""
    text = example.text
    for kind, value in example.slots.items():
        choices = fillers.get((example.language, kind), ())
        if choices and rng.random() < 0.5:
            text = text.replace(value, rng.choice(choices), 1)
    return replace(example, text=text)


def fillers_of(examples: Sequence[Example]) -> dict[tuple[str, str], list[str]]:
    """Slot values by (language, kind), each as often as it occurs."""
    fillers: dict[tuple[str, str], list[str]] = {}
    for example in examples:
        for kind, value in example.slots.items():
            fillers.setdefault((example.language, kind), []).append(value)
    return fillers


def expand(examples: Sequence[Example], copies: int, seed: int) -> list[Example]:
    """Each example once as it is, and ``copies`` times with swapped slots and noise."""
    rng = random.Random(seed)
    fillers = fillers_of(examples)
    expanded = []
    for example in examples:
        expanded.append(example)
        for _ in range(copies):
            other = swap_slots(example, fillers, rng)
            expanded.append(replace(other, text=noisy(other.text, other.language, rng), slots={}))
    return expanded
