"""`python -m config.stack run|stop`, which `make run` and `make stop` call."""

import argparse
import os
import signal
import sys
import time

from config.stack.layout import Layout
from config.stack.lock import AlreadyRunning, Lock
from config.stack.ports import PortTaken
from config.stack.preparation import PreparationFailed
from config.stack.processes import GaveUp
from config.stack.screen import Screen
from config.stack.servers import Unreachable
from config.stack.supervisor import NotReady, Stopped, Supervisor, heal
from kit.embedded import LOCAL, ServerFailed

_STOP_SECONDS = 90.0
_FAILURES = (GaveUp, NotReady, PortTaken, PreparationFailed, ServerFailed, Unreachable)


def main() -> int:
    """Parse, do, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m config.stack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run", help="start everything, in the foreground")
    run_parser.add_argument("--port", type=int, default=8000, help="the web port (8000)")
    run_parser.add_argument(
        "--host", default=os.environ.get("HOST", LOCAL), help="the web address (127.0.0.1)"
    )
    run_parser.add_argument(
        "--forever", action="store_true", help="start a process again however often it dies"
    )
    commands.add_parser("stop", help="end the stack of this checkout")
    arguments = parser.parse_args()
    layout, screen = Layout.of_this_checkout(), Screen()
    if arguments.command == "stop":
        return stop(layout, screen)
    supervisor = Supervisor(
        layout, screen, host=arguments.host, port=arguments.port, forever=arguments.forever
    )
    return run(supervisor, screen)


def run(supervisor: Supervisor, screen: Screen) -> int:
    """`make run`."""
    try:
        supervisor.run()
    except Stopped:
        screen.say("Everything has stopped.")
        return 0
    except AlreadyRunning as error:
        who = f"(process {error.holder.pid}, {error.holder.url})" if error.holder else ""
        screen.fail(f"The platform is running already {who}. `make stop` ends it.")
    except _FAILURES as error:
        screen.fail(str(error))
    return 1


def stop(layout: Layout, screen: Screen) -> int:
    """`make stop`: ask the holder of the lock, wait for it to be gone, and clear away."""
    lock = Lock(layout.lock)
    holder = lock.holder()
    if holder is None:
        heal(layout, screen)
        screen.say("The platform is not running.")
        return 0
    try:
        os.kill(holder.pid, signal.SIGTERM)
    except PermissionError:
        screen.fail(f"Process {holder.pid} belongs to another user; stop it as that user.")
        return 1
    with screen.step("Stopping the platform"):
        deadline = time.monotonic() + _STOP_SECONDS
        while lock.holder() is not None and time.monotonic() < deadline:
            time.sleep(0.1)
    if lock.holder() is None:
        return 0
    screen.fail(f"Process {holder.pid} has not stopped within {_STOP_SECONDS:.0f} s.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
