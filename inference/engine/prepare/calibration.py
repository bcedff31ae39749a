"""A graph read from the inside: the range of what each linear layer reads, the logits of a text."""

import json
import tempfile
from collections.abc import Callable
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

LAST_HIDDEN = "last_hidden"
"""What the output layer reads: the last position alone."""

_WINDOW = 256


def read(name: str) -> str:
    """One of the texts that ship: `calibration` or `measured`."""
    return (files(__package__) / "texts" / f"{name}.txt").read_text("utf-8")


def logits_of_text(
    tokenizer: Tokenizer, run: Callable[[list[int]], NDArray[np.float32]]
) -> tuple[list[int], NDArray[np.float32]]:
    """The tokens of the measured text that were predicted, and from which logits.

    `run` makes the logits [tokens, vocabulary] of a sequence that begins with an empty cache.
    """
    following: list[int] = []
    rows = []
    for window in _windows(tokenizer.encode(read("measured"), add_special_tokens=False).ids):
        rows.append(run(window)[:-1].copy())
        following += window[1:]
    return following, np.concatenate(rows)


class Reading:
    """A reshaped graph, opened so that every position's logits can be seen, and what layers read.

    Closing is by garbage collection; the graph itself stays as it was.
    """

    def __init__(self, model: ModelProto, checkpoint: Path, *, layers: bool = False) -> None:
        self._checkpoint = checkpoint
        self._tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        linear = {node.input[0] for node in model.graph.node if node.op_type == "MatMul"}
        self._watched = sorted(linear - {LAST_HIDDEN}) if layers else []
        self._session = _opened(model, self._watched)

    def ranges(self) -> Ranges:
        """Over the calibration text.

        It is read in windows, and paragraph by paragraph behind the token that begins a
        conversation: a first token has by far the largest activations.
        """
        found: Ranges = {}
        for tokens in self._sequences():
            values = self._session.run(self._watched, _inputs(self._session, tokens))
            for name, value in zip(self._watched, values, strict=True):
                largest = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
                found[name] = np.maximum(found.get(name, largest), largest)
        return found

    def logits(self) -> tuple[list[int], NDArray[np.float32]]:
        """The tokens of the measured text that were predicted, and from which logits."""
        return logits_of_text(
            self._tokenizer,
            lambda window: self._session.run(["logits"], _inputs(self._session, window))[0][
                0
            ].astype(np.float32),
        )

    def _sequences(self) -> list[list[int]]:
        config = json.loads((self._checkpoint / "config.json").read_text())
        begin = config.get("bos_token_id") or 0
        text = read("calibration")
        paragraphs = [[begin, *self._encode(one)][:_WINDOW] for one in text.split("\n\n")]
        return _windows(self._encode(text)) + paragraphs

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _opened(model: ModelProto, watched: list[str]) -> ort.InferenceSession:
    """A session of a copy that makes logits for every position and shows the watched values."""
    copy = ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    gather = next(node for node in graph.node if LAST_HIDDEN in node.output)
    head = next(node for node in graph.node if LAST_HIDDEN in node.input)
    head.input[0] = gather.input[0]
    graph.node.remove(gather)
    logits = next(value for value in graph.output if value.name == "logits")
    kind = logits.type.tensor_type.elem_type
    logits.CopyFrom(helper.make_tensor_value_info("logits", kind, None))
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in watched
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "opened.onnx"
        save(copy, path)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        return ort.InferenceSession(path, options, ["CPUExecutionProvider"])


def _windows(tokens: list[int]) -> list[list[int]]:
    starts = range(0, len(tokens) - 1, _WINDOW)
    return [tokens[start : start + _WINDOW] for start in starts]


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
            half = node.type == "tensor(float16)"
            feeds[node.name] = np.zeros(shape, np.float16 if half else np.float32)
    return feeds
