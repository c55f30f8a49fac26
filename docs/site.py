"""The site's hook: pages that stand elsewhere in the repository, and links that hold in both places.

Pages link files of the repository by relative path, as a reader of the repository follows them. On the site a link to a
page leads to that page, and one to a file or folder that is no page is its text alone; one to nothing is a warning.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

log = logging.getLogger("mkdocs.hooks.site")
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "suites.md",
}
"""Pages by their place in the repository: where they stand on the site. Each plugin's README joins them."""
NOTEBOOK = "quickstart"
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r'<picture><source [^>]*srcset="([^"]+)"><img src="([^"]+)" alt="([^"]+)"></picture>')


def on_config(config: Any) -> Any:
    """Fill in the navigation's folders: `adr/*` is every page of it, in order."""
    root = Path(config.config_file_path).parent
    places = [path.relative_to(root / "docs").as_posix() for path in sorted((root / "docs").glob("**/*.md"))]
    config.nav = listed(config.nav, [*places, *pages(root).values()])
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that stand elsewhere, and the quickstart's notebook as a page."""
    root = Path(config.config_file_path).parent
    for source, place in pages(root).items():
        files.append(File.generated(config, place, content=(root / source).read_text(encoding="utf-8")))
    notebook = json.loads((root / "docs" / f"{NOTEBOOK}.ipynb").read_text(encoding="utf-8"))
    files.append(File.generated(config, f"{NOTEBOOK}.md", content=from_notebook(notebook)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Mend a page's links and pictures; code is left alone."""
    root = Path(config.config_file_path).parent
    place = page.file.src_uri
    source = next((source for source, other in pages(root).items() if other == place), f"docs/{place}")
    markdown = PICTURE.sub(r"![\3](\2#only-light)\n![\3](\1#only-dark)", markdown)

    def lead(match: re.Match[str]) -> str:
        return relink(match[1], source, place, root) + (match[2] or "")

    pieces = CODE.split(markdown)
    pieces[::2] = [LINK.sub(lead, piece) for piece in pieces[::2]]
    return re.sub(r"(?<!!)\[([^\]]+)\]\(-[^)]*\)", r"\1", "".join(pieces))


def listed(nav: Any, places: Sequence[str]) -> Any:
    """A navigation, with the pages of each folder that it names so."""
    if isinstance(nav, list):
        return [listed(each, places) for each in nav]
    if isinstance(nav, dict):
        return {title: listed(each, places) for title, each in nav.items()}
    return [place for place in places if fnmatch(place, nav)] if nav.endswith("/*") else nav


def pages(root: Path) -> dict[str, str]:
    """Pages outside of docs/ by their place in the repository, with their place on the site."""
    readmes = sorted(root.glob("plugins/*/README.md"))
    return ELSEWHERE | {path.relative_to(root).as_posix(): f"plugins/{path.parent.name}.md" for path in readmes}


def relink(target: str, source: str, place: str, root: Path) -> str:
    """A link of the repository's page `source` as it is from `place` on the site; `-` where it leads to no page."""
    wanted = os.path.normpath(PurePosixPath(source).parent / target)
    if not (root / wanted).exists():
        log.warning(f"{source} links {target}, and there is no {wanted}")
        return "-"
    on_site = pages(root).get(wanted)
    if wanted == f"docs/{NOTEBOOK}.ipynb":
        on_site = f"{NOTEBOOK}.md"
    elif wanted.startswith("docs/") and (root / wanted).is_file():
        on_site = wanted.removeprefix("docs/")
    return os.path.relpath(on_site, PurePosixPath(place).parent) if on_site else "-"


def from_notebook(notebook: dict[str, Any]) -> str:
    """A notebook as Markdown: text, code, and what each cell gave."""
    parts = list[str]()
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        parts += [_output(output) for output in _joined(cell.get("outputs", ()))]
    return "\n\n".join(parts)


def _joined(outputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outputs, of which lines that were printed one after the other are one."""
    joined = list[dict[str, Any]]()
    for output in outputs:
        if joined and output.get("name") and output.get("name") == joined[-1].get("name"):
            joined[-1] = joined[-1] | {"text": [*joined[-1]["text"], *output["text"]]}
        else:
            joined.append(output)
    return joined


def _output(output: dict[str, Any]) -> str:
    """Give what a cell gave: a picture where it has one, else its own HTML, else its text."""
    data = output.get("data", {})
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return f'<img alt="" src="data:{kind};base64,{"".join(data[kind]).replace(chr(10), "")}">'
    if "text/html" in data:
        return f'<div class="output">{"".join(data["text/html"])}</div>'
    text = "".join(output.get("text") or data.get("text/plain", ())).replace("\r", "")
    return f"```text\n{text.rstrip()}\n```"
