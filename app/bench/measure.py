"""One run: rounds in which the service and its rivals take turns on the same messages, then load.

Never two of them at once: they would measure each other. A round is short, so that a slow minute of
the machine falls on all, and ratios are taken round by round.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from app.artifacts.store import Artifact
from app.bench.callers import Caller, Connections, ask_at_once
from app.bench.latency import Latencies, Ratio, ratio_of_rounds
from app.bench.messages import customer_messages
from app.bench.open_loop import GOOD_WITHIN, LoadResult, arrivals, offer
from app.bench.service_process import BenchFailed, ServiceProcess
from app.classification.model_files import read_model
from app.classification.ngrams import NgramModel
from app.classification.prompt import normalise

if TYPE_CHECKING:
    from app.bench.rivals import BareDecoder, JsonGenerator, Weights

CALLERS = 32
SEQUENCES = 16
_RIVAL_TOKENS = 1024
_SEED = 20251024
_CACHE_BYTES = 16 << 20

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. Counts are of messages in one round."""

    rounds: int
    singles: int
    crowd: int
    generated: int
    load_shares: tuple[float, ...]
    """Offered load as shares of the capacity that the rounds measured."""
    load_seconds: float
    cached: int = 0
    """Answers to ask for again from a service with its cache on; 0 for none."""


QUICK = Plan(rounds=4, singles=12, crowd=48, generated=2, load_shares=(0.7,), load_seconds=7)
USUAL = Plan(rounds=8, singles=20, crowd=96, generated=3, load_shares=(0.5, 0.8), load_seconds=20)
FULL = Plan(
    rounds=12, singles=40, crowd=128, generated=8, load_shares=(0.5, 0.8, 5.0), load_seconds=60,
    cached=3000,
)  # fmt: skip


@dataclass(slots=True)
class Series:
    """What one contender did over the rounds: seconds of single messages, messages a second."""

    seconds: list[float] = field(default_factory=list)
    round_p50: list[float] = field(default_factory=list)
    round_rate: list[float] = field(default_factory=list)

    def add_singles(self, seconds: list[float]) -> None:
        self.seconds += seconds
        self.round_p50.append(Latencies.of(seconds).p50)

    def add_rate(self, messages: int, seconds: float) -> None:
        self.round_rate.append(messages / seconds)


@dataclass(slots=True)
class Findings:
    """All that one run measured. Rivals are empty where the weights are not llama.cpp's."""

    http: Series = field(default_factory=Series)
    bare: Series = field(default_factory=Series)
    generation: Series = field(default_factory=Series)
    generated_tokens: list[int] = field(default_factory=list)
    choosing_share: list[float] = field(default_factory=list)
    """In each round, the share of the generation's time that went into grammar and choice."""
    ngrams: Series = field(default_factory=Series)
    loads: list[LoadResult] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)
    cached: Latencies | None = None
    cached_per_s: float | None = None
    message_tokens: list[int] = field(default_factory=list)

    @property
    def p50_over_bare(self) -> Ratio | None:
        return _over(self.http.round_p50, self.bare.round_p50)

    @property
    def rate_over_bare(self) -> Ratio | None:
        return _over(self.http.round_rate, self.bare.round_rate)

    @property
    def p50_over_generation(self) -> Ratio | None:
        return _over(self.http.round_p50, self.generation.round_p50)

    @property
    def rate_over_generation(self) -> Ratio | None:
        return _over(self.http.round_rate, self.generation.round_rate)

    @property
    def rate_over_generation_without_grammar(self) -> Ratio | None:
        """As if the grammar and the choice of tokens cost nothing, only the model's passes."""
        shares = zip(self.generation.round_rate, self.choosing_share, strict=True)
        return _over(self.http.round_rate, [rate / (1 - share) for rate, share in shares])


def _over(above: list[float], below: list[float]) -> Ratio | None:
    return ratio_of_rounds(above, below) if below else None


class Rivals:
    """What the same weights can do in this process, without the service."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        # Imported here: a fake or GPU artifact is measured without llama.cpp.
        from app.bench.rivals import BareDecoder, JsonGenerator, Weights

        self.weights: Weights = Weights(artifact.weights_path(), artifact.manifest)
        self.bare: BareDecoder = BareDecoder(
            self.weights, threads=threads, sequences=SEQUENCES, tokens=_RIVAL_TOKENS
        )
        self.generator: JsonGenerator = JsonGenerator(
            self.weights, artifact.manifest.intents, threads=threads, tokens=_RIVAL_TOKENS
        )

    def prompt(self, text: str) -> list[int]:
        return self.weights.prompt(normalise(text))

    def close(self) -> None:
        self.bare.close()
        self.generator.close()
        self.weights.close()


def measure(artifact: Artifact, backend: str, threads: int, plan: Plan, say: Say) -> Findings:
    """Run the plan. Raises :class:`BenchFailed` when the service does not answer."""
    findings = Findings()
    messages = customer_messages(_SEED)
    say("starting the service")
    with ServiceProcess(cache_bytes=0) as service:
        rivals = None
        if backend == "gguf":
            say("loading the same weights here")
            rivals = Rivals(artifact, threads)
        try:
            service.forget_peak()
            asyncio.run(_run(service, rivals, plan, messages, findings, say))
        except ConnectionError as error:
            raise BenchFailed(str(error)) from error
        finally:
            if rivals:
                rivals.close()
        findings.memory = service.memory()
    _time_ngrams(artifact, messages, findings)
    if plan.cached:
        say("answers from the cache")
        _time_cached(plan, messages, findings)
    return findings


async def _run(
    service: ServiceProcess,
    rivals: Rivals | None,
    plan: Plan,
    messages: Iterator[str],
    findings: Findings,
    say: Say,
) -> None:
    turns = _Turns(service, rivals, findings)
    await _crowd(service, list(itertools.islice(messages, CALLERS)))  # warms up, is not counted
    for number in range(plan.rounds):
        say(f"round {number + 1} of {plan.rounds}")
        singles = list(itertools.islice(messages, plan.singles))
        crowd = list(itertools.islice(messages, plan.crowd))
        if number % 2:
            turns.bare_singles(singles)
            turns.http_singles(singles)
            turns.bare_crowd(crowd)
            await turns.http_crowd(crowd)
        else:
            turns.http_singles(singles)
            turns.bare_singles(singles)
            await turns.http_crowd(crowd)
            turns.bare_crowd(crowd)
        turns.generate(singles[: plan.generated])
    capacity = median(findings.http.round_rate)
    for share in plan.load_shares:
        say(f"open-loop load at {share:.0%} of {capacity:.0f} messages/s")
        moments = arrivals(share * capacity, plan.load_seconds, _SEED)
        connections = Connections(service.port, deadline=GOOD_WITHIN)
        answers = await offer(connections.post, messages, moments)
        await connections.close()
        findings.loads.append(LoadResult.of(answers, share * capacity, plan.load_seconds))


class _Turns:
    """One contender's turn at a time; each writes what it saw into the findings."""

    def __init__(self, service: ServiceProcess, rivals: Rivals | None, findings: Findings) -> None:
        self._service = service
        self._rivals = rivals
        self._findings = findings

    def http_singles(self, texts: Sequence[str]) -> None:
        with Caller(self._service.port) as caller:
            self._findings.http.add_singles([caller.time(text) for text in texts])

    async def http_crowd(self, texts: Sequence[str]) -> None:
        self._findings.http.add_rate(len(texts), await _crowd(self._service, texts))

    def bare_singles(self, texts: Sequence[str]) -> None:
        if self._rivals:
            prompts = [self._rivals.prompt(text) for text in texts]
            self._findings.message_tokens += [len(prompt) for prompt in prompts]
            self._findings.bare.add_singles([self._rivals.bare.time([p]) for p in prompts])

    def bare_crowd(self, texts: Sequence[str]) -> None:
        if self._rivals:
            prompts = [self._rivals.prompt(text) for text in texts]
            packs = [prompts[at : at + SEQUENCES] for at in range(0, len(prompts), SEQUENCES)]
            self._findings.bare.add_rate(len(prompts), sum(map(self._rivals.bare.time, packs)))

    def generate(self, texts: Sequence[str]) -> None:
        if self._rivals:
            made = [self._rivals.generator.generate(self._rivals.prompt(text)) for text in texts]
            seconds = [one.seconds for one in made]
            self._findings.generation.add_singles(seconds)
            self._findings.generation.add_rate(len(made), sum(seconds))
            self._findings.generated_tokens += [one.tokens for one in made]
            self._findings.choosing_share.append(
                sum(one.choosing_seconds for one in made) / sum(seconds)
            )


async def _crowd(service: ServiceProcess, texts: Sequence[str]) -> float:
    connections = Connections(service.port)
    await connections.open(CALLERS)
    seconds = await ask_at_once(connections, texts, CALLERS)
    await connections.close()
    return seconds


def _time_ngrams(artifact: Artifact, messages: Iterator[str], findings: Findings) -> None:
    model: NgramModel = read_model(artifact.directory, artifact.manifest).ngrams
    seconds = []
    for text in itertools.islice(messages, 200):
        started = perf_counter()
        model.score(normalise(text))
        seconds.append(perf_counter() - started)
    findings.ngrams.add_singles(seconds)
    findings.ngrams.add_rate(len(seconds), sum(seconds))


def _time_cached(plan: Plan, messages: Iterator[str], findings: Findings) -> None:
    texts = list(itertools.islice(messages, 20))
    repeated = list(itertools.islice(itertools.cycle(texts), plan.cached))
    with ServiceProcess(_CACHE_BYTES) as service:
        with Caller(service.port) as caller:
            for text in texts:
                caller.time(text)
            findings.cached = Latencies.of([caller.time(text) for text in repeated])
        findings.cached_per_s = len(repeated) / asyncio.run(_crowd(service, repeated))
