"""The kernels of our own, on a tiny random Llama and against transformers."""

import json
import subprocess
import sys
from itertools import pairwise, zip_longest
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine import Engine, load_engine, load_text
from inference.engine.native import NativeRunner, NoKernels, library
from inference.engine.native.weights import Unsupported, quantize, read_shape
from inference.engine.prepare import PrepareFailed
from inference.engine.prepare.packing import pack_checkpoint
from tests.engine.conftest import CONTEXT
from tests.engine.parts import Answers, solo, work

pytestmark = pytest.mark.timeout(240)
PROMPT = [int(token) for token in np.random.default_rng(3).integers(3, 260, 70)]


@pytest.fixture(scope="module")
def runner(tiny: Path) -> NativeRunner:
    return NativeRunner(tiny / "native", slots=6, context=CONTEXT, threads=2)


def all_at_once(runner: NativeRunner, slot: int, tokens: list[int]) -> np.ndarray:
    rows = range(len(tokens))
    return runner.run([slot] * len(tokens), tokens, rows, rows).copy()


cuts = st.lists(st.integers(1, len(PROMPT) - 1), unique=True, max_size=5)


@given(borders=st.tuples(cuts, cuts, cuts))
@settings(max_examples=40)
def test_a_tokens_numbers_do_not_depend_on_how_calls_are_made(
    runner: NativeRunner, borders: tuple[list[int], ...]
) -> None:
    whole = all_at_once(runner, 0, PROMPT)
    parts = [list(pairwise([0, *sorted(some), len(PROMPT)])) for some in borders]
    for spans in zip_longest(*parts):
        rows = [
            (slot, place)
            for slot, span in enumerate(spans, start=1)
            for place in range(*(span or (0, 0)))
        ]
        positions = [place for _, place in rows]
        tokens = [PROMPT[place] for place in positions]
        logits = runner.run([slot for slot, _ in rows], tokens, positions, range(len(rows)))
        assert (logits == whole[positions]).all()


def test_nor_on_how_many_threads_there_are(tiny: Path, runner: NativeRunner) -> None:
    whole = all_at_once(runner, 0, PROMPT)
    for threads in (1, 3):
        other = NativeRunner(tiny / "native", slots=1, context=CONTEXT, threads=threads)
        assert (all_at_once(other, 0, PROMPT) == whole).all()


def test_logits_are_near_those_of_full_precision(tiny: Path, runner: NativeRunner) -> None:
    import torch
    from transformers import LlamaForCausalLM

    reference = LlamaForCausalLM.from_pretrained(tiny / "checkpoint")
    with torch.inference_mode():
        wanted = reference(torch.tensor([PROMPT])).logits[0].numpy()
    made = all_at_once(runner, 0, PROMPT)
    assert np.linalg.norm(made - wanted) < 0.1 * np.linalg.norm(wanted)


def test_a_copy_goes_on_as_its_source(runner: NativeRunner) -> None:
    whole = all_at_once(runner, 0, PROMPT)
    for length in (1, 15, 16, 33, 69):
        runner.copy(0, 6, length)
        runner.copy(6, 4, length)
        rest = PROMPT[length:]
        assert (runner.prefill(4, rest, length)[0] == whole[-1]).all()


@pytest.mark.parametrize("context", [70, 100])
def test_a_context_of_any_length_is_whole_up_to_its_end(tiny: Path, context: int) -> None:
    runner = NativeRunner(tiny / "native", slots=2, context=context, threads=1, shelves=1)
    tokens = (PROMPT + PROMPT)[:context]
    first = all_at_once(runner, 0, tokens)
    assert (all_at_once(runner, 1, tokens) == first).all()
    runner.copy(1, 2, context)
    assert (all_at_once(runner, 0, tokens) == first).all(), "a neighbour's end stays its own"
    whole = NativeRunner(tiny / "native", slots=1, context=CONTEXT, threads=1)
    assert (all_at_once(whole, 0, tokens) == first).all()


def test_what_a_place_held_before_changes_nothing(runner: NativeRunner) -> None:
    first = runner.prefill(5, PROMPT[:20], 0).copy()
    runner.prefill(5, PROMPT, 0)
    runner.release(5)
    assert (runner.prefill(5, PROMPT[:20], 0) == first).all()


@pytest.mark.parametrize(
    ("slots", "tokens", "positions", "name"),
    [
        ([0], [10**6], [0], "token"),
        ([0], [-1], [0], "token"),
        ([6], [5], [0], "slot"),
        ([0], [5], [CONTEXT], "position"),
    ],
)
def test_what_lies_outside_is_refused_by_name(
    runner: NativeRunner, slots: list[int], tokens: list[int], positions: list[int], name: str
) -> None:
    with pytest.raises(ValueError, match=name):
        runner.run(slots, tokens, positions, [0])


def test_more_rows_than_there_is_room_for_are_refused(runner: NativeRunner) -> None:
    count = runner.most_rows + 1
    with pytest.raises(ValueError, match=f"{count} rows"):
        runner.run([0] * count, [5] * count, [0] * count, [])


def test_weights_that_are_no_numbers_fail_the_request_and_not_the_engine(tiny: Path) -> None:
    engine = load_engine(tiny / "native", slots=4, threads=2)
    runner = engine._runner
    assert isinstance(runner, NativeRunner)
    table = runner._decoder._weights["embedding"]
    clean = solo(engine, work("clean", [40, 41, 42]))
    table[77] = np.nan
    engine.submit(work("poison", [40, 77, 41]))
    engine.submit(work("clean", [40, 41, 42]))
    answers = Answers()
    answers.take_rest(engine)
    assert answers["poison"].outcome is not None
    assert answers["poison"].outcome.reason == "failed"
    assert answers["clean"] == clean


def test_drafts_change_no_token(tiny: Path) -> None:
    text = load_text(tiny / "native")
    works = [
        work(
            str(number),
            [9, 10, 11, 12] * 6 + [number + 20],
            max_tokens=60,
            temperature=(0.0, 0.7)[number % 2],
            seed=number,
        )
        for number in range(4)
    ]
    answers = []
    for drafts in (0, 8, 40):
        runner = NativeRunner(tiny / "native", slots=4, context=CONTEXT, threads=2)
        engine = Engine(runner, text, drafts=drafts)
        found = Answers()
        for each in works:
            engine.submit(each)
        found.take_rest(engine)
        answers.append(found)
    assert answers[0] == answers[1] == answers[2]


def test_bytes_lie_as_the_kernels_read_them() -> None:
    weight = np.random.default_rng(0).normal(0, 1, (48, 128)).astype(np.float32)
    packed, scales = quantize(weight)
    assert packed.shape == (4, 2, 16, 16, 4), "48 outputs are padded to 64"
    back = (packed.astype(np.float32) - 128) * scales[:, :, None, :, None].astype(np.float32)
    rows = back.transpose(0, 3, 1, 2, 4).reshape(64, 128)
    assert np.abs(rows[:48] - weight).max() <= np.abs(weight).max() / 127
    assert not rows[48:].any()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"hidden_size": 100, "head_dim": 64}, "hidden_size is 100"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
        ({"num_hidden_layers": None}, "lacks num_hidden_layers"),
    ],
)
def test_a_checkpoint_that_cannot_run_says_which_field_is_to_blame(
    tiny: Path, change: dict[str, object], said: str
) -> None:
    config = json.loads((tiny / "checkpoint" / "config.json").read_text())
    with pytest.raises(Unsupported, match=said):
        read_shape({**config, **change})


def test_a_compiler_that_is_not_there_is_named(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERNELS_CC", "/nonexistent/cc")
    library.load_library.cache_clear()
    with pytest.raises(PrepareFailed, match="KERNELS_CC"):
        pack_checkpoint(tiny / "checkpoint", tmp_path, lambda doing, share: None)
    library.load_library.cache_clear()


def test_code_that_does_not_compile_says_what_the_compiler_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KERNELS_CC", f"{sys.executable} -c raise(SystemExit('no-such-thing'))")
    library.load_library.cache_clear()
    with pytest.raises(NoKernels, match="no-such-thing"):
        library.load_library()
    library.load_library.cache_clear()


def test_other_instructions_give_the_same_bits(tiny: Path, tmp_path: Path) -> None:
    """Compiled for a CPU without wide vectors, in a process of its own."""
    script = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from inference.engine.native import NativeRunner\n"
        "r = NativeRunner(Path(sys.argv[1]), slots=1, context=256, threads=1)\n"
        "t = [int(x) for x in sys.argv[3].split()]\n"
        "np.save(sys.argv[2], r.run([0] * len(t), t, range(len(t)), range(len(t))))\n"
    )
    found = []
    for name, cpu in (("own", "native"), ("plain", "x86_64_v3")):
        compiler = f"{sys.executable} -m ziglang cc -mcpu={cpu}"
        file = tmp_path / f"{name}.npy"
        subprocess.run(  # noqa: S603  our own interpreter
            [sys.executable, "-c", script, tiny / "native", file, " ".join(map(str, PROMPT))],
            check=True,
            env={"PATH": "", "KERNELS_CC": compiler},
        )
        found.append(np.load(file))
    assert (found[0] == found[1]).all()
