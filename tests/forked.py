"""Runs `nuclr` in forks of one process that has imported everything: what is tested is not Python's start.

The fixture `forked` starts it, asks by lines of JSON, and reads answers.
"""

from __future__ import annotations

import json
import os
import resource
import sys


def serve() -> None:
    """Fork what stdin asks for, one command at a time."""
    import torch  # noqa: F401
    from lightning_fabric import Fabric  # noqa: F401
    from tensorboardX import SummaryWriter  # noqa: F401

    import nuclr_cli.workflows.embed
    import nuclr_cli.workflows.pretrain  # noqa: F401
    from nuclr_cli.cli.app import main

    child, pipes = 0, [(0, 0), (0, 0)]
    for line in sys.stdin:
        asked = json.loads(line)
        if asked is None:
            status = os.waitpid(child, 0)[1]
            # What is said fits into a pipe, and a limit on files does not concern it.
            said = [_drained(reading) for reading, _ in pipes]
            print(json.dumps([os.waitstatus_to_exitcode(status), *said]), flush=True)
            continue
        pipes = [os.pipe(), os.pipe()]
        child = os.fork()
        if child:
            for _, writing in pipes:
                os.close(writing)
            print(child, flush=True)
            continue
        os.close(0)
        for descriptor, (_, writing) in zip((1, 2), pipes, strict=True):
            os.dup2(writing, descriptor)
            os.close(writing)
        if asked["largest_file"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (asked["largest_file"],) * 2)
        for name, value in asked["environment"].items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        os.chdir(asked["cwd"])
        sys.argv = ["nuclr", *asked["words"]]
        main()  # raises SystemExit, and so leaves the loop


def _drained(descriptor: int) -> str:
    with os.fdopen(descriptor, "rb") as file:
        return file.read().decode()


if __name__ == "__main__":
    serve()
