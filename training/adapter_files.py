"""Adapters as runs keep them; the format is the artifacts' own (:mod:`app.artifacts.adapter_file`)."""

from __future__ import annotations

from app.artifacts.adapter_file import Adapter, read_adapter, write_adapter

__all__ = ["ADAPTER", "IMPORTANCE", "Adapter", "read_adapter", "write_adapter"]

ADAPTER = "adapter.safetensors"
IMPORTANCE = "importance.safetensors"
"""Mean squared inputs of the matrices, beside the adapter of a version whose weights are quantised."""
