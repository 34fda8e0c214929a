"""`python -m palaestra.evaluate.selfplay.tethered PROGRAM …`: a command that dies with its parent.

The kernel keeps the tie when the process becomes the command. Set between fork and exec, it would
have to be made by Python code in a copy of a process with threads, which may find a lock taken.
"""

from __future__ import annotations

import os
import sys

from ...train.ranks import LAUNCHER, end_with_launcher


def main() -> None:
    """Tie this process to the one that LAUNCHER names, then become the program."""
    end_with_launcher()
    os.environ.pop(LAUNCHER, None)  # it is not the launcher of the command's own children
    try:
        os.execvp(sys.argv[1], sys.argv[1:])
    except OSError as error:
        raise SystemExit(f"{sys.argv[1]}: {error.strerror}") from error


if __name__ == "__main__":
    main()
