"""From a transformers checkpoint to the ONNX graph that OnnxRunner runs."""

import json
import os
import subprocess
import sys
from collections import deque
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from inference.engine.onnx import OnnxRunner
from inference.engine.prepare import rowwise
from inference.engine.prepare.calibration import LAST_HIDDEN, Ranges, Reading, save
from inference.engine.prepare.folder import PrepareFailed, Progress
from inference.engine.prepare.prune import prune
from inference.engine.prepare.quality import compare, write_quality

MODEL = "model.onnx"
_BUILDER = "onnxruntime_genai.models.builder"
_SEQLENS, _TOTAL = "seqlens_k", "total_sequence_length"


def export(
    checkpoint: Path, folder: Path, *, quantization: str, progress: Progress, pruned: float = 0.0
) -> None:
    """Write `folder/model.onnx`, its data and its report from a checkpoint folder.

    Raises PrepareFailed.

    `quantization` is none (fp32), int8 (see rowwise) or int4 (weights alone, the output layer's in
    8 bit); a row never depends on its neighbours.
    """
    built = checkpoint / "built"
    _build(checkpoint, built, progress)
    progress("reshaping the graph", 0.45)
    model = onnx.load(built / MODEL)
    reshape(model)
    progress("reading a text in full precision", 0.5)
    reading = Reading(model, checkpoint, layers=True)
    ranges, reference = reading.ranges(), reading.logits()
    del reading
    if pruned:
        prune(model, ranges, pruned)
    progress(f"quantizing: {quantization}", 0.65)
    _quantize(model, ranges, quantization)
    progress("writing the model", 0.75)
    save(model, folder / MODEL)
    progress("measuring its quality", 0.8)
    made = Reading(model, checkpoint).logits()
    runner = OnnxRunner(folder / MODEL, slots=8, context=64, threads=2)
    write_quality(folder, compare(reference, made, runner, folder.glob(f"{MODEL}*")))
    for name in (MODEL, f"{MODEL}.data"):
        (folder / name).chmod(0o644)


def export_for_device(checkpoint: Path, folder: Path, *, provider: str, progress: Progress) -> None:
    """Write the same in 16 bit for `provider`, cuda or tensorrt: needs no such device here.

    Attention is one node that writes its cache in place; TensorRT gets only nodes that it knows
    beside it. The report is measured on the CPU, and has no speeds.
    """
    full = checkpoint / "built"
    _build(checkpoint, full, lambda doing, share: progress(doing, share / 2))
    progress("reading a text in full precision", 0.25)
    model = onnx.load(full / MODEL)
    reshape(model)
    reference = Reading(model, checkpoint).logits()
    half = checkpoint / "half"
    _build(checkpoint, half, lambda doing, share: progress(doing, 0.4 + share / 2), half=True)
    progress("reshaping the graph", 0.7)
    model = onnx.load(half / MODEL)
    reshape(model, join_silu=provider != "tensorrt")
    progress("writing the model", 0.75)
    save(model, folder / MODEL)
    progress("measuring its quality", 0.8)
    made = Reading(model, checkpoint).logits()
    write_quality(folder, compare(reference, made, None, folder.glob(f"{MODEL}*")))
    for name in (MODEL, f"{MODEL}.data"):
        (folder / name).chmod(0o644)


def reshape(model: ModelProto, *, join_silu: bool = True) -> None:
    """What the builder leaves to be wished, mended in place.

    Lengths become inputs instead of a mask; the embedding a table of its own, as the output
    layer's weights get quantized; logits are made for the last position alone; the cache's head
    size is written into its inputs' shapes.
    """
    graph = model.graph
    attentions = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    for node in attentions:
        node.input[5], node.input[6] = _SEQLENS, _TOTAL
    _replace_input(graph, "attention_mask")
    _split_embedding(graph)
    if join_silu:
        _join_silu(graph)
    _take_last(graph)
    rotary = next(one for one in graph.initializer if one.name == attentions[0].input[7])
    for value in graph.input:
        if value.name.startswith("past_key_values."):
            value.type.tensor_type.shape.dim[3].dim_value = 2 * rotary.dims[1]
    _prune(graph)


def _build(checkpoint: Path, built: Path, progress: Progress, *, half: bool = False) -> None:
    """Run the builder, offline; it says which layer it reads. `half`: 16 bit, for GPUs."""
    command = [sys.executable, "-m", _BUILDER, "-m", checkpoint.name, "-i", str(checkpoint)]
    command += ["-o", str(built), "-c", str(built / "cache")]
    command += ["-p", "fp16", "-e", "cuda"] if half else ["-p", "fp32", "-e", "cpu"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    said = deque[str](maxlen=15)
    layers = json.loads((checkpoint / "config.json").read_text())["num_hidden_layers"]
    doing = "exporting to ONNX"
    progress(doing, 0.0)
    with subprocess.Popen(  # noqa: S603  our own interpreter and paths
        command,
        env=offline,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as child:
        try:
            for line in child.stdout or ():
                said.append(line.rstrip())
                if line.startswith("Reading layer "):
                    progress(doing, 0.1 + 0.3 * int(line.split()[-1]) / layers)
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        raise PrepareFailed("\n  ".join(["The export to ONNX failed; it ends:", *said]))


def _quantize(model: ModelProto, ranges: Ranges, quantization: str) -> None:
    if quantization == "int8":
        rowwise.quantize(model, ranges)
    elif quantization == "int4":
        rowwise.quantize_weights(model)


def _replace_input(graph: GraphProto, old: str) -> None:
    graph.input.remove(next(value for value in graph.input if value.name == old))
    graph.input.append(helper.make_tensor_value_info(_SEQLENS, TensorProto.INT32, ["batch_size"]))
    graph.input.append(helper.make_tensor_value_info(_TOTAL, TensorProto.INT32, []))


def _split_embedding(graph: GraphProto) -> None:
    """Where embedding and output layer share their weights: a copy, already transposed."""
    look_up = next(node for node in graph.node if "input_ids" in node.input)
    made_by = {output: node for node in graph.node for output in node.output}
    transpose = made_by.get(look_up.input[0])
    if transpose is None:
        return
    shared = next(one for one in graph.initializer if one.name == transpose.input[0])
    table = np.ascontiguousarray(numpy_helper.to_array(shared).T)
    graph.initializer.append(numpy_helper.from_array(table, "embed_tokens.weight"))
    look_up.input[0] = "embed_tokens.weight"


def _join_silu(graph: GraphProto) -> None:
    """x · sigmoid(x) in one node."""
    made_by = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        gate = made_by.get(node.input[1]) if node.op_type == "Mul" else None
        if gate is not None and gate.op_type == "Sigmoid" and gate.input[0] == node.input[0]:
            node.op_type, node.domain = "QuickGelu", "com.microsoft"
            node.attribute.append(helper.make_attribute("alpha", 1.0))
            del node.input[1]


def _take_last(graph: GraphProto) -> None:
    logits = next(value for value in graph.output if value.name == "logits")
    head = next(node for node in graph.node if "logits" in node.output)
    graph.initializer.append(numpy_helper.from_array(np.array(-1, np.int64), "last"))
    last = helper.make_node("Gather", [head.input[0], "last"], [LAST_HIDDEN], axis=1)
    head.input[0] = LAST_HIDDEN
    graph.node.insert(list(graph.node).index(head), last)
    del logits.type.tensor_type.shape.dim[1]


def _prune(graph: GraphProto) -> None:
    """Drop nodes that nothing reads any more."""
    outputs = {value.name for value in graph.output}
    while dead := _dead(graph, outputs):
        for node in dead:
            graph.node.remove(node)


def _dead(graph: GraphProto, outputs: set[str]) -> list[NodeProto]:
    read = outputs.union(*(node.input for node in graph.node))
    return [node for node in graph.node if not read.intersection(node.output)]
