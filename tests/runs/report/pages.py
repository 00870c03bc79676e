"""Pages as one reads them."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

from camreid.runs.report.page import build_page, read_folder


def page_of(*folders: Path) -> str:
    return build_page([read_folder(f) for f in folders])


def table(page: str, title: str) -> dict[str, list[str]]:
    """The cells of a table by row, as one reads them."""
    whole = re.search(rf'aria-label="{re.escape(title)}">(.*?)</table>', page, re.DOTALL)
    assert whole, title
    rows = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', whole[1], re.DOTALL)
    return {
        re.sub("<.*?>", "", label): [
            unescape(re.sub("<.*?>", "", cell.replace("<small>", " | ")))
            for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
        ]
        for label, row in rows
    }


def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "matrix.json").read_text())


def noted(page: str) -> str:
    """The notes, as one reads them."""
    return unescape(" ".join(re.findall(r'<p class="note">(.*?)</p>', page, re.DOTALL)))
