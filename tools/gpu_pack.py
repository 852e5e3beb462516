"""Takes a GPTQ checkpoint to a machine that nothing can be fetched from, in parts of a few megabytes.

    python tools/gpu_pack.py pack .gpu --part-mb 57    here: parts, tokeniser, messages, expected states
    python tools/gpu_pack.py unpack .gpu /tmp/gpu      there, once for each part that was carried

The embedding table is the larger half of the weights, and a set of messages touches a few of its rows:
only those go over. The others are filled with copies, so that memory and time are as with all of them.
"""

from __future__ import annotations

import argparse
import json
import lzma
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.artifacts.checkpoints import verified_checkpoint
from app.artifacts.manifest import MANIFEST, Manifest, describe_file, write_manifest
from app.artifacts.store import Artifact, Store
from app.backends.base import BackendOptions
from app.backends.gptq import GptqBackend
from app.classification.classifier import Classifier
from app.classification.loading import batches, load_classifier
from app.classification.model_files import read_model
from app.classification.prompt import normalise, normalise_lines
from app.errors import WeightsNotBuilt

TABLE = "model.embed_tokens.weight"
MESSAGES = 600


def pack(
    store: Path, name: str, given: Path | None, out: Path, threads: int, part_bytes: int
) -> None:
    """Everything that the measurements need, as ``out/part-N`` and ``out/small``."""
    artifact = Store(store).resolve(name)
    checkpoint = given or verified_checkpoint(artifact)
    shutil.rmtree(out, ignore_errors=True)
    small = out / "small"
    small.mkdir(parents=True)
    messages = _messages()
    options = BackendOptions(threads=threads, max_sequences=32, max_tokens=1024)
    manifest = artifact.manifest
    backend = GptqBackend(checkpoint, manifest.prompt, manifest.max_message_tokens, options)
    classifier = Classifier(backend, read_model(artifact.directory, manifest))
    prepared = [classifier.prepare(text) for text in messages]
    states = []
    for batch in batches(prepared, backend.info):
        states.append(backend.embed([message.tokens for message in batch]))
        print(f"\r{sum(map(len, states))} of {len(prepared)} messages", end="", file=sys.stderr)
    around = {token for text in _read_at_load(manifest) for token in backend.tokenise(text)}
    backend.close()
    first = json.loads((checkpoint / "config.json").read_text()).get("bos_token_id")
    tensors = load_file(checkpoint / "model.safetensors")
    table = tensors.pop(TABLE)
    used = sorted({token for message in prepared for token in message.tokens} | around | {first})
    tensors[f"{TABLE}.rows"] = table[used].contiguous()
    tensors[f"{TABLE}.places"] = torch.tensor(used, dtype=torch.int32)
    for number, part in enumerate(_parts(tensors, part_bytes)):
        (out / f"part-{number}").mkdir()
        save_file(part, out / f"part-{number}" / f"part-{number}.safetensors")
    for path in checkpoint.iterdir():
        if path.name == "tokenizer.json":
            (small / "tokenizer.json.xz").write_bytes(lzma.compress(path.read_bytes()))
        elif path.suffix == ".json":
            shutil.copyfile(path, small / path.name)
    for served in _served_files(artifact):
        shutil.copyfile(artifact.directory / served, small / served)
    expected = {"states": torch.from_numpy(np.concatenate(states)).half()}
    save_file(expected, small / "expected.safetensors")
    content = {
        "model": artifact.label,
        "texts": messages,
        "table_rows": len(table),
        "gguf_intents": _gguf_intents(artifact, messages, threads),
    }
    (small / "messages.json").write_text(json.dumps(content, ensure_ascii=False))
    for path in sorted(out.iterdir()):
        size = sum(file.stat().st_size for file in path.iterdir())
        print(f"\n{path}: {size / 1e6:.1f} MB", end="", file=sys.stderr)
    print(file=sys.stderr)


def _read_at_load(manifest: Manifest) -> Iterator[str]:
    """Prompts, and what a service must answer as it was published before it serves."""
    yield from (manifest.prompt.prefix, manifest.prompt.suffix)
    yield from (normalise(golden.text) for golden in manifest.golden)
    cart = manifest.cart
    if cart is None:
        return
    prompt = cart.prompt
    yield from (prompt.catalog_prefix, prompt.product_suffix, prompt.message_prefix)
    yield from (prompt.message_suffix, *prompt.slots)
    for golden in cart.golden:
        yield normalise_lines(golden.text)
        yield from map(normalise, golden.catalog)


def _served_files(artifact: Artifact) -> list[str]:
    """Manifest, heads, calibrations and notices: all but what weights are built from, and reports."""
    recipe, cart = artifact.recipe(), artifact.manifest.cart
    built_from = {*recipe.adapters, recipe.importance, recipe.vocabulary}
    served = [
        path
        for path in artifact.manifest.entries()
        if path not in built_from and not path.startswith(("report.", "carts.", "gptq/"))
    ]
    assert cart is None or {cart.heads, cart.calibration} <= set(served)
    return [MANIFEST, *served]


def _gguf_intents(artifact: Artifact, messages: list[str], threads: int) -> list[str] | None:
    """What the CPU service answers, where its weights have been built."""
    try:
        classifier = load_classifier(artifact, BackendOptions(threads=threads), "gguf")
    except WeightsNotBuilt as error:
        print(f"no answers of GGUF: {error}", file=sys.stderr)
        return None
    try:
        return [classifier.classify([classifier.prepare(m)])[0].intent for m in messages]
    finally:
        classifier.close()


def _messages() -> list[str]:
    from training.examples import WILD, read_labelled, read_seeds, take_split

    wild = [example.text for example in read_labelled(WILD, "wild")]
    dev = [example.text for example in take_split(read_seeds(), "dev")]
    rest = MESSAGES - len(wild)
    return [*wild, *dev[:: max(1, len(dev) // rest)][:rest]]


def _parts(tensors: dict[str, torch.Tensor], most: int) -> list[dict[str, torch.Tensor]]:
    parts: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if size + tensor.nbytes > most and parts[-1]:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    return parts


def unpack(carried: Path, into: Path) -> None:
    """Collect what came in this call; when all of it is there, ``into/gptq`` is a checkpoint."""
    into.mkdir(parents=True, exist_ok=True)
    for path in carried.glob("*/*"):
        shutil.copyfile(path, into / path.name)
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(into.glob("part-*.safetensors")):
        tensors |= load_file(path)
    try:
        messages = json.loads((into / "messages.json").read_text())
        rows, places = tensors.pop(f"{TABLE}.rows"), tensors.pop(f"{TABLE}.places").long()
        wanted = json.loads((into / "config.json").read_text())["num_hidden_layers"]
    except (OSError, KeyError):
        print("not all parts have come yet")
        return
    found = {name.split(".")[2] for name in tensors if name.startswith("model.layers.")}
    if len(found) < wanted:
        print(f"{len(found)} of {wanted} layers have come")
        return
    table = rows[torch.arange(messages["table_rows"]) % len(rows)].contiguous()
    table[places] = rows
    checkpoint = into / "gptq"
    shutil.rmtree(checkpoint, ignore_errors=True)
    checkpoint.mkdir()
    save_file({**tensors, TABLE: table}, checkpoint / "model.safetensors")
    for name in ("config.json", "quantize_config.json", "tokenizer_config.json"):
        shutil.copyfile(into / name, checkpoint / name)
    tokeniser = lzma.decompress((into / "tokenizer.json.xz").read_bytes())
    (checkpoint / "tokenizer.json").write_bytes(tokeniser)
    print(f"{publish(into)}: its model is published whole, with the checkpoint in it")
    print(f"{checkpoint}: {sum(p.stat().st_size for p in checkpoint.iterdir()) / 1e6:.0f} MB")


def publish(into: Path) -> Path:
    """``into/store``: the artifact with the checkpoint in it, published whole, for the service to serve.

    What weights are built from, and reports, stay where they are.
    """
    manifest = Manifest.model_validate_json((into / MANIFEST).read_text())
    store = into / "store"
    shutil.rmtree(store, ignore_errors=True)
    directory = store / manifest.name / manifest.version
    shutil.copytree(into / "gptq", directory / "gptq")
    paths = [path for path in manifest.entries() if (into / path).is_file()]
    for path in paths:
        shutil.copyfile(into / path, directory / path)
    paths += sorted(f"gptq/{path.name}" for path in (into / "gptq").iterdir())
    changes = {
        "format": "gptq",
        "weights": None,
        "files": tuple(describe_file(directory, path) for path in paths),
    }
    write_manifest(directory, manifest.model_copy(update=changes))
    return store


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    here = commands.add_parser("pack")
    here.add_argument("out", type=Path)
    here.add_argument("--store", type=Path, default=Path("model_store"))
    here.add_argument("--name", default="storefront")
    here.add_argument("--checkpoint", type=Path, help="By default the one that is served.")
    here.add_argument("--threads", type=int, default=1)
    here.add_argument("--part-mb", type=int, default=17, help="Megabytes that a part has at most.")
    there = commands.add_parser("unpack")
    there.add_argument("carried", type=Path)
    there.add_argument("into", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    if given.command == "pack":
        pack(
            given.store,
            given.name,
            given.checkpoint,
            given.out,
            given.threads,
            given.part_mb * 1_000_000,
        )
    else:
        unpack(given.carried, given.into)
