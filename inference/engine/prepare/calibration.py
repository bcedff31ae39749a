"""What goes into each linear layer of a model when it reads a text: the ranges to quantize for."""

import json
import tempfile
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from tokenizers import Tokenizer

Ranges = dict[str, NDArray[np.float32]]
"""The largest magnitude seen in each channel, by the name of the value."""

_WINDOW = 256


def read(name: str) -> str:
    """One of the texts that ship: `calibration` or `measured`."""
    return (files(__package__) / "texts" / f"{name}.txt").read_text("utf-8")


def calibrate(model: ModelProto, checkpoint: Path) -> Ranges:
    """Run the reshaped full-precision graph over the shipped text.

    The text is read in windows, and paragraph by paragraph behind the token that begins a
    conversation: a first token has by far the largest activations.
    """
    watched = sorted({node.input[0] for node in model.graph.node if node.op_type == "MatMul"})
    session = _watching(model, watched)
    ranges: Ranges = {}
    for tokens in _sequences(checkpoint):
        found = session.run(watched, _inputs(session, tokens))
        for name, values in zip(watched, found, strict=True):
            largest = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            ranges[name] = np.maximum(ranges.get(name, largest), largest)
    return ranges


def _watching(model: ModelProto, watched: list[str]) -> ort.InferenceSession:
    """A session that shows the watched values; the graph is left as it was."""
    extra = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in watched]
    before = len(model.graph.output)
    model.graph.output.extend(extra)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "watched.onnx"
            save(model, path)
            options = ort.SessionOptions()
            options.log_severity_level = 3
            return ort.InferenceSession(path, options, ["CPUExecutionProvider"])
    finally:
        del model.graph.output[before:]


def save(model: ModelProto, path: Path) -> None:
    """Write a graph and, beside it, its weights; `model` keeps them."""
    copy = ModelProto()
    copy.CopyFrom(model)
    onnx.save(
        copy,
        path,
        save_as_external_data=True,
        location=f"{path.name}.data",
        size_threshold=1024,
    )


def _sequences(checkpoint: Path) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    begin = json.loads((checkpoint / "config.json").read_text()).get("bos_token_id") or 0
    text = read("calibration")
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    windows = [whole[start : start + _WINDOW] for start in range(0, len(whole), _WINDOW)]
    paragraphs = [
        [begin, *tokenizer.encode(paragraph, add_special_tokens=False).ids][:_WINDOW]
        for paragraph in text.split("\n\n")
    ]
    return windows + paragraphs


def _inputs(session: ort.InferenceSession, tokens: list[int]) -> dict[str, NDArray[np.generic]]:
    """One sequence and an empty cache of its length."""
    feeds: dict[str, NDArray[np.generic]] = {
        "input_ids": np.array([tokens], np.int64),
        "seqlens_k": np.array([len(tokens) - 1], np.int32),
        "total_sequence_length": np.array(len(tokens), np.int32),
    }
    for node in session.get_inputs():
        if node.name.startswith("past_key_values."):
            shape = (1, int(node.shape[1]), len(tokens), int(node.shape[3]))
            feeds[node.name] = np.zeros(shape, np.float32)
    return feeds
