"""transformers' side: `generate` in fp32, greedy; the same orders and answers as llama_worker."""

import json
import sys
import time
import warnings

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging

CLOCK = time.process_time if sys.argv[3:] == ["cpu"] else time.perf_counter


def run(model: torch.nn.Module, prompts: list[list[int]], tokens: int) -> dict[str, float]:
    """All prompts in one padded batch; the prefill is timed alone, then with the answers."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(one)) + one for one in prompts])
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts])
    times = []
    for length in (1, tokens):
        config = GenerationConfig(
            max_new_tokens=length, min_new_tokens=length, do_sample=False, pad_token_id=0
        )
        begin = CLOCK()
        model.generate(ids, attention_mask=mask, generation_config=config)  # type: ignore[operator]
        times.append(CLOCK() - begin)
    return {"prefill_s": times[0], "decode_s": times[1] - times[0]}


def main() -> None:
    """Load what argv names; then orders until the input ends."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(int(sys.argv[2]))
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
    _say({"ready": True})
    with torch.inference_mode():
        for line in sys.stdin:
            order = json.loads(line)
            _say(run(model, order["prompts"], order["tokens"]))


def _say(answer: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
