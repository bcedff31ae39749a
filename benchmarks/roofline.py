"""What a decode step is made of, beside what this machine's memory and arithmetic would allow.

  .venv/bin/python benchmarks/roofline.py            1, 8 and 32 streams that hold 150 tokens each
  .venv/bin/python benchmarks/roofline.py --record

One thread. Each kind of node counts by the fastest tenth of its runs, so other work on the machine
distorts little. The floors: reading every weight that a step needs once, and the keys and values of
its streams, at the speed at which memory is read here; and two operations a weight and stream, at
the speed of one large 8-bit product.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from benchmarks.engine import ROOT, record

KINDS = {
    "MatMulIntegerToFloat": "linear layers",
    "MatMulNBits": "output layer",
    "GroupQueryAttention": "attention",
}
LENGTH = 150


def fastest(run: Callable[[], object], times: int = 7) -> float:
    """Seconds of CPU time."""
    found = []
    for _ in range(times):
        begin = time.thread_time()
        run()
        found.append(time.thread_time() - begin)
    return min(found)


def memory_speed() -> float:
    """Bytes a second that one thread reads."""
    values = np.ones(64 << 20, np.float32)
    return values.nbytes / fastest(values.max)


def arithmetic_speed() -> float:
    """Operations a second of one thread in a large product of bytes."""
    rows, inner, columns = 512, 1536, 1536
    weight = np.ones((inner, columns), np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [rows, inner])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [rows, columns])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), _options())
    feeds = {"x": np.ones((rows, inner), np.uint8)}
    return 2 * rows * inner * columns / fastest(lambda: session.run(None, feeds))


def step(model: Path, streams: int) -> dict[str, float]:
    """Seconds of a decode step by kind of node."""
    with tempfile.TemporaryDirectory() as folder:
        options = _options()
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        session = ort.InferenceSession(model, options, ["CPUExecutionProvider"])
        binding, caches = _bound(session, streams)
        for _ in range(60):
            session.run_with_iobinding(binding)
        events = json.loads(Path(session.end_profiling()).read_text())
        del caches
    times = defaultdict[tuple[str, str], list[int]](list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"], event["name"]].append(event["dur"])
    found = defaultdict[str, float](float)
    for (kind, _), durations in times.items():
        found[KINDS.get(kind, "all else")] += float(np.quantile(durations, 0.1)) / 1e6
    return dict(found)


def _bound(session: ort.InferenceSession, streams: int) -> tuple[ort.IOBinding, list[object]]:
    binding = session.io_binding()
    binding.bind_output("logits", "cpu")
    binding.bind_cpu_input("input_ids", np.full((streams, 1), 100, np.int64))
    binding.bind_cpu_input("seqlens_k", np.full(streams, LENGTH, np.int32))
    binding.bind_cpu_input("total_sequence_length", np.array(LENGTH + 1, np.int32))
    caches: list[object] = []
    for node in session.get_inputs():
        if node.name.startswith("past_key_values."):
            shape = (streams, node.shape[1], 512, node.shape[3])
            cache = np.full(shape, 0.1, np.float32)
            place = ("cpu", 0, np.float32, shape, cache.ctypes.data)
            binding.bind_input(node.name, *place)
            binding.bind_output(node.name.replace("past_key_values", "present"), *place)
            caches.append(cache)
    return binding, caches


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return options


def table(folder: Path) -> list[str]:
    """Markdown: floors and parts, in ms, for each number of streams."""
    memory, arithmetic = memory_speed(), arithmetic_speed()
    parameters = json.loads((folder / "manifest.json").read_text())["parameters"]
    row_bytes = 30 * 2 * 3 * 64 * 4
    lines = [
        f"One thread reads {memory / 1e9:.0f} GB/s and does {arithmetic / 1e9:.0f} "
        "thousand million operations on bytes a second.",
        "",
        "| streams | memory floor, ms | arithmetic floor, ms | linear layers | output layer "
        "| attention | all else | sum |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for streams in (1, 8, 32):
        parts = step(folder / "model.onnx", streams)
        floor = (parameters + streams * LENGTH * row_bytes) / memory
        cells = [floor, 2 * streams * parameters / arithmetic]
        cells += [parts.get(name, 0.0) for name in (*KINDS.values(), "all else")]
        cells.append(sum(parts.values()))
        lines.append(f"| {streams} | " + " | ".join(f"{c * 1e3:.1f}" for c in cells) + " |")
    return lines


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, default=ROOT / "var" / "models" / "smollm2-135m-instruct"
    )
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    chosen = parser.parse_args()
    lines = table(chosen.model)
    print("\n".join(lines))  # noqa: T201
    if chosen.record:
        record(lines, now=datetime.now(UTC), threads=1)


if __name__ == "__main__":
    main()
