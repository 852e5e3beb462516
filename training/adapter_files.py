"""Adapters as runs keep them; the format is the artifacts' own (:mod:`app.artifacts.adapter_file`)."""

from __future__ import annotations

from app.artifacts.adapter_file import Adapter, read_adapter, write_adapter

__all__ = ["ADAPTER", "Adapter", "read_adapter", "write_adapter"]

ADAPTER = "adapter.safetensors"
