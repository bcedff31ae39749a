"""LoRA adapters on the torch runner: each what merged weights would be, beside any other."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.engine import NotPrepared, load_engine
from inference.engine.torch import Batching
from tests.engine.parts import finish, solo, work
from tests.engine.test_torch import PROMPTS, expected, prefilled, reference, runner

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.timeout(240)

LAYERS = {"self_attn.q_proj": (64, 64), "self_attn.v_proj": (64, 32), "mlp.down_proj": (128, 64)}
"""Inputs and outputs of some of the tiny model's."""


def write_adapter(folder: Path, *, seed: int, rank: int, size: float = 0.2, **config: Any) -> Path:
    """An adapter of random weights, as peft saves it."""
    from safetensors.torch import save_file

    draws = torch.Generator().manual_seed(seed)
    weights = {}
    for number in range(2):
        for layer, (inputs, outputs) in LAYERS.items():
            name = f"base_model.model.model.layers.{number}.{layer}"
            weights[f"{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=draws) * size
            weights[f"{name}.lora_B.weight"] = torch.randn(outputs, rank, generator=draws) * size
    folder.mkdir(parents=True)
    save_file(weights, folder / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture(scope="module")
def worn(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Two adapters of different ranks, one rank-stabilized."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "law": write_adapter(folder / "law", seed=1, rank=4),
        "sql": write_adapter(folder / "sql", seed=2, rank=3, use_rslora=True),
    }


def merged(checkpoint: Path, folder: Path) -> Any:
    """transformers' model with the adapter in its weights."""
    from safetensors.torch import load_file

    model = reference(checkpoint)
    config = json.loads((folder / "adapter_config.json").read_text())
    weights = load_file(folder / "adapter_model.safetensors")
    below = config["r"] ** 0.5 if config.get("use_rslora") else config["r"]
    for name, down in weights.items():
        if ".lora_A." in name:
            path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            up = weights[name.replace("lora_A", "lora_B")]
            layer = model.get_submodule(path)
            layer.weight.data += config["lora_alpha"] / below * up @ down
    return model


@pytest.mark.parametrize("batching", list(Batching))
def test_each_row_of_a_batch_has_its_own_adapters_logits(
    tiny: Path, worn: Mapping[str, Path], batching: Batching
) -> None:
    models = {name: merged(tiny / "checkpoint", folder) for name, folder in worn.items()}
    models[""] = reference(tiny / "checkpoint")
    one = runner(tiny / "checkpoint", batching=batching, adapters=worn)
    wears = ["law", "", "sql", "law", "", "sql", "sql", "law"]
    for slot, (name, prompt) in enumerate(zip(wears, PROMPTS, strict=True)):
        one.wear(slot, name)
        found = prefilled(one, slot, prompt)
        assert np.abs(found - expected(models[name], prompt)[-1]).max() < 2e-4
    places = [len(prompt) for prompt in PROMPTS]
    together = one.decode(range(8), [50] * 8, places).copy()
    for name, prompt, row in zip(wears, PROMPTS, together, strict=True):
        assert np.abs(row - expected(models[name], [*prompt, 50])[-1]).max() < 2e-4
    assert np.abs(expected(models["law"], PROMPTS[1]) - expected(models[""], PROMPTS[1])).max() > 1


def test_neighbours_with_other_adapters_change_no_bit(tiny: Path, worn: Mapping[str, Path]) -> None:
    def engine() -> Any:
        return load_engine(tiny / "torch-none", slots=8, threads=1, device="cpu", adapters=worn)

    works = [
        work(f"{n}", PROMPTS[3], max_tokens=10, temperature=(n % 2) * 0.9, seed=n, adapter=name)
        for n, name in enumerate(["law", "", "sql", "law", "sql", ""])
    ]
    busy = engine()
    for each in works:
        busy.submit(each)
    together = finish(busy)
    assert together["3"].cached, "what an adapter has computed is used again for itself"
    assert all(solo(engine(), each) == together[each.id] for each in works)
    assert together["0"].tokens != together["1"].tokens


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_adapters_fit_quantized_weights(
    tiny: Path, worn: Mapping[str, Path], quantization: str
) -> None:
    folder = tiny / f"torch-{quantization}"
    engine = load_engine(folder, slots=2, threads=1, device="cpu", adapters=worn)
    plain = solo(engine, work(prompt=PROMPTS[1]))
    assert solo(engine, work(prompt=PROMPTS[1], adapter="law")) != plain
    bare = load_engine(folder, slots=2, threads=1, device="cpu")
    assert solo(bare, work(prompt=PROMPTS[1])) == plain


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "LOHA"}, "peft_type 'LOHA'"),
        ({"use_dora": True}, "use_dora True"),
        ({"bias": "all"}, "bias 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
def test_what_is_not_understood_is_left_out_alone_and_named(
    tiny: Path,
    worn: Mapping[str, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    config: dict[str, Any],
    said: str,
) -> None:
    odd = write_adapter(tmp_path / "odd", seed=3, rank=2, **config)
    one = runner(tiny / "checkpoint", adapters={"odd": odd, "law": worn["law"]})
    assert one.adapters == {"law"}
    assert said in caplog.text


def test_an_adapter_that_is_missing_or_of_another_model_is_left_out(
    tiny: Path, worn: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LAYERS, "mlp.down_proj", (32, 64))
    other = write_adapter(tmp_path / "other", seed=3, rank=2)
    names = {"none": tmp_path / "none", "other": other, **worn}
    engine = load_engine(tiny / "torch-none", slots=1, threads=1, device="cpu", adapters=names)
    assert engine.adapters == {"law", "sql"}
    with pytest.raises(ValueError, match="no adapter 'other'"):
        engine.submit(work(adapter="other"))


def test_only_torch_wears_adapters(tiny: Path, worn: Mapping[str, Path]) -> None:
    with pytest.raises(NotPrepared, match="need the torch backend"):
        load_engine(tiny / "none", adapters=worn)
