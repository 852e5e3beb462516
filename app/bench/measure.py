"""One run: rounds in which the service and its rivals take turns on the same messages, then load.

Never two of them at once: they would measure each other. A round is short, so that a slow minute of
the machine falls on all, and ratios are taken round by round.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import mean
from time import perf_counter
from typing import TYPE_CHECKING

from app.artifacts.store import Artifact
from app.bench.callers import Caller, Connections, ask_at_once
from app.bench.latency import Latencies, Ratio, ratio_of_rounds
from app.bench.messages import customer_messages
from app.bench.open_loop import LoadResult, arrivals, offer
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
USUAL = Plan(rounds=8, singles=20, crowd=96, generated=4, load_shares=(0.5, 0.8), load_seconds=20)
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
    """Share of the generation's time that went into grammar and choice, not into the model."""
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
            asyncio.run(_in_turns(service, rivals, plan, messages, findings, say))
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


async def _in_turns(
    service: ServiceProcess,
    rivals: Rivals | None,
    plan: Plan,
    messages: Iterator[str],
    findings: Findings,
    say: Say,
) -> None:
    await _crowd(service, list(itertools.islice(messages, CALLERS)))  # warms up, is not counted
    for number in range(plan.rounds):
        say(f"round {number + 1} of {plan.rounds}")
        texts = list(itertools.islice(messages, plan.singles))
        crowd = list(itertools.islice(messages, plan.crowd))

        def http_singles(texts: list[str] = texts) -> None:
            with Caller(service.port) as caller:
                findings.http.add_singles([caller.time(text) for text in texts])

        def bare_singles(texts: list[str] = texts) -> None:
            if rivals:
                prompts = [rivals.weights.prompt(normalise(text)) for text in texts]
                findings.message_tokens += [len(prompt) for prompt in prompts]
                findings.bare.add_singles([rivals.bare.time([prompt]) for prompt in prompts])

        async def http_crowd(crowd: list[str] = crowd) -> None:
            findings.http.add_rate(len(crowd), await _crowd(service, crowd))

        def bare_crowd(crowd: list[str] = crowd) -> None:
            if rivals:
                prompts = [rivals.weights.prompt(normalise(text)) for text in crowd]
                packs = [prompts[at : at + SEQUENCES] for at in range(0, len(prompts), SEQUENCES)]
                findings.bare.add_rate(len(prompts), sum(map(rivals.bare.time, packs)))

        if number % 2:
            bare_singles()
            http_singles()
            bare_crowd()
            await http_crowd()
        else:
            http_singles()
            bare_singles()
            await http_crowd()
            bare_crowd()
        if rivals:
            _generate(rivals, texts[: plan.generated], findings)
    capacity = Latencies.of(findings.http.round_rate).p50 / 1e3
    for share in plan.load_shares:
        say(f"open-loop load at {share:.0%} of {capacity:.0f} messages/s")
        moments = arrivals(share * capacity, plan.load_seconds, _SEED)
        connections = Connections(service.port)
        answers = await offer(connections.post, messages, moments)
        await connections.close()
        findings.loads.append(LoadResult.of(answers, share * capacity, plan.load_seconds))


async def _crowd(service: ServiceProcess, texts: list[str]) -> float:
    connections = Connections(service.port)
    await connections.open(CALLERS)
    seconds = await ask_at_once(connections, texts, CALLERS)
    await connections.close()
    return seconds


def _generate(rivals: Rivals, texts: list[str], findings: Findings) -> None:
    answers = [rivals.generator.generate(rivals.weights.prompt(normalise(text))) for text in texts]
    seconds = [answer.seconds for answer in answers]
    findings.generation.add_singles(seconds)
    findings.generation.add_rate(len(answers), sum(seconds))
    findings.generated_tokens += [answer.tokens for answer in answers]
    findings.choosing_share.append(mean(a.choosing_seconds / a.seconds for a in answers))


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
