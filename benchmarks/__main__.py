"""Run the benchmarks: `python -m benchmarks [--smoke | --full] [--out DIR]`."""

import argparse
import importlib
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)


def main() -> None:
    """Run every speed_*.py and accuracy_*.py beside this file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that they run")
    parser.add_argument("--full", action="store_true", help="the paper's sizes: most of an hour")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    size = "smoke" if options.smoke else "full" if options.full else "small"
    here = Path(__file__).parent
    for path in sorted([*here.glob("speed_*.py"), *here.glob("accuracy_*.py")]):
        importlib.import_module(f"benchmarks.{path.stem}").main(options.out, size)


if __name__ == "__main__":
    main()
