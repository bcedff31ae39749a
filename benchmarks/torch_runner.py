"""Tokens a second of the torch runner, on the CPU or a GPU, and its share of the memory's bound.

  .venv/bin/python benchmarks/torch_runner.py                      a GPU if there is one
  .venv/bin/python benchmarks/torch_runner.py --device cpu --streams 1 8 --rounds 2
  .venv/bin/python benchmarks/torch_runner.py --batching fixed --adapters 8 --record

Prompts and answers as in benchmarks/engine.py; the best round counts. The bound is the time to read
all weights once a step at the speed at which this device copies memory (measured first); keys and
values are left out, so the share is a bit better than shown. `--adapters` puts that many random
LoRA adapters of rank 16 around every linear layer and lets the streams wear them in turn;
`--compile` compiles the feed-forward parts by torch.compile.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import Progress  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from benchmarks.engine import Bench, Endless, Round, record  # noqa: E402
from inference.engine import Engine, Sampling, Work, load_text, read_manifest  # noqa: E402
from inference.engine.prepare import prepare  # noqa: E402
from inference.engine.torch import Batching, TorchRunner  # noqa: E402

_RANK = 16


class TorchBench(Bench):
    """The same with the torch runner, whose streams may wear adapters."""

    def __init__(self, chosen: argparse.Namespace, adapters: Mapping[str, Path]) -> None:
        self._clock = time.perf_counter
        self.manifest = read_manifest(chosen.model)
        self.text = Endless(load_text(chosen.model))
        self.runner = TorchRunner(
            chosen.model,
            slots=max(chosen.streams),
            context=chosen.context,
            threads=chosen.threads,
            quantization=chosen.quantize,
            device=chosen.device,
            batching=chosen.batching,
            adapters=adapters,
        )
        if chosen.compile:
            for layer in self.runner._model.model.layers:
                layer.mlp = torch.compile(layer.mlp, dynamic=True)
        self._names = [*adapters] or [""]
        self._engine = Engine(self.runner, self.text)
        self._asked = 0
        self._published = []
        Thread(target=self._engine.run, args=(self._publish,), daemon=True).start()

    def _run(self, prompts: list[list[int]], tokens: int) -> float:
        self._published.clear()
        start = self._clock()
        for number, prompt in enumerate(prompts):
            worn = self._names[number % len(self._names)]
            work = Work(str(number), "bench", tuple(prompt), Sampling(tokens), adapter=worn)
            self._engine.submit(work)
        while self._engine.stats().running + self._engine.stats().waiting:
            time.sleep(0.01)
        return start


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy reads: the best of some."""
    source = torch.ones((1 << 28) // 4, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(8):
        begin = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * source.nbytes / best


def weights(model: Any) -> int:
    """Bytes of all that a step reads once; embeddings are looked up, not read."""
    table = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    shared = table.data_ptr() == head.data_ptr()
    tensors = (*model.parameters(), *model.buffers())
    held: dict[int, int] = {each.data_ptr(): each.nbytes for each in tensors}
    return sum(held.values()) - (0 if shared else int(table.nbytes))


def random_adapters(folder: Path, model: Path, count: int) -> dict[str, Path]:
    """So many, around every linear layer of a Llama."""
    config = json.loads((model / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim") or hidden // heads
    shapes = {
        "self_attn.q_proj": (hidden, heads * size),
        "self_attn.k_proj": (hidden, groups * size),
        "self_attn.v_proj": (hidden, groups * size),
        "self_attn.o_proj": (heads * size, hidden),
        "mlp.gate_proj": (hidden, inner),
        "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }
    found = {}
    for number in range(count):
        tensors = {}
        for layer in range(config["num_hidden_layers"]):
            for name, (inputs, outputs) in shapes.items():
                path = f"base_model.model.model.layers.{layer}.{name}"
                tensors[f"{path}.lora_A.weight"] = torch.randn(_RANK, inputs) * 0.01
                tensors[f"{path}.lora_B.weight"] = torch.randn(outputs, _RANK) * 0.01
        found[f"a{number}"] = folder / f"a{number}"
        found[f"a{number}"].mkdir()
        save_file(tensors, found[f"a{number}"] / "adapter_model.safetensors")
        settings = {"peft_type": "LORA", "r": _RANK, "lora_alpha": _RANK, "bias": "none"}
        (found[f"a{number}"] / "adapter_config.json").write_text(json.dumps(settings))
    return found


def main() -> None:
    """Measure, print, record."""
    chosen = options()
    console = Console()
    if not chosen.model.exists():
        prepare(chosen.model.name, chosen.model.parent)
    with tempfile.TemporaryDirectory() as folder:
        adapters = random_adapters(Path(folder), chosen.model, chosen.adapters)
        bench = TorchBench(chosen, adapters)
    device = bench.runner._device
    floor = weights(bench.runner._model) / bandwidth(device)
    best: dict[int, Round] = {}
    prefill = 0.0
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("measuring", total=chosen.rounds * (len(chosen.streams) + 1))
        bench.decode(1, 24)
        for _ in range(chosen.rounds):
            for streams in chosen.streams:
                one = bench.decode(streams, chosen.tokens)
                before = best.get(streams, one)
                best[streams] = max(before, one, key=lambda each: each.tokens_per_second)
                bar.advance(task)
            prefill = max(prefill, bench.prefill(min(1000, chosen.context - 8)))
            bar.advance(task)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    lines = [
        f"{bench.manifest.name} on {device.type} ({name}), {chosen.quantize}, "
        f"{bench.runner._batching}, {chosen.adapters} adapters"
        f"{', compiled' if chosen.compile else ''}; reading the weights takes "
        f"{floor * 1e3:.2f} ms:",
        "",
        "| streams | tokens/s | first token, ms | step p50, ms | step p99, ms | of the bound |",
        "|---|---|---|---|---|---|",
        *(
            f"| {one.streams} | {one.tokens_per_second:.0f} | {one.first_token * 1e3:.0f} | "
            f"{one.step_p50 * 1e3:.1f} | {one.step_p99 * 1e3:.1f} | {floor / one.step_p50:.0%} |"
            for one in best.values()
        ),
        "",
        f"Prefill: {prefill:.0f} tokens/s.",
    ]
    print("\n".join(lines))  # noqa: T201
    if chosen.record:
        record("Torch runner", lines, now=datetime.now(UTC), threads=torch.get_num_threads())


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=ROOT / "var" / "models" / "smollm2-135m-instruct-torch",
        help="a folder that manage.py prepare_model made (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu or cuda; default: a GPU if there is one")
    parser.add_argument("--batching", type=Batching, choices=list(Batching))
    parser.add_argument("--quantize", choices=("none", "int8", "int4"), default="none")
    parser.add_argument("--adapters", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--tokens", type=int, default=128, help="a stream (default: 128)")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3, help="the best counts (default: 3)")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
