"""The command `leaveout`; the last line is JSON: programs compiled, or taken from the cache."""

import json
import sys

import jax

from leaveout.studies.cli.main import main

programs: list[float] = []


def listen(event: str, duration_secs: float, **about: str | int) -> None:
    """Counts programs."""
    if event.endswith("backend_compile_duration"):
        programs.append(duration_secs)


jax.monitoring.register_event_duration_secs_listener(listen)
code = main()
print(json.dumps({"programs": len(programs)}))
sys.exit(code)
