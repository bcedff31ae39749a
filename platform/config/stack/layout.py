"""Where the stack keeps its things. All state is under `var/`; deleting it resets everything."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one installation."""

    root: Path
    var: Path

    @classmethod
    def of_this_checkout(cls) -> "Layout":
        """This checkout's; the environment's VAR_DIR puts the state elsewhere."""
        root = Path(__file__).resolve().parents[3]
        return cls(root, Path(os.environ.get("VAR_DIR", root / "var")).resolve())

    def make(self) -> None:
        """Create the folders, and empty the one of metrics: counters begin with the stack."""
        for folder in (self.var, self.logs, self.metrics):
            folder.mkdir(parents=True, exist_ok=True)
        for old in self.metrics.glob("*.db"):
            old.unlink()

    @property
    def lock(self) -> Path:
        """Held while a stack runs."""
        return self.var / "run" / "stack.lock"

    @property
    def metrics(self) -> Path:
        """Prometheus's files, one a process."""
        return self.var / "run" / "metrics"

    @property
    def logs(self) -> Path:
        """One file a process and one for the preparation."""
        return self.var / "log"

    @property
    def environment(self) -> Path:
        """Read by the settings, so that any command reaches the running stack."""
        return self.var / "stack.env"

    @property
    def ports(self) -> Path:
        """The ports chosen at the first start."""
        return self.var / "ports.json"

    @property
    def demo(self) -> Path:
        """The demo organization's log-in and key."""
        return self.var / "demo.json"

    @property
    def quickstart(self) -> Path:
        """For OpenAI's clients; here exactly while the stack is ready."""
        return self.var / "quickstart.env"
