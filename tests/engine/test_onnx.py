"""The ONNX runner, on a tiny random Llama exported as the real model is."""

import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from inference.engine import Engine, FinishReason, Work, load_engine
from inference.engine.onnx import OnnxRunner
from inference.engine.prepare.calibration import save
from tests.engine.conftest import CONTEXT
from tests.engine.parts import Answers, finish, solo, work

pytestmark = pytest.mark.timeout(240)


def batch(count: int, *, max_tokens: int = 40) -> list[Work]:
    """Works of every kind, prompts of 1 to 120 tokens."""
    draws = np.random.default_rng(7)
    return [
        work(
            str(number),
            draws.integers(3, 260, int(draws.choice([1, 2, 31, 32, 33, 64, 65, 120]))).tolist(),
            max_tokens=int(draws.integers(2, max_tokens)),
            temperature=(0.0, 0.8, 1.5)[number % 3],
            top_p=(1.0, 0.9)[number % 2],
            seed=number,
        )
        for number in range(count)
    ]


def test_batched_answers_equal_solo_answers(tiny_engine: Engine) -> None:
    works = batch(24)
    alone = {each.id: solo(tiny_engine, each) for each in works}
    together = Answers()
    for each in works:
        tiny_engine.submit(each)
        together.take(tiny_engine.step())
    together.take_rest(tiny_engine)
    assert together == alone


def test_resumed_answers_equal_uninterrupted_ones(tiny_engine: Engine) -> None:
    works = batch(9)
    alone = {each.id: solo(tiny_engine, each) for each in works}
    for share in (0.0, 0.3, 0.7, 1.0):
        for each in works:
            tokens = alone[each.id].tokens
            emitted = tuple(tokens[: int(share * len(tokens))])
            tiny_engine.submit(
                Work(each.id, each.tenant, each.prompt, each.sampling, emitted=emitted)
            )
        answers = Answers()
        answers.take_rest(tiny_engine)
        for identifier, answer in answers.items():
            cut = int(share * len(alone[identifier].tokens))
            assert answer.tokens[cut:] == alone[identifier].tokens[cut:]
            assert alone[identifier].text.endswith(answer.text)
            assert answer.outcome == alone[identifier].outcome


def test_greedy_answers_equal_transformers(tiny: Path) -> None:
    import torch
    from transformers import LlamaForCausalLM

    reference = LlamaForCausalLM.from_pretrained(tiny / "checkpoint")
    engine = load_engine(tiny / "none", slots=4, threads=2)
    for each in batch(6):
        prompt = torch.tensor([each.prompt])
        out = reference.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=20,
            pad_token_id=2,
        )
        answer = solo(engine, work(prompt=each.prompt, max_tokens=20))
        assert answer.tokens == out[0, len(each.prompt) :].tolist()


def test_logits_equal_transformers_within_a_ten_thousandth(tiny: Path) -> None:
    import torch
    from transformers import LlamaForCausalLM

    reference = LlamaForCausalLM.from_pretrained(tiny / "checkpoint")
    runner = OnnxRunner(tiny / "none" / "model.onnx", slots=2, context=CONTEXT, threads=1)
    tokens = np.random.default_rng(1).integers(3, 260, 70).tolist()
    with torch.no_grad():
        expected = reference(torch.tensor([tokens])).logits[0, -2:].numpy()
    runner.prefill(1, tokens[:32], 0)
    first = runner.prefill(1, tokens[32:-1], 32).copy()
    second = runner.decode([1], tokens[-1:], [69])
    assert np.abs(np.concatenate([first, second]) - expected).max() < 1e-4


def test_slots_that_come_and_go_keep_to_themselves(tiny: Path) -> None:
    """Gaps between decoding rows are computed for nothing, then closed; nobody notices."""
    runner = OnnxRunner(tiny / "int8" / "model.onnx", slots=8, context=CONTEXT, threads=2)
    draws = np.random.default_rng(3)
    prompts = [draws.integers(3, 260, length).tolist() for length in (5, 40, 17, 33, 9, 64, 2, 21)]
    following = draws.integers(3, 260, (8, 60))
    solo_logits = []
    for prompt, tokens in zip(prompts, following, strict=True):
        runner.prefill(0, prompt, 0)
        row = [
            runner.decode([0], [token], [len(prompt) + n])[0].copy()
            for n, token in enumerate(tokens)
        ]
        solo_logits.append(row)
    runner.release(0)

    for slot, prompt in enumerate(prompts):
        runner.prefill(slot, prompt, 0)
    alive = [list(range(8)), [0, 2, 5, 7], [2, 7], [7]]
    for n in range(60):
        slots = alive[n // 15]
        for gone in set(range(8)) - set(slots):
            runner.release(gone)
        if n == 50:
            runner.prefill(3, prompts[3], 0)
        logits = runner.decode(
            slots,
            [following[slot][n] for slot in slots],
            [len(prompts[slot]) + n for slot in slots],
        )
        for slot, row in zip(slots, logits, strict=True):
            assert (row == solo_logits[slot][n]).all()


def test_a_call_made_again_gives_the_same(tiny: Path) -> None:
    runner = OnnxRunner(tiny / "int8" / "model.onnx", slots=2, context=CONTEXT, threads=1)
    for slot in (0, 1):
        runner.prefill(slot, [40, 41, 42 + slot], 0)
    first = runner.decode([0, 1], [50, 51], [3, 3]).copy()
    assert (runner.decode([0, 1], [50, 51], [3, 3]) == first).all()
    assert (runner.decode([1], [51], [3]) == first[1]).all()


def test_a_slot_may_be_filled_to_the_last_token(tiny: Path) -> None:
    engine = load_engine(tiny / "none", slots=2, threads=1)
    prompt = [40] * (CONTEXT - 20)
    answer = solo(engine, work(prompt=prompt, max_tokens=999))
    assert len(answer.tokens) <= 20
    assert solo(engine, work(prompt=[40] * (CONTEXT - 1))).outcome is not None


def test_a_token_outside_the_vocabulary_fails_its_request_alone(tiny_engine: Engine) -> None:
    clean = work("clean", [40, 41, 42])
    alone = solo(tiny_engine, clean)
    tiny_engine.submit(clean)
    tiny_engine.submit(work("poison", [40, 99_999]))
    answers = Answers()
    answers.take_rest(tiny_engine)
    outcome = answers["poison"].outcome
    assert outcome is not None
    assert outcome.reason == "failed"
    assert answers["clean"] == alone


def test_the_memory_of_a_released_slot_may_be_taken_back(tiny: Path) -> None:
    runner = OnnxRunner(tiny / "none" / "model.onnx", slots=8, context=CONTEXT, threads=1)
    before = reclaimable()
    for slot in range(8):
        for start in range(0, CONTEXT, 32):
            runner.prefill(slot, [40] * 32, start)
    for slot in range(8):
        runner.release(slot)
    layers, heads, size = 2, 2, 16
    assert reclaimable() - before > 8 * CONTEXT * 2 * layers * heads * size * 4 * 0.9


def reclaimable() -> int:
    """Bytes of this process that the system may take at will."""
    found = re.search(r"LazyFree: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    return 1024 * int(found[1]) if found else 0


def test_a_copied_prefix_is_the_prefix(tiny: Path) -> None:
    runner = OnnxRunner(tiny / "int8" / "model.onnx", slots=4, context=CONTEXT, threads=1)
    prompt = np.random.default_rng(4).integers(3, 260, 80).tolist()
    for start in (0, 32):
        runner.prefill(2, prompt[start : start + 32], start)
    runner.copy(2, 4, 64)
    expected = runner.prefill(2, prompt[64:], 64).copy()
    runner.release(2)
    runner.copy(4, 1, 64)
    assert (runner.prefill(1, prompt[64:], 64) == expected).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_poison_in_8_bit_fails_or_spoils_its_own_request_alone(
    tiny: Path, tmp_path: Path, value: float
) -> None:
    """A token whose embedding is no number: rounding to 8 bit may hide it, but only from itself."""
    folder = tmp_path / "poisoned"
    shutil.copytree(tiny / "int8", folder)
    model = onnx.load(folder / "model.onnx")
    [table] = [one for one in model.graph.initializer if one.name == "embed_tokens.weight"]
    rows = onnx.numpy_helper.to_array(table).copy()
    rows[77] = value
    table.CopyFrom(onnx.numpy_helper.from_array(rows, table.name))
    save(model, folder / "model.onnx")
    engine = load_engine(folder, slots=4, threads=1)
    fine = [
        work(f"fine {n}", [*range(20 + n, 60 + n)], max_tokens=12, temperature=0.8, seed=n)
        for n in range(3)
    ]
    alone = [solo(load_engine(tiny / "int8", slots=4, threads=1), each) for each in fine]
    for each in (*fine, work("last", [5, 6, 77]), work("inside", [5, 77, *range(9, 50)])):
        engine.submit(each)
    answers = finish(engine)
    assert [answers[each.id] for each in fine] == alone
    last = answers["last"].outcome
    assert last is not None
    assert (last.reason, last.completion_tokens) == (FinishReason.failed, 0)
    assert solo(engine, fine[0]) == alone[0]
