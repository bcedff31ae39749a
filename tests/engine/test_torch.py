"""The torch runner: the tiny Llama, other architectures, every way to batch; a GPU where one is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.engine import Logits, NotPrepared, load_engine
from inference.engine.torch import Batching, TorchRunner
from tests.engine.conftest import CONTEXT
from tests.engine.parts import solo, work

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.timeout(240)

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU here")
DRAWS = np.random.default_rng(5)
PROMPTS = [DRAWS.integers(3, 260, length).tolist() for length in (5, 40, 17, 70, 1, 64, 2, 21)]


def runner(folder: Path, **options: Any) -> TorchRunner:
    return TorchRunner(
        folder, **{"slots": 8, "context": CONTEXT, "threads": 1, "device": "cpu", **options}
    )


def prefilled(one: TorchRunner, slot: int, tokens: list[int]) -> Logits:
    for start in range(0, len(tokens), 32):
        logits = one.prefill(slot, tokens[start : start + 32], start)
    return logits.copy()


def reference(checkpoint: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint)


def expected(model: Any, tokens: list[int]) -> Logits:
    """Logits after each of the tokens."""
    with torch.no_grad():
        found: Logits = model(torch.tensor([tokens])).logits[0].numpy()
    return found


def test_greedy_answers_equal_transformers(tiny: Path) -> None:
    model = reference(tiny / "checkpoint")
    engine = load_engine(tiny / "torch-none", slots=4, threads=1, device="cpu")
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=20,
            pad_token_id=2,
        )
        answer = solo(engine, work(prompt=prompt, max_tokens=20))
        assert answer.tokens == out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("batching", list(Batching))
def test_logits_equal_transformers_within_a_ten_thousandth(tiny: Path, batching: Batching) -> None:
    """In ragged batches whose rows come and go."""
    model, one = reference(tiny / "checkpoint"), runner(tiny / "checkpoint", batching=batching)
    told = [[*prompt, *DRAWS.integers(3, 260, 30).tolist()] for prompt in PROMPTS]
    rows = [expected(model, tokens) for tokens in told]
    for slot, prompt in enumerate(PROMPTS):
        first = prefilled(one, slot, prompt)
        assert np.abs(first - rows[slot][len(prompt) - 1]).max() < 1e-4
    for step in range(30):
        slots = [slot for slot in range(8) if step < 10 or slot in (1, 3, 6)]
        places = [len(PROMPTS[slot]) + step for slot in slots]
        tokens = [told[slot][place] for slot, place in zip(slots, places, strict=True)]
        for slot, place, row in zip(slots, places, one.decode(slots, tokens, places), strict=True):
            assert np.abs(row - rows[slot][place]).max() < 1e-4


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batching", [Batching.single, Batching.fixed])
def test_a_rows_bits_depend_on_no_neighbour(
    tiny: Path, batching: Batching, threads: int, quantization: str
) -> None:
    options = {"batching": batching, "threads": threads, "quantization": quantization}
    one = runner(tiny / "checkpoint", **options)
    for slot, prompt in enumerate(PROMPTS):
        prefilled(one, slot, prompt)
    lengths = [len(prompt) for prompt in PROMPTS]
    together = one.decode(range(8), [50] * 8, lengths).copy()
    for few in ([0], [7], [2, 5], [0, 1, 2, 4, 6]):
        again = one.decode(few, [50] * len(few), [lengths[slot] for slot in few])
        assert (again == together[few]).all()


def test_a_copied_prefix_goes_on_as_its_source_does(tiny: Path) -> None:
    one = runner(tiny / "checkpoint")
    prefilled(one, 2, PROMPTS[3])
    one.copy(2, 9, 64)
    one.copy(9, 5, 64)
    assert (one.prefill(5, PROMPTS[3][64:], 64) == one.prefill(2, PROMPTS[3][64:], 64)).all()


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Mistral", "Phi3", "GPTNeoX"])
def test_other_architectures_run_as_transformers_does(tmp_path: Path, kind: str) -> None:
    """Mistral's with a sliding window shorter than the text."""
    checkpoint = tmp_path / kind
    save(checkpoint, kind)
    tokens = DRAWS.integers(3, 260, 90).tolist()
    rows = expected(reference(checkpoint), tokens)
    one = runner(checkpoint)
    assert np.abs(prefilled(one, 3, tokens[:-1]) - rows[-2]).max() < 1e-4
    assert np.abs(one.decode([3], tokens[-1:], [89]) - rows[-1]).max() < 1e-4


def save(folder: Path, kind: str) -> None:
    import transformers

    torch.manual_seed(1)
    window = {"sliding_window": 40} if kind == "Mistral" else {}
    heads = {} if kind == "GPTNeoX" else {"num_key_value_heads": 2}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
        pad_token_id=0,
        **heads,
        **window,
    )
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)


def test_fewer_bits_stay_near_the_full_precision(tiny: Path) -> None:
    """The shares by which logits may differ, on random weights, the least forgiving there are."""
    whole = prefilled(runner(tiny / "checkpoint"), 0, PROMPTS[5])
    for quantization, share in (("int8", 0.1), ("int4", 0.8)):
        fewer = prefilled(runner(tiny / "checkpoint", quantization=quantization), 0, PROMPTS[5])
        assert np.linalg.norm(fewer - whole) < share * np.linalg.norm(whole)


def test_a_gpu_that_is_not_there_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NotPrepared, match="no GPU"):
        load_engine(tiny / "torch-none", device="cuda")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotPrepared, match="transformers"):
        runner(tmp_path)


@on_gpu
@pytest.mark.parametrize("batching", [Batching.bucketed, Batching.fixed])
@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
def test_a_gpus_logits_are_near_the_cpus(tiny: Path, batching: Batching, quantization: str) -> None:
    """Recorded graphs, played twice; bfloat16 has three digits."""
    cpu = runner(tiny / "checkpoint", quantization=quantization)
    gpu = runner(tiny / "checkpoint", quantization=quantization, device="cuda", batching=batching)
    for slot, prompt in enumerate(PROMPTS):
        prefilled(cpu, slot, prompt)
        prefilled(gpu, slot, prompt)
    for step in range(2):
        places = [len(prompt) + step for prompt in PROMPTS]
        near = gpu.decode(range(8), [50] * 8, places)
        far = cpu.decode(range(8), [50] * 8, places)
        assert np.linalg.norm(near - far) < 0.05 * np.linalg.norm(far)


@on_gpu
def test_batched_answers_equal_solo_answers_on_a_gpu(tiny: Path) -> None:
    one = runner(tiny / "checkpoint", device="cuda", batching=Batching.fixed)
    for slot, prompt in enumerate(PROMPTS):
        prefilled(one, slot, prompt)
    lengths = [len(prompt) for prompt in PROMPTS]
    together = one.decode(range(8), [50] * 8, lengths).copy()
    assert (one.decode([3], [50], lengths[3:4]) == together[3:4]).all()
