"""What a prepared model's folder says about itself. Written last: without it the folder is void."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "manifest.json"


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


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared model; raises NotPrepared."""
    try:
        fields = json.loads((folder / FILE).read_text())
        return Manifest(**{**fields, "eos": tuple(fields["eos"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise NotPrepared(
            f"{folder} holds no prepared model ({error}); "
            f"make it with: .venv/bin/python manage.py prepare_model {folder.name}"
        ) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Complete a prepared model's folder."""
    (folder / FILE).write_text(json.dumps(asdict(manifest), indent=2) + "\n")
