"""The configuration of the documentation site, which `make site` builds with Sphinx, MyST and the theme furo. The site works offline."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]

project = "Manifold"
author = "The Manifold maintainers"
copyright = author
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser"]
smartquotes = False  # `--models` outside code would become a dash
myst_heading_anchors = 4  # links to headings, as GitHub names them
exclude_patterns = ["site"]

html_theme = "furo"
html_title = f"Manifold {release}"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_show_search_summary = False  # browsers do not fetch pages from file://
html_use_index = False
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["static"]
html_css_files = ["site.css"]
