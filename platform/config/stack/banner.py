"""What a user needs once the stack is ready."""

import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin


@dataclass(frozen=True, slots=True)
class Demo:
    """The demo organization, as `manage.py seed_demo` left it in var/demo.json."""

    portal: str
    owner_email: str
    owner_password: str
    admin_email: str
    admin_password: str
    api_key: str

    @classmethod
    def read(cls, path: Path) -> "Demo":
        """Read the file; unknown fields are none of our business."""
        known = json.loads(path.read_text())
        return cls(**{name: str(known[name]) for name in cls.__slots__})


def banner(url: str, demo: Demo, *, model: str) -> str:
    """The lines, with a command that streams an answer when it is pasted."""
    body = {
        "model": model,
        "stream": True,
        "messages": [{"role": "user", "content": "Explain gravity to a child."}],
    }
    return "\n".join(
        [
            "",
            "The platform is ready.",
            "",
            f"  Portal   {urljoin(url, demo.portal)}   {demo.owner_email}   {demo.owner_password}",
            f"  Admin    {url}/admin/   {demo.admin_email}   {demo.admin_password}",
            f"  API key  {demo.api_key}",
            "  Mail     var/mail/, one file a letter; EMAIL_URL=smtp://… sends it",
            "",
            "Try it:",
            "",
            f"curl -N {url}/v1/chat/completions \\",
            f"  -H 'Authorization: Bearer {demo.api_key}' \\",
            "  -H 'Content-Type: application/json' \\",
            f"  -d '{json.dumps(body)}'",
            "",
            "OpenAI's clients find their settings in var/quickstart.env. Ctrl-C stops everything.",
            "",
        ]
    )
