"""The other end of `peers/worker.py`: runs in a rival's environment, with NumPy at most.

A script hands over `prepare(problem)`, which returns a function of a request's settings; that
function returns the arrays of the answer and a dictionary of anything worth saying. Its run is
timed, saving is not.
"""

import json
import os
import sys
import time
from importlib.metadata import version

import numpy as np


def serve(prepare, *packages):
    """Answer requests until there are none."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to the log

    def say(message):
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    _, source, target = sys.argv
    with np.load(source) as file:
        problem = dict(file)
    run = prepare(problem)
    say({name: version(name) for name in packages})
    for line in sys.stdin:
        settings = json.loads(line)
        begin = time.perf_counter()
        arrays, notes = run(**settings)
        seconds = time.perf_counter() - begin
        np.savez(target, **arrays)
        say({"seconds": seconds, **notes})
