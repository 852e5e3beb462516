"""Messages from a language model, after the paper's recipe: ask, check, and ask again what each means.

A unit of work is one intent in one language and style. Its rows are appended to a journal beside the
output as one line, so that a unit is there whole or not at all; the output is written from the journal.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict
from zlib import crc32

from app.artifacts.base_package import Progress, silent
from app.artifacts.manifest import write_atomically
from app.classification.prompt import normalise
from app.domain import OUT_OF_SCOPE
from app.errors import EmptyText, InputError
from training.chat_endpoint import ChatEndpoint
from training.duplicates import FAMILY, grams
from training.examples import (
    LANGUAGES,
    STRANGERS,
    WILD,
    Intent,
    read_labelled,
    read_seeds,
    read_taxonomy,
)
from training.leaks import ACCEPTANCE

LANGUAGE_NAMES = {"en": "English", "hr": "Croatian", "es": "Spanish"}
STYLES = {
    "fragment": "fragments of one to four words, lower case, no punctuation",
    "thumbs": "short, typed fast on a phone, with the typos and shorthand that brings",
    "plain": "one plain sentence",
    "context": "one or two sentences with some context: an order number, a product, a size or a date",
    "story": "a long, messy story of 25 to 60 words whose request comes last",
    "angry": "impatient or angry",
    "polite": "polite and formal, as an older customer writes",
    "teen": "casual, as teenagers chat, an emoji now and then",
    "learner": "by someone who is still learning the language, with small grammar mistakes",
}
TRADES = (
    "fashion", "groceries", "electronics", "furniture", "cosmetics", "sports nutrition", "books",
    "toys", "pet food", "tools", "phones", "flowers", "shoes", "pharmacy",
)  # fmt: skip
MESSAGES_A_UNIT = 10
LONGEST = 400
LABELLING_THREADS = 4
_GENERATION_ATTEMPTS = 3
_PLACEHOLDERS = set("{}[]<>")

_MESSAGES = {
    "type": "object",
    "properties": {"messages": {"type": "array", "items": {"type": "string"}}},
    "required": ["messages"],
    "additionalProperties": False,
}

_WRITER = (
    "You write messages that customers send to online shops. You answer with one JSON object of the "
    'form {"messages": ["...", "..."]} and nothing else.'
)
_READER = (
    "You sort messages that customers send to an online shop. You answer with one JSON object of the "
    'form {"intent": "..."} and nothing else.'
)


class UnknownIntent(InputError):
    """An intent or language that the taxonomy does not have."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work; ``options`` are what the second pass may choose from."""

    intent: Intent
    options: tuple[Intent, ...]
    language: str
    style: str
    number: int
    count: int
    seed: int

    @property
    def key(self) -> str:
        return f"{self.intent.name}/{self.language}/{self.number}/{self.style}"


class Done(TypedDict):
    """A line of the journal."""

    unit: str
    model: str
    messages: list[str]
    counts: dict[str, int]


def plan(
    intents: Sequence[str], languages: Sequence[str], per_intent: int, seed: int
) -> list[Unit]:
    """Units in order; more of an intent only adds units. Raises :class:`UnknownIntent`."""
    taxonomy = {intent.name: intent for intent in read_taxonomy()}
    unknown = [*(set(intents) - taxonomy.keys()), *(set(languages) - set(LANGUAGES))]
    if unknown:
        raise UnknownIntent(f"not in the taxonomy: {', '.join(sorted(unknown))}")
    styles = list(STYLES)
    return [
        Unit(
            intent=taxonomy[name],
            options=nearest(taxonomy[name], list(taxonomy.values())),
            language=language,
            style=styles[number % len(styles)],
            number=number,
            count=min(MESSAGES_A_UNIT, per_intent - number * MESSAGES_A_UNIT),
            seed=seed,
        )
        for name in intents or taxonomy
        for language in languages
        for number in range(-(-per_intent // MESSAGES_A_UNIT))
    ]


def nearest(intent: Intent, taxonomy: Sequence[Intent], least: int = 5) -> tuple[Intent, ...]:
    """The intent and those from which the taxonomy sets it apart, filled up from its group."""
    neighbours = [
        other
        for other in taxonomy
        if _names(intent.not_this, other.name) or _names(other.not_this, intent.name)
    ]
    group = [other for other in taxonomy if other.group == intent.group and other != intent]
    filling = [other for other in group if other not in neighbours]
    missing = max(0, least - 1 - len(neighbours))
    return (intent, *(n for n in neighbours if n != intent), *filling[:missing])


def _names(text: str, name: str) -> bool:
    return name in text.replace(",", " ").replace(";", " ").replace(".", " ").split()


def write_messages(
    chat: ChatEndpoint,
    units: Sequence[Unit],
    out: Path,
    progress: Progress = silent,
    threads: int = LABELLING_THREADS,
) -> dict[str, int]:
    """Do the units that the journal does not hold yet, and write ``out``; counts over all of it.

    Rows of ``out`` hold text, intent, language, style and model. What was finished is kept whatever
    stops the run, :class:`training.chat_endpoint.EndpointFailed` among it.
    """
    journal = out.with_name(f"{out.name}.journal")
    finished = read_journal(journal)
    done = {line["unit"] for line in finished}
    seen = Seen(_known_texts())
    for line in finished:
        for text in line["messages"]:
            seen.add(text)
    try:
        with ThreadPoolExecutor(threads) as pool:
            for place, unit in enumerate(units):
                progress("synthesise", place, len(units))
                if unit.key in done:
                    continue
                line = _do(chat, unit, seen, pool)
                append(journal, line)
                finished.append(line)
            progress("synthesise", len(units), len(units))
    finally:
        write_atomically(out, _rows(finished))
    totals = Counter({"kept": 0})
    for line in finished:
        totals.update(line["counts"])
    return dict(totals)


def _do(chat: ChatEndpoint, unit: Unit, seen: Seen, pool: ThreadPoolExecutor) -> Done:
    counts: Counter[str] = Counter()
    candidates = []
    for written in _written(chat, unit, counts):
        text = _fit(written, unit.intent.name)
        if text and seen.add(text):
            candidates.append(text)
        else:
            counts["duplicate" if text else "invalid"] += 1
    chosen = list(pool.map(partial(_chosen, chat, unit), candidates))
    kept = [
        text for text, intent in zip(candidates, chosen, strict=True) if intent == unit.intent.name
    ]
    counts["disagreed"] += len(candidates) - len(kept)
    counts["kept"] += len(kept)
    return Done(unit=unit.key, model=chat.model, messages=kept, counts=dict(counts))


def _written(chat: ChatEndpoint, unit: Unit, counts: Counter[str]) -> list[str]:
    """First pass. An answer that is not what was asked for is asked again, then given up."""
    key = crc32(f"{unit.key}/{unit.seed}".encode())
    trades = random.Random(key).sample(TRADES, 3)
    request = (
        f"What the customer wants: {unit.intent.definition}\n"
        f"Not this: {unit.intent.not_this}\n"
        f"Language: {LANGUAGE_NAMES[unit.language]}\n"
        f"Style: {STYLES[unit.style]}\n"
        f"Shops: {', '.join(trades)}\n"
        f"Write {unit.count} different messages, no two built alike, with real-looking names and "
        "numbers instead of placeholders."
    )
    for attempt in range(_GENERATION_ATTEMPTS):
        answer = chat.ask(
            _WRITER,
            request,
            schema=_MESSAGES,
            max_tokens=120 * unit.count + 50,
            temperature=0.9,
            seed=(key + attempt) % 2**31,
        )
        messages = _json_object(answer).get("messages")
        if isinstance(messages, list) and messages:
            return [m if isinstance(m, str) else "" for m in messages[: unit.count]]
        counts["malformed answers"] += 1
    return []


def _chosen(chat: ChatEndpoint, unit: Unit, text: str) -> str:
    """Second pass: the intent that the endpoint gives the text, empty where it gives none."""
    key = crc32(text.encode())
    options = list(unit.options)
    random.Random(key).shuffle(options)
    described = "\n".join(f"- {option.name}: {option.definition}" for option in options)
    request = (
        f"Message: {json.dumps(text, ensure_ascii=False)}\n"
        f"Which of these does the customer want?\n{described}\n"
        f"- {OUT_OF_SCOPE}: none of these, or no wish at all"
    )
    names = [*(option.name for option in options), OUT_OF_SCOPE]
    schema = {
        "type": "object",
        "properties": {"intent": {"type": "string", "enum": names}},
        "required": ["intent"],
        "additionalProperties": False,
    }
    answer = chat.ask(
        _READER, request, schema=schema, max_tokens=40, temperature=0.0, seed=key % 2**31
    )
    intent = _json_object(answer).get("intent")
    return intent if isinstance(intent, str) else ""


def _json_object(answer: str) -> dict[str, Any]:
    """The outermost object of an answer, with or without words or fences around it; {} if none."""
    start, end = answer.find("{"), answer.rfind("}")
    try:
        content = json.loads(answer[start : end + 1]) if start >= 0 else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _fit(text: str, intent: str) -> str:
    """The text as a message, empty when it cannot be one."""
    try:
        clean = normalise(text)
    except EmptyText:
        return ""
    named = "_" in intent and intent in clean
    return "" if len(clean) > LONGEST or named or _PLACEHOLDERS & set(clean) else clean


class Seen:
    """Texts met so far, and whether a new one is near any of them."""

    def __init__(self, texts: Iterable[str], threshold: float = FAMILY) -> None:
        self._threshold = threshold
        self._sizes: list[int] = []
        self._holders: defaultdict[str, list[int]] = defaultdict(list)
        for text in texts:
            self._put(grams(text))

    def add(self, text: str) -> bool:
        """Remember a text; False, and nothing done, when it is a near-duplicate."""
        found = grams(text)
        common = Counter(holder for gram in found for holder in self._holders.get(gram, ()))
        for holder, shared in common.items():
            if shared / (len(found) + self._sizes[holder] - shared) >= self._threshold:
                return False
        self._put(found)
        return True

    def _put(self, found: frozenset[str]) -> None:
        for gram in found:
            self._holders[gram].append(len(self._sizes))
        self._sizes.append(len(found))


def _known_texts() -> list[str]:
    """Our seeds, of which more of the same is no gain, and the sets that must stay unseen."""
    measured = [
        example
        for path in (WILD, STRANGERS, ACCEPTANCE)
        for example in read_labelled(path, path.stem)
    ]
    return [example.text for example in (*read_seeds(), *measured)]


def read_journal(path: Path) -> list[Done]:
    """Finished units. A last line that was cut off by a crash is removed from the file."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(path, len(whole))
    return [json.loads(line) for line in whole.splitlines()]


def append(path: Path, line: Done) -> None:
    """One write, on the disk before it counts."""
    with path.open("ab") as stream:
        stream.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def _rows(finished: Sequence[Done]) -> bytes:
    rows = []
    for line in finished:
        intent, language, _, style = line["unit"].split("/")
        for text in line["messages"]:
            row = {"text": text, "intent": intent, "language": language}
            rows.append(row | {"style": style, "model": line["model"]})
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
