"""One rival in an environment of its own: a process that is given a problem and asked for answers.

The problem goes over as an npz file, each answer comes back as one; requests are lines of JSON. The
process times itself, so that starting it, and passing arrays, cost the rival nothing.
"""

import json
import os
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import environments

__all__ = ["PeerError", "Worker"]


class PeerError(Exception):
    """Why a rival gave no answer."""


class Worker:
    """A rival at work on one problem; use it in a `with`.

    Attributes:
        versions: of its packages, by name.
    """

    def __init__(self, script: str, environment: str, problem: dict[str, Any], limit: float = 600):
        """Start it, and wait until it has read the problem.

        Args:
            script: the name of a file of `scripts/`.
            environment: the one to run it in.
            problem: arrays.
            limit: seconds that it may take for an answer.

        Raises:
            PeerError: if its environment has not been made, or it fails.
        """
        interpreter = environments.python(environment)
        if interpreter is None:
            raise PeerError(f"environment {environment} is not installed; --peers makes it")
        self._limit = limit
        self._folder = tempfile.TemporaryDirectory()
        here = Path(self._folder.name)
        np.savez(here / "problem.npz", **problem)
        self._answer, self._log = here / "answer.npz", here / "log"
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [interpreter, Path(__file__).parent / "scripts" / f"{script}.py",
                 here / "problem.npz", self._answer],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env=clean, cwd=here,
            )  # fmt: skip
        try:
            self.versions: dict[str, str] = self._next()
        except PeerError:
            self.__exit__()
            raise

    def ask(self, **request: Any) -> dict[str, Any]:
        """What the script says of one more run: `seconds`, and what it adds.

        Raises:
            PeerError: if it fails or takes too long.
        """
        requests = self._process.stdin
        assert requests is not None
        try:
            requests.write(json.dumps(request) + "\n")
            requests.flush()
        except BrokenPipeError:
            pass  # the log says why
        return self._next()

    def answer(self) -> dict[str, np.ndarray]:
        """The arrays of the last run."""
        with np.load(self._answer) as file:
            return dict(file)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def _next(self) -> dict[str, Any]:
        answers = self._process.stdout
        assert answers is not None
        late = threading.Timer(self._limit, self._process.kill)
        late.start()
        line = answers.readline()
        expired = not late.is_alive()
        late.cancel()
        if line:
            return json.loads(line)
        if expired:
            raise PeerError(f"no answer within {self._limit:.0f} seconds")
        if self._process.wait() < 0:
            raise PeerError(f"killed by signal {-self._process.returncode}, of memory as a rule")
        said = self._log.read_text().strip().splitlines() or ["it ended without a word"]
        raise PeerError(said[-1])
