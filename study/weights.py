"""Every format from the same merged weights, built once into a directory that bears their digest.

GGUF: the artifact's own builder makes float32 of base and adapters, llama.cpp's own quantiser the rest.
torch: base and adapters merged by :mod:`training.merged`; GPTQ from those, as ``training quantise`` does.
Run as a child of its own (``python -m study.weights``), so that no library stays in the parent.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.artifacts.base_package import assemble_base
from app.artifacts.manifest import BaseFile, BasePackage, describe_file, read_manifest
from app.artifacts.store import Artifact
from app.backends.gguf_weights import build_weights
from app.errors import InputError
from study.plan import SOURCE, format_of

_VOCABULARY = Path("training/data/vocabulary.safetensors")
_SEED = 20


@dataclass(frozen=True, slots=True)
class Workshop:
    """Builds the formats of one artifact below ``directory``. ``store`` keeps its base."""

    artifact: Artifact
    store: Path
    directory: Path
    threads: int
    gptq_messages: int

    def path(self, name: str) -> Path:
        """Where a format lies or will lie; the n-grams lie in the artifact."""
        one = format_of(name)
        if one.family == "ngrams":
            return self.artifact.directory / "ngrams.safetensors"
        if name == "served":
            return self.artifact.weights_directory / self.artifact.recipe().output
        if name.startswith("gptq"):
            return self.directory / f"{name}-{self.gptq_messages}"
        return self.directory / (name if one.family == "torch" else f"{name}.gguf")

    def vocabulary(self) -> Path:
        """A GGUF file with every piece of the base's vocabulary."""
        base = self.artifact.recipe().base
        if isinstance(base, BasePackage):
            return assemble_base(base, self.store / ".cache")
        if isinstance(base, BaseFile):
            return self.store / base.path
        raise InputError(f"{self.artifact.label} was published whole: it cannot be studied")

    def build(self, name: str, log: Path) -> Path:
        """The format's file or directory, built by a child unless it is there."""
        path = self.path(name)
        if name == "served" or not path.exists():  # the served file is verified each time
            job = {
                "artifact": str(self.artifact.directory.resolve()),
                "store": str(self.store.resolve()),
                "directory": str(self.directory.resolve()),
                "threads": self.threads,
                "gptq_messages": self.gptq_messages,
                "format": name,
            }
            run_child("study.weights", job, log, self.threads)
        return path

    def make(self, name: str) -> None:
        """Build in this process what is not there; what it is made from first."""
        path = self.path(name)
        self.directory.mkdir(parents=True, exist_ok=True)
        if name == "served":
            build_weights(self.artifact, store=self.store)
        elif path.exists():
            return
        elif name.startswith("hf-"):
            self._merge(name, path)
        elif name.startswith("gptq-"):
            self._gptq(name, path)
        elif name.startswith("vocabulary-"):
            self._stage(name, path, trimmed=name.endswith("trimmed"))
        elif name.startswith("depth-"):
            self._cut(name, path)
        elif name == SOURCE.name:
            self._stage(name, path, quantisation=name)
        else:
            self._quantise(name, path)

    def _merge(self, name: str, path: Path) -> None:
        import torch

        from training.merged import merge_artifact

        partial = _emptied(path)
        merge_artifact(self.artifact, partial, getattr(torch, format_of(name).precision))
        partial.rename(path)

    def _gptq(self, name: str, path: Path) -> None:
        from app.classification.prompt import Prompt
        from training.bases import Base, Tokeniser
        from training.gptq import GptqConfig, quantise
        from training.storefront import training_seeds

        self.make("hf-fp32")
        merged = self.path("hf-fp32")
        given = self.artifact.manifest.prompt
        tokeniser = Tokeniser(
            Base(merged, self.artifact.recipe().base, ""), Prompt(given.prefix, given.suffix)
        )
        chosen = random.Random(_SEED).sample(training_seeds(), self.gptq_messages)
        prompts = tokeniser.prompts([example.text for example in chosen])
        partial = path.with_name(f"{path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        bits = int(name.removeprefix("gptq-"))
        quantise(merged, prompts, GptqConfig(bits=bits), partial, self.threads)
        partial.rename(path)

    def _stage(
        self,
        name: str,
        path: Path,
        *,
        quantisation: str | None = None,
        trimmed: bool | None = None,
    ) -> None:
        """The artifact's own builder on a changed recipe."""
        stage = _emptied(self.directory / f"stage-{name}")
        for entry in self.artifact.manifest.files:
            link = stage / entry.path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((self.artifact.directory / entry.path).resolve())
        recipe = self.artifact.recipe()
        files = self.artifact.manifest.files
        vocabulary = recipe.vocabulary if trimmed is not False else None
        if trimmed and vocabulary is None:
            vocabulary = "study-vocabulary.safetensors"
            shutil.copyfile(_VOCABULARY, stage / vocabulary)
            files = (*files, describe_file(stage, vocabulary))
        recipe = recipe.model_copy(
            update={
                "quantisation": quantisation or recipe.quantisation,
                "vocabulary": vocabulary,
                "output": path.name,
            }
        )
        manifest = self.artifact.manifest.model_copy(update={"weights": recipe, "files": files})
        build_weights(Artifact(stage, manifest), store=self.store).rename(path)
        shutil.rmtree(stage)

    def _quantise(self, name: str, path: Path) -> None:
        import llama_cpp

        self.make(SOURCE.name)
        source = self.path(SOURCE.name)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")
        params.allow_requantize = True  # the base's embedding table is of 8-bit codes
        params.nthread = self.threads
        partial = path.with_name(f"{path.name}.partial")
        status = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(partial), params)
        if status:
            raise InputError(f"llama.cpp could not quantise to {name}: {status}")
        partial.rename(path)

    def _cut(self, name: str, path: Path) -> None:
        from study.depth import cut, layers_of

        self.make("Q8_0")
        source = self.path("Q8_0")
        share = int(name.removeprefix("depth-")) / 100
        cut(source, round(share * layers_of(source)), path)


def size_mb(path: Path) -> float:
    """Of a file, or of a directory's weights and tokeniser, in 10**6 bytes."""
    if path.is_file():
        return round(path.stat().st_size / 1e6, 1)
    return round(sum(one.stat().st_size for one in path.rglob("*") if one.is_file()) / 1e6, 1)


class ChildFailed(Exception):
    """A child ended before it had done its job."""


def child_environment(threads: int) -> dict[str, str]:
    """Read once by torch and llama.cpp when they load; passive waiting spares the other core."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_OFFLINE": "1",
    }


def run_child(module: str, job: Mapping[str, Any], log: Path, threads: int) -> str:
    """The last line that a module says on standard output, given a job on standard input."""
    with log.open("a") as stream:
        done = subprocess.run(
            [sys.executable, "-m", module],
            input=json.dumps(job) + "\n",
            env=child_environment(threads),
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            check=False,
        )
    if done.returncode:
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise ChildFailed(said[-1][:300] if said else f"it ended with {done.returncode}")
    lines = done.stdout.splitlines()
    return lines[-1] if lines else ""


def _emptied(directory: Path) -> Path:
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def main() -> None:
    job = json.loads(sys.stdin.readline())
    directory = Path(job["artifact"])
    workshop = Workshop(
        Artifact(directory, read_manifest(directory)),
        Path(job["store"]),
        Path(job["directory"]),
        job["threads"],
        job["gptq_messages"],
    )
    workshop.make(job["format"])


if __name__ == "__main__":
    main()
