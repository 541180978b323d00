"""How Sphinx builds the site: `sphinx-build -W docs build/site`.

Notebooks are Python files of `notebooks/`. They are shown as they are written, unless
`LEAVEOUT_NOTEBOOKS` names a folder of them as .ipynb that have been run (`.ci/run` makes one), or
`LEAVEOUT_RUN_NOTEBOOKS=cache` has Sphinx run those that changed since the last time.
"""

import os
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import docstrings  # noqa: E402
import generated  # noqa: E402

project = "leaveout"
author = "The leaveout developers"
project_copyright = "The leaveout developers, Apache License 2.0"
release = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["examples", "**/_*", "_build", "**/.ipynb_checkpoints"]
root_doc = "index"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = os.environ.get("LEAVEOUT_RUN_NOTEBOOKS", "off")
nb_execution_timeout = 1200
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_typehints = "none"  # shapes stand in the text, before what they are
autodoc_preserve_defaults = True  # `Auto(rtol=1e-8)`, as it is written
autodoc_member_order = "bysource"
maximum_signature_line_length = 90
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Source"]
viewcode_line_numbers = True

html_theme = "furo"
html_title = f"leaveout {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#22577a", "color-brand-content": "#22577a"},
    "dark_css_variables": {"color-brand-primary": "#8ecae6", "color-brand-content": "#8ecae6"},
}

generated.write(HERE)


def setup(app) -> None:
    """Have docstrings read as they are written: see `docstrings`."""
    app.connect("autodoc-process-docstring", docstrings.process, priority=400)  # before napoleon
