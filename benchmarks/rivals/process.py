"""A rival in a process of its own, stopped (SIGSTOP) while it is not asked."""

import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self


class Rival:
    """Takes prompts, says how long reading them and answering them took."""

    def __init__(self, name: str, command: Sequence[str | Path]) -> None:
        self.name = name
        self._child = subprocess.Popen(  # noqa: S603  our own interpreter and paths
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self._child.stdin is None or self._child.stdout is None:
            raise RuntimeError("a pipe was asked for")
        self._orders, self._answers = self._child.stdin, self._child.stdout
        self._answer()
        self._child.send_signal(signal.SIGSTOP)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._child.kill()
        self._child.wait()

    def decode(self, prompts: Sequence[Sequence[int]], tokens: int) -> float:
        """Tokens a second of all streams together, without the first token."""
        return len(prompts) * (tokens - 1) / self._run(prompts, tokens)["decode_s"]

    def prefill(self, prompt: Sequence[int]) -> float:
        """Tokens a second of reading one prompt."""
        return len(prompt) / self._run([prompt], 2)["prefill_s"]

    def _run(self, prompts: Sequence[Sequence[int]], tokens: int) -> dict[str, float]:
        self._child.send_signal(signal.SIGCONT)
        order = {"prompts": [list(prompt) for prompt in prompts], "tokens": tokens}
        self._orders.write(json.dumps(order) + "\n")
        self._orders.flush()
        answer = self._answer()
        self._child.send_signal(signal.SIGSTOP)
        return answer

    def _answer(self) -> dict[str, float]:
        line = self._answers.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with {self._child.wait()}; see its errors above.")
        answer: dict[str, float] = json.loads(line)
        return answer
