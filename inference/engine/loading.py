"""From a prepared model's folder to an engine."""

import os
from collections.abc import Mapping
from pathlib import Path

from inference.engine.echo import EchoRunner
from inference.engine.embedder import Embedder
from inference.engine.engine import Engine
from inference.engine.manifest import Manifest, NotPrepared, read_manifest
from inference.engine.native.library import NoKernels
from inference.engine.runner import Runner
from inference.engine.text import load_text


def load_engine(
    folder: Path,
    *,
    slots: int = 32,
    threads: int | None = None,
    device: str | None = None,
    cache_tokens: int | None = None,
    adapters: Mapping[str, Path] | None = None,
) -> Engine:
    """An engine over the model in `folder`, which its manifest's backend runs.

    `slots` is how many requests run at once; `threads` how many compute (default: one for each
    CPU this process may use); `device` where the torch backend does (default: a GPU if there is
    one); `cache_tokens` how many tokens the cache holds at most (default: what slots and shelves
    can), never less than a context; `adapters` are folders of LoRA adapters by name, of the torch
    backend alone. Raises NotPrepared.
    """
    manifest = read_manifest(folder)
    threads = threads or len(os.sched_getaffinity(0))
    if cache_tokens is not None:
        cache_tokens = max(cache_tokens, manifest.context)
    try:
        runner = load_runner(
            folder, manifest, slots=slots, threads=threads, device=device, adapters=adapters
        )
        drafts = 0 if manifest.backend == "echo" else 8
        text = load_text(folder)
        return Engine(runner, text, slots=slots, cache_tokens=cache_tokens, drafts=drafts)
    except NoKernels as error:
        raise NotPrepared(str(error)) from error


def load_embedder(folder: Path, *, threads: int | None = None) -> Embedder:
    """What makes vectors with the sentence encoder in `folder`. Raises NotPrepared."""
    from inference.engine.encoder import OnnxEncoder

    manifest = read_manifest(folder)
    if manifest.backend != "encoder":
        raise NotPrepared(f"{folder} holds no sentence encoder, but a model of {manifest.backend}")
    threads = threads or len(os.sched_getaffinity(0))
    encoder = OnnxEncoder(folder / "model.onnx", context=manifest.context, threads=threads)
    return Embedder(encoder)


def load_runner(
    folder: Path,
    manifest: Manifest,
    *,
    slots: int,
    threads: int,
    device: str | None = None,
    adapters: Mapping[str, Path] | None = None,
) -> Runner:
    """What runs the model in `folder`, by its manifest's backend. Raises NotPrepared, NoKernels."""
    if adapters and manifest.backend != "torch":
        raise NotPrepared(f"{folder} runs by {manifest.backend}; adapters need the torch backend")
    match manifest.backend:
        case "echo":
            return EchoRunner(slots=slots, context=manifest.context)
        case "native":
            from inference.engine.native import NativeRunner

            return NativeRunner(folder, slots=slots, context=manifest.context, threads=threads)
        case "onnx" if manifest.provider != "cpu":
            from inference.engine.onnx_device import DeviceOnnxRunner

            return DeviceOnnxRunner(
                folder / "model.onnx",
                provider=manifest.provider,
                slots=slots,
                context=manifest.context,
                threads=threads,
            )
        case "onnx":
            from inference.engine.onnx import OnnxRunner

            return OnnxRunner(
                folder / "model.onnx", slots=slots, context=manifest.context, threads=threads
            )
        case "torch":
            from inference.engine.torch import TorchRunner

            return TorchRunner(
                folder,
                slots=slots,
                context=manifest.context,
                threads=threads,
                quantization=manifest.quantization,
                device=device,
                adapters=adapters,
            )
        case other:
            raise NotPrepared(f"{folder} needs the backend {other!r}, which this version lacks")
