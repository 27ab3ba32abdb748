"""For the site (mkdocs.yml): links that leave docs/ lead to the repository."""

from __future__ import annotations

import re
from typing import Any

HOME = "https://github.com/amtl-export/amtl-export/blob/main/"
RAW = "https://raw.githubusercontent.com/amtl-export/amtl-export/main/"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by mkdocs with each page: `](../benchmarks/lookup.py)` becomes a link, `![…](../…)` a picture.

    A page in a folder of docs/ writes `../../` for the repository, and `../` for a page beside its folder.
    """
    out = r"\.\./" * (1 + page.file.src_uri.count("/"))
    pictures = re.sub(rf"(!\[[^\]]*\]\(){out}", rf"\g<1>{RAW}", markdown)
    return re.sub(rf"\]\({out}", f"]({HOME}", pictures)
