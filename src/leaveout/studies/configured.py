"""What determines the numbers of an experiment: its fields, its methods by all their names."""

import abc
import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from leaveout.fitting.fitted import Fit
from leaveout.measures import Measure
from leaveout.methods import BY_WORD, Method, Prepared
from leaveout.runtime.hashes import of_json
from leaveout.studies.given import Given, from_json, to_json

__all__ = ["Chosen", "Configured", "Recorded", "chosen", "file_name", "parsed", "pick"]


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A method of an experiment, by all its names.

    Attributes:
        text: in the configuration: a word of `methods.BY_WORD`, or the repr of your own method.
        word: in names of files: that word, or what of its name a file can be called.
        name: for tables and axes.
        method: what is run.
    """

    text: str
    word: str
    name: str
    method: Method = dataclasses.field(compare=False, repr=False)

    @property
    def given(self) -> str | Method:
        """The word, or the method of your own."""
        return self.text if self.text in BY_WORD else self.method

    @property
    def label(self) -> str:
        """The word, or the name of a method of your own."""
        return self.text if self.text in BY_WORD else self.name


@dataclasses.dataclass(frozen=True, repr=False)
class Recorded(Method):
    """A method that a folder knows by its names, and whose code is somewhere else.

    Attributes:
        text: its repr.
        title: its name.
    """

    text: str
    title: str

    def __repr__(self) -> str:
        return self.text

    @property
    def name(self) -> str:
        """For tables and axes."""
        return self.title

    def prepare(self, fit: Fit, measures: Sequence[Measure]) -> Prepared:
        """There is nothing to run.

        Raises:
            ValueError: with what to do.
        """
        raise ValueError(
            f"the code of {self.text} is not here: it can be read, but to go on with it, run the "
            "study from Python with that method among its methods"
        )


def pick(method: str | Method) -> Chosen:
    """A method by its word, or one of your own.

    Raises:
        ValueError: for an unknown word, or a method whose repr does not say what it is, or whose
            name says what it is not.
    """
    if isinstance(method, str):
        if method not in BY_WORD:
            raise ValueError(f"unknown method {method!r}; known: {', '.join(BY_WORD)}")
        return Chosen(method, method, BY_WORD[method].name, BY_WORD[method])
    if not isinstance(method, Method):
        raise ValueError(
            f"expected one of {', '.join(BY_WORD)}, or a value of your own lo.Method, "
            f"got {method!r}"
        )
    text = repr(method)
    for word, known in BY_WORD.items():
        if type(known) is type(method) and repr(known) == text:
            return pick(word)
    if re.search(r" at 0x[0-9a-fA-F]+", text):
        raise ValueError(
            f"a study is named by its methods, and {text} would be called otherwise in the next "
            "process; make it a frozen dataclass, of fields that say what they are"
        )
    if method.name == "actual" and not (method.actual or isinstance(method, Recorded)):
        raise ValueError(f"{text} is called 'actual', which is the name of retraining")
    return Chosen(text, file_name(method.name), method.name, method)


def chosen(methods: Iterable[str | Method]) -> tuple[Chosen, ...]:
    """The methods, each once, in their order.

    Raises:
        ValueError: as of `pick`, or if two have one name.
    """
    found = tuple(dict.fromkeys(pick(method) for method in methods))
    seen: dict[str, str] = {}
    for each in found:
        for name in {n.casefold() for n in (each.name, each.word, file_name(each.name))}:
            if seen.setdefault(name, each.text) != each.text:
                raise ValueError(
                    f"{seen[name]} and {each.text} are both called {name!r}; give your own method "
                    "another name"
                )
    return found


def file_name(name: str) -> str:
    """What of a name a file can be called on any system."""
    return re.sub(r"[^\w.+=]+", "-", name)[:60].strip("-.") or "method"


@dataclasses.dataclass(frozen=True, eq=False)
class Configured(abc.ABC):
    """What determines the numbers of an experiment; two of the same numbers are equal.

    Attributes:
        dataset: a name known to `datasets.load`, or a data set of one's own.
    """

    dataset: Given

    @property
    @abc.abstractmethod
    def chosen(self) -> tuple[Chosen, ...]:
        """Its field `methods`, words of `methods.BY_WORD` or your own, by all their names."""

    @property
    def repeats(self) -> int:
        """Thetas whose effects are asked about, one after the other."""
        return 1

    @classmethod
    @abc.abstractmethod
    def owns(cls, fields: dict[str, Any]) -> bool:
        """Whether these fields, which a folder holds, are of this kind of experiment."""

    @abc.abstractmethod
    def folder(self) -> str:
        """The default name of its folder."""

    @abc.abstractmethod
    def in_words(self) -> str:
        """What it is, for a line of a list."""

    def to_json(self) -> dict[str, Any]:
        """The fields as `json.loads` gives them back, and the names of methods of your own."""
        every = self.chosen
        fields = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        own = {each.text: each.name for each in every if each.text not in BY_WORD}
        text = {"methods": [each.text for each in every]} | ({"names": own} if own else {})
        return json.loads(json.dumps(fields | text | {"dataset": to_json(self.dataset)}))

    def title(self) -> str:
        """What its data is called in the names of files; of one's own, told from any other."""
        if isinstance(self.dataset, str):
            return self.dataset
        return f"{file_name(self.dataset.name)}-{of_json(to_json(self.dataset))[:8]}"

    def mark(self) -> str:
        """A short hash of its fields, for the names of folders."""
        return of_json(self.to_json())[:8]

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_json(), sort_keys=True))


_Kind = TypeVar("_Kind", bound=Configured)


def parsed(kind: type[_Kind], fields: dict[str, Any], path: Path) -> _Kind:
    """The configuration of what `to_json` gave; methods of your own need not be there.

    Args:
        kind: of experiment.
        fields: from a file.
        path: of that file.

    Raises:
        ValueError: if they make no sense.
    """
    try:
        names: dict[str, str] = fields.get("names", {})
        methods = tuple(
            Recorded(text, names[text]) if text in names else text for text in fields["methods"]
        )
        rest = {name: value for name, value in fields.items() if name not in ("methods", "names")}
        return kind(**(rest | {"methods": methods, "dataset": from_json(fields["dataset"])}))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
