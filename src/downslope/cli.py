"""The command line, and the one place where errors become exit codes.

0, done; 1, done, and what was found is bad; 2, bad input, told in one line on standard error; 130,
interrupted.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from downslope.commands import app
from downslope.errors import UsageError, closest


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; bad input is told in one line on standard error."""
    command = typer.main.get_command(app)
    try:
        _refuse_empty(arguments)
        code = command.main(
            args=list(arguments), prog_name="downslope", standalone_mode=False, obj=tuple(arguments)
        )
        sys.stdout.flush()  # a full disk is told here, and not when Python ends
        return int(code or 0)
    except UsageError as error:
        if os.environ.get("DOWNSLOPE_DEBUG"):
            raise
        return _refuse(str(error))
    except MemoryError as error:
        return _refuse(f"the memory does not suffice: {error or 'give a smaller size'}")
    except BrokenPipeError:  # whoever read the output has seen enough; typer and rich end with 1 too
        _drop_output()
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return _refuse(f"{error.filename or 'the output'} cannot be written: {error.strerror}")
    except Exception as error:
        # What typer itself raises for what was typed: an unknown option, a missing argument.
        if not hasattr(error, "format_message"):
            raise
        wrong = _typed_wrong(error)
        return _refuse(wrong) if wrong else 2  # nothing was typed, and the help is shown


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Raise `UsageError` where a word is empty: nothing that can be typed means anything then."""
    for before, word in zip(("downslope", *arguments), arguments, strict=False):
        if not word or (word.startswith("--") and word.endswith("=") and word.count("=") == 1):
            said = word or f"{before} ''"
            raise UsageError(f"{said}: nothing is given; is a variable of the shell empty?")


def _drop_output() -> None:
    """Let what waits to be written go nowhere: else Python would try again at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(line: str) -> int:
    print(f"downslope: {' '.join(line.split())}", file=sys.stderr)
    return 2


def _typed_wrong(error: Any) -> str:
    """Return typer's complaint, with the closest option or command."""
    context = getattr(error, "ctx", None)
    where = f" (see {context.command_path} --help)" if context is not None else ""
    option = getattr(error, "option_name", None)
    if option is not None and type(error).__name__ == "NoSuchOption" and context is not None:
        known = [o for p in context.command.params for o in p.opts if o.startswith("--")]
        return f"no such option: {option}{closest(option, known)}{where}"
    message = str(error.format_message()).rstrip(".")
    return message and f"{message[:1].lower()}{message[1:]}{where}"


def main() -> None:
    """Run the command line of this process."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - where it was closed by who started this
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without bars and signs shows the numbers
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
