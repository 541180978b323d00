"""The command `leaveout`."""

import argparse
import contextlib
import importlib.metadata
import os
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from typing import NoReturn

import jax

from leaveout.runtime.compilation import keep_compiled
from leaveout.runtime.solution import SolveError
from leaveout.studies.cli.completion import SHELLS, PrintCompletion, actions
from leaveout.studies.cli.progress import begun

__all__ = ["keep_compiled", "main"]

_FAILED, _USAGE, _INTERRUPTED, _CLOSED = 1, 2, 130, 141


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 for what failed, 2 for what makes no sense."""
    try:
        options = _parser().parse_args(arguments)
        options.begun = begun() if arguments is None else None
        asked = sys.argv[1:] if arguments is None else arguments
        options.asked = shlex.join(["leaveout", *asked])
        jax.config.update("jax_enable_x64", True)  # the command line may: it owns the process
        if arguments is None:
            with contextlib.suppress(ValueError):  # compiling again is only slower
                keep_compiled()
        with _plain_warnings():
            code = options.run(options)
            sys.stdout.flush()
            return code
    except BrokenPipeError:  # the reader has what it wanted, as `head` does
        _let_go()
        return _CLOSED
    except ValueError as error:
        print(f"leaveout: {error}", file=sys.stderr)
        return _USAGE
    except (OSError, ImportError, SolveError, MemoryError) as error:
        print(f"leaveout: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        print(
            "leaveout: interrupted; a study goes on where it was with the same command",
            file=sys.stderr,
        )
        return _INTERRUPTED


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings as sentences, without the place in the code that they are of."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"note: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _let_go() -> None:
    """Have Python not complain of the closed pipe when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """A parser that says what may have been meant."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and the nearest that is right; exit with 2."""
        import difflib

        wrong = re.search(r"invalid choice: '([^']+)'|unrecognized arguments: (\S+)", message)
        near = []
        if wrong is not None:
            word = (wrong[1] or wrong[2]).partition("=")[0]
            near = difflib.get_close_matches(word, sorted(self._known()), n=1)
        super().error(message + (f"; did you mean {near[0]}?" if near else ""))

    def _known(self) -> set[str]:
        """The commands and options of this parser, and of its commands."""
        found = set()
        for action in actions(self):
            found |= {*action.option_strings, *map(str, action.choices or ())}
        return found


def _parser() -> argparse.ArgumentParser:
    from leaveout.studies.cli import (
        credit,
        data,
        discover,
        figure,
        networks,
        own,
        progress,
        records,
        sets,
        study,
        tables,
        worth,
    )

    parser = _Parser(
        prog="leaveout",
        description="What would this model be if that group of training points had not been "
        "there? Compares predicted effects of removing groups with those of retraining. Results "
        "go to the standard output, notes and progress to the standard error. Exits with 1 if "
        "something failed, with 2 if what was asked makes no sense.",
    )
    version = f"leaveout {importlib.metadata.version('leaveout')}"
    parser.add_argument("--version", action="version", version=version)
    parser.add_argument(
        "--print-completion",
        choices=SHELLS,
        action=PrintCompletion,
        help="print what makes a shell complete the command line",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    process = _memory("memory for the whole process, in GiB")
    arrays = _memory("memory for working arrays, in GiB")
    out, l2 = _out(), _l2()
    folders, quiet, table, json = _folders(), progress.speech(), own.of_table(), records.option()
    study.add(commands, process, out, table, json, quiet)
    credit.add(commands, arrays, l2, out, table, json, quiet)
    worth.add(commands, arrays, l2, out, quiet)
    discover.add(commands, arrays, table, json, quiet)
    sets.add(commands, arrays, table, quiet)
    networks.add(commands, arrays, out, quiet)
    figure.add(commands, folders, arrays, quiet)
    tables.add(commands, folders, quiet)
    data.add(commands)
    return parser


def _memory(meaning: str) -> argparse.ArgumentParser:
    """The option --memory in one of its two meanings, for the commands that have it."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--memory", type=_bytes, metavar="GIB", help=meaning)
    return parent


def _out() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(
        "--out", metavar="DIR", help="folder to write to, or to go on in (default: named for you)"
    )
    return parent


def _l2() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(
        "--l2",
        type=float,
        metavar="X",
        help="the penalty divided by the number of training examples "
        "(default: the data set's own, or chosen by 5-fold cross-validation)",
    )
    return parent


def _folders() -> argparse.ArgumentParser:
    """The options of what is made from the studies in a folder."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--studies", default=".", metavar="DIR", help="where the studies are")
    parent.add_argument("--out", default=".", metavar="DIR", help="folder to write to")
    return parent


def _bytes(gibibytes: str) -> float:
    try:
        return float(gibibytes) * 2**30
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid float value: {gibibytes!r}") from None
