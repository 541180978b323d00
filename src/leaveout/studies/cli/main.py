"""The command `leaveout`."""

import argparse
import contextlib
import sys

import jax

from leaveout.runtime.compilation import keep_compiled
from leaveout.runtime.solution import SolveError

__all__ = ["keep_compiled", "main"]


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)  # the command line may: it owns the process
    if arguments is None:
        with contextlib.suppress(ValueError):  # compiling again is only slower
            keep_compiled()
    try:
        return options.run(options)
    except (ValueError, OSError, ImportError, SolveError) as error:
        print(f"leaveout: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("leaveout: interrupted; the same command goes on where it was", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    from leaveout.studies.cli import credit, data, figure, networks, study, tables

    parser = argparse.ArgumentParser(
        prog="leaveout",
        description="What would this model be if that group of training points had not been "
        "there? Compares predicted effects of removing groups with those of retraining.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    process = _memory("memory for the whole process, in GiB")
    arrays = _memory("memory for working arrays, in GiB")
    folders = _folders()
    study.add(commands, process)
    credit.add(commands, arrays)
    networks.add(commands, arrays)
    figure.add(commands, folders, arrays)
    tables.add(commands, folders)
    data.add(commands)
    return parser


def _memory(meaning: str) -> argparse.ArgumentParser:
    """The option --memory in one of its two meanings, for the commands that have it."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--memory", type=_bytes, metavar="GIB", help=meaning)
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
