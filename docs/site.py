"""The documentation as a site: the README is its first page, and pages that are named become links."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=readme.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    return re.sub(r"`docs/([\w.]+\.md)`", linked, markdown)


def linked(found: re.Match[str]) -> str:
    if not (DOCS / found[1]).is_file():
        raise PluginError(f"docs/{found[1]} is named, and is not there.")
    return f"[{found[1].removesuffix('.md')}]({found[1]})"
