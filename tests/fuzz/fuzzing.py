"""Schemathesis against the running service on the fake model: ``python -m tests.fuzz.fuzzing``.

The service runs as its users run it, with a key of every scope, feedback kept with its text, and a
second process that sends what the OpenAPI document allows and what it forbids.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from app.api.keys import Scope, new_key
from tests.fake_artifact import write_fake_artifact
from tests.fake_cart import fake_cart
from tests.process import Process

CONFIG = Path(__file__).with_name("schemathesis.toml")
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


@dataclass(frozen=True)
class Outcome:
    """How a run ended; ``log`` is the service's."""

    status: int
    cases: int
    output: str
    log: str


def fuzz(folder: Path, examples: int, phases: str, seed: int) -> Outcome:
    """Run all checks with at most ``examples`` cases an operation in each phase."""
    store, log = folder / "store", folder / "service.log"
    for version in ("1", "2"):
        write_fake_artifact(store, version=version, cart=fake_cart())
    secret, key = new_key("fuzz", list(Scope))
    settings = {
        "INTENT_KEYS": key.line,
        "INTENT_FEEDBACK_FILE": str(folder / "feedback.sqlite"),
        "INTENT_FEEDBACK_TEXT": "true",
        "INTENT_DRAIN_SECONDS": "0",
    }
    with Process(store, log, **settings) as service:
        service.wait_until_ready()
        done = subprocess.run(
            [
                SCHEMATHESIS,
                "--config-file", CONFIG,
                "run", f"{service.url}/openapi.json",
                "--header", f"Authorization: Bearer {secret}",
                "--checks", "all",
                "--max-examples", str(examples),
                "--phases", phases,
                "--seed", str(seed),
                "--continue-on-failure",
                "--no-shrink",
                "--generation-database", "none",
                "--warnings", "off",
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env={**os.environ, "NO_COLOR": "1"},
        )  # fmt: skip
        assert service.stop() == 0
    found = re.search(r"([\d,]+) generated", done.stdout)
    cases = int(found[1].replace(",", "")) if found else 0
    return Outcome(done.returncode, cases, done.stdout + done.stderr, log.read_text())


def main() -> int:
    """Run at length; the exit status is that of the shell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=250, help="cases an operation and phase")
    parser.add_argument("--least", type=int, default=5000, help="fewer cases in all are a failure")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = fuzz(
            Path(folder), given.examples, "examples,coverage,fuzzing,stateful", given.seed
        )
    print(outcome.output)
    crashed = [line for line in outcome.log.splitlines() if '"request failed"' in line]
    print(json.dumps({"cases": outcome.cases, "status": outcome.status, "crashes": len(crashed)}))
    return int(outcome.status != 0 or bool(crashed) or outcome.cases < given.least)


if __name__ == "__main__":
    sys.exit(main())
