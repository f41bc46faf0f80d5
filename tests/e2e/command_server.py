"""Runs `openddpm` commands, one a line of standard input, in one process whose environment names the Hub.

A line is a JSON list of arguments; the answer is a JSON object with the exit status and what the command wrote.
"""

import json
import os
import sys
import tempfile
import traceback
from typing import TextIO

from openddpm.cli.main import main


def run(arguments: list[str]) -> dict[str, object]:
    """Return how one command ended, its output taken from the file descriptors themselves."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            status: object = main(arguments)
        except SystemExit as exit_:
            status = exit_.code
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        texts = {}
        for name, file in (("out", out), ("err", err)):
            file.seek(0)
            texts[name] = file.read().decode()
        return {"status": status, **texts}


def serve(answers: TextIO) -> None:
    """Answer until standard input ends."""
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    serve(os.fdopen(os.dup(1), "w"))
