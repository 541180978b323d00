"""Virtual environments of the rivals, made on request, versions pinned.

They lie in the user's cache, named after their pins: changed pins make another environment.
"""

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["ENVIRONMENTS", "make", "python"]

# Each step is one call of `pip install`; "--no-deps" keeps out what a rival asks for and does not
# need here: kronfluence asks for torchvision, which brings another torch.
ENVIRONMENTS = {
    "jax": (("jax==0.10.2", "optimistix==0.1.0", "optax==0.2.8"),),
    "values": (("pydvl==0.10.0", "numpy<2", "pandas<3"),),
    "statsmodels": (("statsmodels==0.15.0", "numpy==2.4.6", "scipy==1.17.1"),),
    "torch": (
        ("torch==2.13.0",),
        ("numpy<2", "pandas<3", "pydvl[influence]==0.10.0", "captum==0.9.0", "dattri==0.3.0"),
        ("--no-deps", "kronfluence==1.0.1", "einconv==0.1.0"),
        (
            "numpy<2",
            "accelerate==1.15.0",
            "einops==0.8.2",
            "safetensors==0.8.0",
            "opt_einsum==3.4.0",
        ),
    ),
}
_CACHE = Path.home() / ".cache" / "leaveout" / "peers"


def python(name: str) -> Path | None:
    """The interpreter of an environment that has been made, else None."""
    folder = _folder(name)
    return folder / "bin" / "python" if (folder / "complete").is_file() else None


def make(name: str) -> None:
    """Make an environment unless it is there: downloads packages, minutes for torch."""
    if python(name) is not None:
        return
    folder = _folder(name)
    print(f"making the environment of {name} in {folder}", flush=True)
    venv.create(folder, clear=True, with_pip=True)
    for step in ENVIRONMENTS[name]:
        subprocess.run(
            [folder / "bin" / "python", "-m", "pip", "install", "--quiet", *step], check=True
        )
    (folder / "complete").touch()


def _folder(name: str) -> Path:
    pins = repr((ENVIRONMENTS[name], sys.version_info[:2]))
    return _CACHE / f"{name}-{hashlib.sha256(pins.encode()).hexdigest()[:8]}"
