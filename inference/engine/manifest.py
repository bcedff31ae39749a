"""What a prepared model's folder says about itself. Written last: without it the folder is void."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "manifest.json"
FORMATS = {"native": 1, "onnx": 2, "torch": 1, "encoder": 1, "echo": 1}
"""What this version reads, by backend. Raised whenever what `prepare` writes changes, or what a
runner wants of it: older folders are then made anew, or refused."""


class NotPrepared(Exception):
    """A folder without a readable manifest; the message says which command makes one."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """`version` changes whenever the model's answers may: it names the weights and their form."""

    name: str
    backend: str
    context: int
    eos: tuple[int, ...]
    version: str
    quantization: str
    parameters: int
    provider: str = "cpu"
    """Which of onnxruntime's execution providers its graph is for."""
    dimensions: int = 0
    """Of the vectors that a sentence encoder makes; 0 for a language model."""


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared model; raises NotPrepared, for an older format's too."""
    try:
        fields = json.loads((folder / FILE).read_text())
        found = fields.pop("format", 0)
        manifest = Manifest(**{**fields, "eos": tuple(fields["eos"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise NotPrepared(f"{folder} holds no prepared model ({error}); {_next(folder)}") from error
    wanted = FORMATS.get(manifest.backend, found)
    if found != wanted:
        raise NotPrepared(
            f"{folder} was prepared by another version of the platform: its format is {found}, "
            f"this version's {wanted}; {_next(folder)}"
        )
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Complete a prepared model's folder."""
    fields = {"format": FORMATS.get(manifest.backend, 0), **asdict(manifest)}
    (folder / FILE).write_text(json.dumps(fields, indent=2) + "\n")


def _next(folder: Path) -> str:
    return f"make it with: .venv/bin/python manage.py prepare_model {folder.name}"
