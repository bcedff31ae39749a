"""Whether the stack can serve, by its own /health; `var/quickstart.env` says so to programs."""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, Thread

from kit.embedded import write_private

_BETWEEN_SECONDS = 1.0
_EAGER_SECONDS = 0.2


@dataclass(slots=True)
class Readiness:
    """Asks /health again and again in a thread of its own, and keeps quickstart.env in step."""

    url: str
    quickstart: Path
    key: str
    ready: bool = False
    said: str = "no answer yet"
    """What /health last said, for a start that takes too long."""
    _ended: Event = field(default_factory=Event)
    _lock: Lock = field(default_factory=Lock)

    def watch(self) -> None:
        """Begin."""
        Thread(target=self._loop, name="readiness", daemon=True).start()

    def end(self) -> None:
        """Stop asking: from now on the stack is not ready."""
        self._ended.set()
        self._become(False)

    def _loop(self) -> None:
        while not self._ended.wait(_BETWEEN_SECONDS if self.ready else _EAGER_SECONDS):
            self._become(self._healthy())

    def _become(self, ready: bool) -> None:
        with self._lock:
            self.ready = ready and not self._ended.is_set()
            if not self.ready:
                self.quickstart.unlink(missing_ok=True)
            elif not self.quickstart.exists():
                lines = f"OPENAI_BASE_URL={self.url}/v1\nOPENAI_API_KEY={self.key}\n"
                write_private(self.quickstart, lines)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            self.said = _short(error.read())
        except OSError as error:
            self.said = str(error)
        return False


def _short(body: bytes) -> str:
    try:
        return json.dumps(json.loads(body))[:500]
    except ValueError:
        return f"{len(body)} bytes that are not JSON"
