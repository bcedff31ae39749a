"""llama.cpp's side: reads a JSON order a line, answers with one. Runs in llama.cpp's environment.

Orders: {"prompts": [[token, …], …], "tokens": n}: all prompts are read, then all streams decode
together, greedily, n tokens each. Answers {"prefill_s": …, "decode_s": …}, the decode without the
first token, which belongs to the prefill.
"""

import ctypes
import json
import sys
import time
from collections.abc import Mapping

import llama_cpp
import numpy as np

CLOCK = time.process_time if sys.argv[3:] == ["cpu"] else time.perf_counter


class Model:
    """A GGUF model; for each number of streams a context of its own, made once."""

    def __init__(self, path: str, threads: int) -> None:
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._width = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._threads = threads
        self._contexts: dict[int, object] = {}

    def run(self, prompts: list[list[int]], tokens: int) -> dict[str, float]:
        """Read the prompts, then decode together."""
        context = self._context(len(prompts))
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        begin = CLOCK()
        last = [self._prefill(context, stream, prompt) for stream, prompt in enumerate(prompts)]
        read = CLOCK()
        batch = llama_cpp.llama_batch_init(len(prompts), 0, 1)
        for made in range(tokens - 1):
            self._fill(
                batch,
                [
                    (token, len(prompts[stream]) + made, stream, True)
                    for stream, token in enumerate(last)
                ],
            )
            self._decode(context, batch)
            rows = llama_cpp.llama_get_logits(context)
            logits = np.ctypeslib.as_array(
                ctypes.cast(rows, ctypes.POINTER(ctypes.c_float)), (len(prompts), self._width)
            )
            last = [int(token) for token in logits.argmax(axis=1)]
        end = CLOCK()
        llama_cpp.llama_batch_free(batch)
        return {"prefill_s": read - begin, "decode_s": end - read}

    def _prefill(self, context: object, stream: int, prompt: list[int]) -> int:
        batch = llama_cpp.llama_batch_init(len(prompt), 0, 1)
        final = len(prompt) - 1
        self._fill(batch, [(token, at, stream, at == final) for at, token in enumerate(prompt)])
        self._decode(context, batch)
        row = llama_cpp.llama_get_logits_ith(context, -1)
        logits = np.ctypeslib.as_array(
            ctypes.cast(row, ctypes.POINTER(ctypes.c_float)), (self._width,)
        )
        llama_cpp.llama_batch_free(batch)
        return int(logits.argmax())

    def _decode(self, context: object, batch: object) -> None:
        if code := llama_cpp.llama_decode(context, batch):
            raise SystemExit(f"llama_decode returned {code}")

    def _fill(self, batch: "llama_cpp.llama_batch", rows: list[tuple[int, int, int, bool]]) -> None:
        batch.n_tokens = len(rows)
        for number, (token, position, stream, wanted) in enumerate(rows):
            batch.token[number] = token
            batch.pos[number] = position
            batch.n_seq_id[number] = 1
            batch.seq_id[number][0] = stream
            batch.logits[number] = wanted

    def _context(self, streams: int) -> object:
        if streams not in self._contexts:
            params = llama_cpp.llama_context_default_params()
            params.n_seq_max = streams
            params.n_ctx = max(512 * streams, 2048)
            params.n_batch = params.n_ubatch = 512 if streams > 1 else 2048
            params.n_threads = params.n_threads_batch = self._threads
            context = llama_cpp.llama_init_from_model(self._model, params)
            if not context:
                raise SystemExit(f"llama.cpp cannot make a context for {streams} streams")
            self._contexts[streams] = context
        return self._contexts[streams]


def main() -> None:
    """Load what argv names; then orders until the input ends."""
    callback = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(callback, None)
    model = Model(sys.argv[1], int(sys.argv[2]))
    _say({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        _say(model.run(order["prompts"], order["tokens"]))


def _say(answer: Mapping[str, float]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
