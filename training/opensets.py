"""The open data sets, read where they lie (``--data DIR``) and checked by sha256; never copied."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from app.artifacts.manifest import sha256_of
from app.classification.prompt import normalise
from app.domain import OUT_OF_SCOPE
from app.errors import EmptyText, FileDamaged
from training.examples import Example, distinct

SHA256: dict[str, str] = {
    "banking77/test.csv": "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
    "banking77/train.csv": "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
    "bitext/dev.csv": "d8bb2011de49a2fd7c12cf0c520e26cc266c8e28501906554a5e22a93e79d177",
    "bitext/test.csv": "e5b8984f88ff4e032dec929c93ab15e8165b439056cce665959a386fc14d06d5",
    "bitext/train.csv": "4360971d9ed1884ddc3480b66b50bd3a0ee4b0f5726d1baff6025c69fb854f07",
    "clinc150/data_full.json": "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0",
    "hwu64/test/label": "aec9b5c05528709ec48202dddd7ee1789536a5562866d91feef102d5d9476815",
    "hwu64/test/seq.in": "c0129df86114872dd58ac48448fd5559ed6679895b1938f469cf360f7c85ba79",
    "hwu64/train/label": "90e21d2f25cba02dd332b6cdb7d09d4fe178680b91a4469adf1790f753f7df2c",
    "hwu64/train/seq.in": "6f37991e7920711e3c5024f5f5ac535882b9da1df84e837d889c5a53ef91cd4f",
    "hwu64/train_10/label": "c40a013fa9b98df59c4a58e069cc543d003e89e2426633ab6e964f84f3773454",
    "hwu64/train_10/seq.in": "285193d07bb7fc7e26346924a55a991c581ad6445c2762b4beaf5ecd35df612a",
    "hwu64/valid/label": "aec9b5c05528709ec48202dddd7ee1789536a5562866d91feef102d5d9476815",
    "hwu64/valid/seq.in": "fa939bc5394f708691c3d4d5c03bb59fc8301af4cc72a73e9e32fcedafd4e3c2",
    "multidogo-fastfood/dev.tsv": "90c0667a1f743070ac26dd9b77e267096936d499c6359ae2ce0a258d034cc06c",
    "multidogo-fastfood/train.tsv": "1460d3096166fe756ea04033d4dd136389fdaf2de84e4ce8ee820990ae3c6bae",
    "powerplay11/v1/test.csv": "1a4bde924f924342f405ebdd468bbfb2955e76f2f63ec14efbf7bccf6b0eb485",
    "powerplay11/v1/train.csv": "af230d4aa97e2c01ac378222d3e466b9fddc48c4190bcc30e345e4ca85bf6517",
    "powerplay11/v2/test.csv": "a2d5d03202e8ca116444162560647d0a7633c622fa782c09fe5cb7e196d462a9",
    "powerplay11/v2/train.csv": "16847d06e62244ef902fe62a61261e8daec61d14335e535fcddf1752a8c8449b",
    "webshop-goals/goals.txt": "953bb07b6cfc5d4d138a556659b6efad5e9a49219ba49cf49e31b108b2c2d46b",
}
"""Path relative to the data directory -> digest of the file this recipe was written for."""

BITEXT_TO_STOREFRONT = {
    "cancel_order": "order_cancel",
    "change_order": "order_change",
    "change_shipping_address": "address_change",
    "set_up_shipping_address": "address_change",
    "check_cancellation_fee": "order_cancel",
    "check_invoice": "invoice",
    "get_invoice": "invoice",
    "check_payment_methods": "payment_methods",
    "check_refund_policy": "refund_policy",
    "complaint": "complaint",
    "contact_customer_service": "human_agent",
    "contact_human_agent": "human_agent",
    "create_account": "account_create",
    "registration_problems": "account_create",
    "delete_account": "account_delete",
    "edit_account": "account_edit",
    "switch_account": "account_edit",
    "recover_password": "password_reset",
    "delivery_options": "delivery_options",
    "delivery_period": "delivery_options",
    "get_refund": "refund_status",
    "track_refund": "refund_status",
    "newsletter_subscription": "newsletter",
    "payment_issue": "payment_problem",
    "place_order": "checkout",
    "review": "review",
    "track_order": "order_status",
}
"""Bitext's 27 intents in the storefront's words. Its utterances are synthetic: used in small doses."""

CLINC_SMALL_TALK = {"greeting", "goodbye", "thank_you", "are_you_a_bot"}
CLINC_AMBIGUOUS = {
    # In a shop these could well be meant for it, so they are neither intents nor negatives.
    "order", "order_status", "cancel", "yes", "no", "maybe", "repeat", "card_declined",
    "redeem_rewards", "rewards_balance", "what_can_i_ask_you", "who_do_you_work_for", "shopping_list",
    "shopping_list_update", "pay_bill", "report_fraud", "change_user_name", "what_is_your_name",
    "application_status", "change_language", "directions",
}  # fmt: skip
HWU_AMBIGUOUS = {
    "takeaway_order", "takeaway_query", "general_affirm", "general_negate", "general_confirm",
    "general_praise", "general_dontcare", "general_explain", "general_repeat", "general_commandstop",
    "lists_createoradd", "lists_remove", "lists_query", "email_addcontact",
}  # fmt: skip


def _open(data: Path, relative: str) -> Path:
    path = data / relative
    if not path.is_file():
        raise FileDamaged(f"{relative} is not in the data directory: see docs/data-card.md")
    if sha256_of(path) != SHA256[relative]:
        raise FileDamaged(
            f"{relative} is not the file this recipe was written for (sha256 differs)"
        )
    return path


def _clean(rows: Sequence[tuple[str, str]], origin: str) -> list[Example]:
    examples = []
    for text, intent in rows:
        try:
            examples.append(Example(normalise(text), intent, "en", origin))
        except EmptyText:
            continue
    return examples


def read_csv(path: Path, text: str, intent: str, origin: str) -> list[Example]:
    with path.open(encoding="utf-8", newline="") as stream:
        return _clean([(row[text], row[intent]) for row in csv.DictReader(stream)], origin)


def bitext(data: Path, split: str) -> list[Example]:
    return read_csv(_open(data, f"bitext/{split}.csv"), "utterance", "intent", "bitext")


def banking77(data: Path, split: str) -> list[Example]:
    return read_csv(_open(data, f"banking77/{split}.csv"), "text", "category", "banking77")


def powerplay11(data: Path, split: str, version: str = "v1") -> list[Example]:
    path = _open(data, f"powerplay11/{version}/{split}.csv")
    rows = read_csv(path, "sentence", "label", "powerplay11")
    return [
        replace(row, intent=OUT_OF_SCOPE) if row.intent == "NO_NODES_DETECTED" else row
        for row in rows
    ]


def clinc150(data: Path, split: str) -> list[Example]:
    """In-scope and ``oos`` rows of a split (``train``, ``val``, ``test``)."""
    content = json.loads(_open(data, "clinc150/data_full.json").read_bytes())
    rows = [(text, intent) for text, intent in content[split]]
    rows += [(text, OUT_OF_SCOPE) for text, _ in content[f"oos_{split}"]]
    return _clean(rows, "clinc150")


def hwu64(data: Path, split: str) -> list[Example]:
    texts = _open(data, f"hwu64/{split}/seq.in").read_text(encoding="utf-8").splitlines()
    intents = _open(data, f"hwu64/{split}/label").read_text(encoding="utf-8").splitlines()
    return _clean(list(zip(texts, intents, strict=True)), "hwu64")


def webshop_goals(data: Path) -> list[Example]:
    lines = _open(data, "webshop-goals/goals.txt").read_text(encoding="utf-8").splitlines()
    return _clean([(line, "product_search") for line in lines if line.strip()], "webshop-goals")


def multidogo(data: Path, split: str) -> list[Example]:
    path = _open(data, f"multidogo-fastfood/{split}.tsv")
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        rows = [(r["utterance"] or "", r["intent"] or "") for r in reader]
    return _clean([(text, intent) for text, intent in rows if intent], "multidogo")


def storefront_positives(data: Path, per_intent: int, seed: int) -> list[Example]:
    """Open rows that mean something in the storefront's taxonomy, a bounded dose of each."""
    rng = random.Random(seed)
    pools: dict[tuple[str, str], list[Example]] = {}
    for row in bitext(data, "train"):
        mapped = replace(row, intent=BITEXT_TO_STOREFRONT[row.intent])
        pools.setdefault(("bitext", mapped.intent), []).append(mapped)
    for row in clinc150(data, "train"):
        if row.intent in CLINC_SMALL_TALK:
            pools.setdefault(("clinc150", "small_talk"), []).append(
                replace(row, intent="small_talk")
            )
    pools["webshop-goals", "product_search"] = webshop_goals(data)
    return distinct(
        row for pool in pools.values() for row in rng.sample(pool, min(per_intent, len(pool)))
    )


def storefront_negatives(data: Path, split: str = "train") -> list[Example]:
    """Rows of assistants' data sets that a storefront does not serve."""
    banned = CLINC_SMALL_TALK | CLINC_AMBIGUOUS
    rows = [row for row in clinc150(data, split) if row.intent not in banned]
    if split == "train":
        rows += [row for row in hwu64(data, "train") if row.intent not in HWU_AMBIGUOUS]
    return distinct(replace(row, intent=OUT_OF_SCOPE) for row in rows)
