"""A stack of the real supervisor and servers around a toy web process: `stand_in.py ROOT PORT`."""

import json
import sys
from pathlib import Path
from unittest import mock

from config.stack import __main__ as command
from config.stack import supervisor
from config.stack.layout import Layout
from config.stack.screen import Screen

DEMO = {
    "portal": "/o/",
    "owner_email": "o@b",
    "owner_password": "pw",
    "admin_email": "a@b",
    "admin_password": "pw",
    "api_key": "aip_live_x",
}

WEB = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if os.path.exists("ill") else 200)
        self.end_headers()
        self.wfile.write(b"{}")

HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Health).serve_forever()
"""


def main(root: Path, port: int) -> int:
    """`make run` with nothing to prepare."""
    layout = Layout(root, root / "var")

    def prepare(*_: object, **__: object) -> None:
        layout.demo.write_text(json.dumps(DEMO))

    with mock.patch.object(supervisor, "prepare", prepare):
        screen = Screen()
        stack = supervisor.Supervisor(layout, screen, host="127.0.0.1", port=port)
        return command.run(stack, screen)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
