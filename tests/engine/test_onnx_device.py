"""Graphs for GPUs: made here, run here on the CPU as far as it can, refused where they can't."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from inference.engine import Engine, Logits, NotPrepared, load_engine, load_text, read_manifest
from inference.engine.onnx_device import DeviceOnnxRunner
from inference.engine.prepare.export import reshape
from inference.engine.prepare.quality import read_quality
from inference.engine.providers import providers
from tests.engine.conftest import CONTEXT
from tests.engine.parts import finish, solo, work
from tests.engine.test_torch import PROMPTS, expected, reference

pytestmark = pytest.mark.timeout(240)


def runner(folder: Path) -> DeviceOnnxRunner:
    """The graph for CUDA, on the CPU."""
    return DeviceOnnxRunner(
        folder / "cuda" / "model.onnx", provider="cpu", slots=8, context=CONTEXT, threads=1
    )


def test_the_graph_keeps_its_weights_and_cache_in_16_bit(tiny: Path) -> None:
    graph = onnx.load(tiny / "cuda" / "model.onnx", load_external_data=False).graph
    assert {value.type.tensor_type.elem_type for value in graph.output} == {
        onnx.TensorProto.FLOAT16
    }
    assert "GroupQueryAttention" in {node.op_type for node in graph.node}
    quality = read_quality(tiny / "cuda")
    assert quality is not None
    assert abs(quality.rise) < 0.01
    assert all("tokens/s" not in name for name, _ in quality.rows())


def test_its_logits_are_full_precisions_within_a_twentieth(tiny: Path) -> None:
    """In ragged batches, on logits of about ±8."""
    model, one = reference(tiny / "checkpoint"), runner(tiny)
    told = [[*prompt, 50, 60, 70] for prompt in PROMPTS]
    rows = [expected(model, tokens) for tokens in told]
    for slot, prompt in enumerate(PROMPTS):
        for start in range(0, len(prompt), 32):
            logits = one.prefill(slot, prompt[start : start + 32], start)
        assert np.abs(logits - rows[slot][len(prompt) - 1]).max() < 0.05
    for step in range(3):
        slots = [0, 2, 5, 7] if step else range(8)
        places = [len(PROMPTS[slot]) + step for slot in slots]
        tokens = [told[slot][place] for slot, place in zip(slots, places, strict=True)]
        found: Logits = one.decode(slots, tokens, places)
        for slot, place, row in zip(slots, places, found, strict=True):
            assert np.abs(row - rows[slot][place]).max() < 0.05


def test_an_engine_runs_it_and_shares_what_it_has(tiny: Path) -> None:
    text = load_text(tiny / "none")
    engine = Engine(runner(tiny), text)
    works = [work(f"{n}", PROMPTS[3], max_tokens=8, seed=n, temperature=1.0) for n in range(4)]
    for each in works:
        engine.submit(each)
    together = finish(engine)
    assert together["3"].cached
    engine = Engine(runner(tiny), text)
    for each in works:
        assert solo(engine, each) == together[each.id]


def test_where_its_provider_is_missing_the_package_is_named(tiny: Path) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA's provider")
    assert read_manifest(tiny / "cuda").provider == "cuda"
    with pytest.raises(NotPrepared, match=r"made for cuda.*Install onnxruntime-gpu"):
        load_engine(tiny / "cuda")
    with pytest.raises(NotPrepared, match=r"tensorrt.*Install onnxruntime-gpu.*tensorrt"):
        providers("tensorrt", tiny)


def test_tensorrt_is_asked_first_and_cuda_runs_what_it_does_not_know(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: everything)
    names = [each if isinstance(each, str) else each[0] for each in providers("tensorrt", tiny)]
    assert names == everything
    assert providers("cuda", tiny) == everything[1:]


def test_tensorrts_graph_has_no_node_of_onnxruntimes_own_but_attention(tiny: Path) -> None:
    model = onnx.load(tiny / "checkpoint" / "half" / "model.onnx")
    reshape(model, join_silu=False)
    kinds = {node.op_type for node in model.graph.node if node.domain == "com.microsoft"}
    assert "QuickGelu" not in kinds
