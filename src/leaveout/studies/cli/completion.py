"""What a shell is told to complete the command line: `leaveout --print-completion bash`."""

import argparse
from collections.abc import Iterator, Mapping, Sequence

from leaveout.runtime.extras import needed
from leaveout.studies import datasets

__all__ = ["SHELLS", "PrintCompletion", "actions"]

SHELLS = ("bash", "zsh", "tcsh")

_NAMES, _FILES = "_leaveout_data", "_leaveout_data_or_file"
_FUNCTIONS = {
    "bash": '{names}() {{ compgen -W "{data}" -- "$1"; }}\n'
    '{files}() {{ {names} "$1"; compgen -f -- "$1"; }}',
    "zsh": "{names}() {{ compadd -- {data} }}\n{files}() {{ {names}; _files }}",
}


class PrintCompletion(argparse.Action):
    """Prints the functions of a shell, and ends the command."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        """Print them; exits with 1 and the extra to install where shtab is missing."""
        try:
            with needed(str(option_string), "completion"):
                import shtab
        except ModuleNotFoundError as error:
            parser.exit(1, f"{parser.prog}: {error}\n")
        _mark(parser, shtab.FILE, shtab.DIR)
        data = {"names": _NAMES, "files": _FILES, "data": " ".join(datasets.available())}
        preamble = _FUNCTIONS.get(str(values), "").format(**data)
        print(shtab.complete(parser, str(values), preamble=preamble))
        parser.exit()


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The options and arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from actions(command)


def _mark(parser: argparse.ArgumentParser, file: Mapping, folder: Mapping) -> None:
    """Say of every action what stands in its place: a folder, a data set, or a file as well."""
    own = {"dataset": _FILES, "names": _NAMES}
    for action in actions(parser):
        found = folder if action.metavar == "DIR" else None
        if action.dest in own:
            found = {**file, **dict.fromkeys(_FUNCTIONS, own[action.dest])}
        if found is not None:
            action.complete = found  # pyright: ignore[reportAttributeAccessIssue]
