"""Continuous batching over a language model. Pure: knows no web, queue, database or tenant's money.

Importing it loads numpy and tokenizers, never a machine-learning framework; a runner is imported by
`load_engine` when its model needs it.
"""

from inference.engine.delta import Delta, FinishReason, Logprob, Outcome
from inference.engine.engine import Engine, EngineClosed, EngineStats
from inference.engine.grammar import GrammarRefused, check
from inference.engine.loading import load_embedder, load_engine
from inference.engine.manifest import Manifest, NotPrepared, read_manifest, write_manifest
from inference.engine.runner import Logits, Runner
from inference.engine.text import ChatRefused, Detokenizer, Text, load_text, same_tokens
from inference.engine.texts import Texts, Vectors, vectors_of
from inference.engine.wordpiece import WordPieceText
from inference.engine.work import (
    MOST_ALTERNATIVES,
    ContextOverflow,
    Grammar,
    GrammarKind,
    Prompt,
    Sampling,
    Work,
)

__all__ = [
    "MOST_ALTERNATIVES",
    "ChatRefused",
    "ContextOverflow",
    "Delta",
    "Detokenizer",
    "Engine",
    "EngineClosed",
    "EngineStats",
    "FinishReason",
    "Grammar",
    "GrammarKind",
    "GrammarRefused",
    "Logits",
    "Logprob",
    "Manifest",
    "NotPrepared",
    "Outcome",
    "Prompt",
    "Runner",
    "Sampling",
    "Text",
    "Texts",
    "Vectors",
    "WordPieceText",
    "Work",
    "check",
    "load_embedder",
    "load_engine",
    "load_text",
    "read_manifest",
    "same_tokens",
    "vectors_of",
    "write_manifest",
]
