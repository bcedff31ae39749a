"""Continuous batching over a language model. Pure: knows no web, queue, database or tenant's money.

Importing it loads numpy and tokenizers, never a machine-learning framework; a runner is imported by
`load_engine` when its model needs it.
"""

from inference.engine.delta import Delta, FinishReason, Outcome
from inference.engine.engine import Engine, EngineClosed, EngineStats
from inference.engine.loading import load_engine
from inference.engine.manifest import Manifest, NotPrepared, read_manifest, write_manifest
from inference.engine.runner import Logits, Runner
from inference.engine.text import ChatRefused, Detokenizer, Text, load_text
from inference.engine.work import ContextOverflow, Prompt, Sampling, Work

__all__ = [
    "ChatRefused",
    "ContextOverflow",
    "Delta",
    "Detokenizer",
    "Engine",
    "EngineClosed",
    "EngineStats",
    "FinishReason",
    "Logits",
    "Manifest",
    "NotPrepared",
    "Outcome",
    "Prompt",
    "Runner",
    "Sampling",
    "Text",
    "Work",
    "load_engine",
    "load_text",
    "read_manifest",
    "write_manifest",
]
