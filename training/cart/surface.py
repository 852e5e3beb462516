"""How a cart message looks after thumbs and habits; numbers and turning words stay readable."""

from __future__ import annotations

import random
import re

from training.cart.numerals import spelling_words
from training.noise import typo, without_diacritics

_OPENERS = {
    "en": ("hi", "hello", "hey", "ok so", "hi there", "umm", "sorry,", "good evening,"),
    "hr": ("bok", "pozdrav", "dobar dan", "ej", "oprostite,", "hej", "ovaj,", "dobra večer,"),
    "es": ("hola", "buenas", "oye", "disculpa,", "buen día,", "eh,", "hola qué tal,", "a ver,"),
}
_CLOSERS = {
    "en": ("thanks", "thx", "pls", "!!", "🙏", "cheers", "thank you so much", ":)"),
    "hr": ("hvala", "hvala puno", "lp", "!!", "🙏", "molim", "hvala unaprijed", ":)"),
    "es": ("gracias", "porfa", "xfa", "!!", "🙏", "muchas gracias", "por favor", ":)"),
}
# What a voice keeps while it thinks; dictation writes it down.
_FILLERS = {
    "en": ("uh", "um", "erm", "like", "you know", "so", "well", "hmm"),
    "hr": ("ovaj", "ovaaj", "mislim", "znači", "onaj", "hm", "ono", "kako se zove"),
    "es": ("eh", "este", "o sea", "pues", "mmm", "bueno", "a ver", "cómo se llama"),
}
# A slip in these could change what is asked for, not only how it is spelt.
_KEPT_WORDS = """
    dozen couple another fewer keep leave cancel tuceta tucet nikako ostavi zadrži umjesto manje
    docena docenas media menos mejor conserva
"""
_KEPT = frozenset(_KEPT_WORDS.split()) | spelling_words()


def finish(text: str, language: str, rng: random.Random, slips: int = 0) -> str:
    """The message as typed, with so many slips of the thumb."""
    for _ in range(slips):
        text = _slip(text, rng)
    if rng.random() < 0.06 and "\n" not in text:
        return _dictated(text, language, rng)
    if rng.random() < 0.08:
        text = f"{rng.choice(_OPENERS[language])} {text}"
    if rng.random() < 0.08:
        text = f"{text} {rng.choice(_CLOSERS[language])}"
    return _typed(text, language, rng)


def _typed(text: str, language: str, rng: random.Random) -> str:
    """Capitals, diacritics and punctuation by habit."""
    roll = rng.random()
    if roll < 0.45:
        text = text.lower()
    elif roll < 0.47:
        text = text.upper()
    elif roll < 0.75:
        text = text[0].upper() + text[1:]
    if language != "en" and rng.random() < 0.35:
        text = without_diacritics(text)
    if rng.random() < 0.3:
        # A comma or point beside a digit keeps numbers apart or together.
        text = re.sub(r"(?<!\d)[,.](?!\d)|[!?¿¡]", lambda m: "" if m[0] != "," else " ", text)
        text = re.sub(r"  +", " ", text).strip() or text
    elif rng.random() < 0.15 and text[-1].isalnum():
        text += "."
    return text


def _dictated(text: str, language: str, rng: random.Random) -> str:
    """As a telephone writes down speech: no capitals, hardly a point, words of thinking."""
    text = re.sub(r"(?<!\d)[,.](?!\d)|[!?¿¡:;…]|\.\.+| -(?= )", "", text.lower())
    words = text.split()
    for _ in range(rng.choice((1, 1, 2, 3))):
        words.insert(rng.randint(0, len(words) - 1), rng.choice(_FILLERS[language]))
    if rng.random() < 0.2 and words[0].isalpha() and words[0] not in _KEPT:
        words.insert(0, words[0])
    return " ".join(words)


def _slip(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    places = [
        i
        for i, word in enumerate(words)
        if len(word) >= 5 and word.isalpha() and word.casefold() not in _KEPT
    ]
    if not places:
        return text
    place = rng.choice(places)
    words[place] = typo(words[place], rng)
    return " ".join(words)
