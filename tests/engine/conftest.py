"""A tiny random Llama, made on the fly and exported as the real model is; and the real one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from inference.engine import Manifest, load_engine, write_manifest
from inference.engine.engine import Engine
from inference.engine.native.library import load_library
from inference.engine.prepare import prepare
from inference.engine.prepare.export import export, export_for_device
from inference.engine.prepare.folder import locked
from inference.engine.prepare.packing import pack_checkpoint

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT = 256


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    """The kernels, so that no test's time includes their compilation."""
    load_library()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Folders of the tiny model, one for all xdist workers: its `checkpoint`; exported in full
    precision and in 8 bit as `none` and `int8`, for GPUs as `cuda`; for PyTorch as `torch-…`; as
    `native`."""
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "tiny"
    with locked(root, lambda doing, share: None):
        if not root.exists():
            checkpoint = root / "checkpoint"
            _save_checkpoint(checkpoint)
            for quantization in ("none", "int8"):
                _export(checkpoint, root / quantization, quantization)
            _pack(checkpoint, root / "native")
            _export_half(checkpoint, root / "cuda")
            for quantization in ("none", "int8", "int4"):
                _keep(checkpoint, root / f"torch-{quantization}", quantization)
    return root


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds all but the model."""
    folder = tmp_path_factory.mktemp("text")
    _save_text(folder)
    write_manifest(folder, _manifest("none"))
    return folder


@pytest.fixture(params=["native", "none", "int8", "torch-none", "torch-int8", "torch-int4"])
def tiny_engine(tiny: Path, request: pytest.FixtureRequest) -> Engine:
    """An engine of eight slots on the tiny model, by each runner in each precision."""
    threads = 1 if request.param.startswith("torch") else 2
    return load_engine(tiny / request.param, slots=8, threads=threads, device="cpu")


@pytest.fixture(scope="session")
def real(request: pytest.FixtureRequest) -> Path:
    """The model that ships, prepared in var/ unless it is there already."""
    models_folder = request.config.rootpath / "var" / "models"
    return models_folder / prepare("smollm2-135m-instruct", models_folder).name


def _save_checkpoint(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=_tokenizer().get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=_tokenizer()).save_pretrained(folder)


def _export(checkpoint: Path, folder: Path, quantization: str) -> None:
    folder.mkdir()
    export(checkpoint, folder, quantization=quantization, progress=lambda doing, share: None)
    _save_text(folder)
    write_manifest(folder, _manifest(quantization))


def _export_half(checkpoint: Path, folder: Path) -> None:
    folder.mkdir()
    export_for_device(checkpoint, folder, provider="cuda", progress=lambda doing, share: None)
    _save_text(folder)
    write_manifest(folder, replace(_manifest("fp16"), provider="cuda"))


def _pack(checkpoint: Path, folder: Path) -> None:
    folder.mkdir()
    pack_checkpoint(checkpoint, folder, lambda doing, share: None)
    _save_text(folder)
    write_manifest(folder, _manifest("int8", backend="native"))


def _keep(checkpoint: Path, folder: Path, quantization: str) -> None:
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(checkpoint / name, folder / name)
    _save_text(folder)
    write_manifest(folder, _manifest(quantization, backend="torch"))


def _save_text(folder: Path) -> None:
    _tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def _manifest(quantization: str, *, backend: str = "onnx") -> Manifest:
    return Manifest("tiny", backend, CONTEXT, (2,), "1", quantization, 0)


def _tokenizer() -> Tokenizer:
    """Byte-level BPE: three special tokens, every byte, and a few merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "w"), ("Ã", "©"), ("Ċ", "Ċ")]
    pieces = [*letters, *("".join(pair) for pair in merges)]
    vocabulary = {piece: number + len(SPECIAL) for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    raw = json.loads(tokenizer.to_str())
    raw["added_tokens"] = [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number, token in enumerate(SPECIAL)
    ]
    raw["model"]["vocab"] |= {token: number for number, token in enumerate(SPECIAL)}
    return Tokenizer.from_str(json.dumps(raw))
