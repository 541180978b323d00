"""Run the benchmarks: `python -m benchmarks [--smoke | --full] [--device gpu] [--only FILE]`.

Rivals that are not installed run in environments of their own, which --full and --peers make;
otherwise those not made yet are skipped. On a GPU none run: what is timed there is ourselves, and
the results go to a folder of their own. There one sits at a machine that is lent: what matters most
comes first, each case is recorded when it is done, and after --minutes no other is begun.
"""

import argparse
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.harness import minutes_left, time_left
from benchmarks.peers import environments
from benchmarks.plots import draw
from benchmarks.process import begin, run

_KINDS = ("accuracy_", "memory_", "reliability", "speed_")
_ON_DEVICE = ("speed_roofline", "speed_large", "speed_networks", "speed_banks")


def main() -> None:
    """Run every accuracy_*.py, memory_*.py, speed_*.py and reliability.py beside this file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that they run")
    parser.add_argument("--full", action="store_true", help="the paper's sizes: an hour or more")
    parser.add_argument("--peers", action="store_true", help="install rivals (torch: 1 GB)")
    parser.add_argument("--only", help="run one file, such as speed_influence")
    parser.add_argument(
        "--device", choices=("cpu", "gpu", "tpu"), default="cpu", help="where to compute"
    )
    parser.add_argument(
        "--minutes", type=float, help="after which no case is begun; default 8 on a device"
    )
    parser.add_argument("--out", type=Path, help="a folder; default benchmarks/results")
    options = parser.parse_args()
    size = "smoke" if options.smoke else "full" if options.full else "small"
    there = begin(size, options.device, options.minutes)
    out = options.out or Path(__file__).parent / "results" / there
    if options.peers or (options.full and not there):
        for name in environments.ENVIRONMENTS:
            environments.make(name)
    here = Path(__file__).parent
    found = [path.stem for kind in _KINDS for path in here.glob(f"{kind}*.py")]
    found.sort(key=lambda name: name.partition("_")[::-1])  # kinds mixed, should time run out
    if options.only is not None and options.only not in found:
        raise SystemExit(f"--only {options.only}: expected one of {', '.join(found)}")
    chosen = [options.only] if options.only else _ON_DEVICE if there else found
    if options.smoke and len(chosen) > 1:  # two at a time, as nobody reads their times
        _apart(chosen, 2, out, size, options.device)
    elif there or len(chosen) == 1:
        for name in chosen:
            run(name, out, size)
    else:  # the programs of all are more than a process has maps of memory for
        for name in chosen:
            if time_left(name):
                _apart([name], 1, out, size, options.device)
    for path in draw(out):
        print(f"drew {path}")


def _apart(names: Sequence[str], workers: int, out: Path, size: str, device: str) -> None:
    """Run benchmarks in processes of their own, in the time that is left."""
    work = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, work, begin, (size, device, minutes_left())) as pool:
        for done in [pool.submit(run, name, out, size) for name in names]:
            done.result()


if __name__ == "__main__":
    main()
