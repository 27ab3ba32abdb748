"""For the site (mkdocs.yml): links that leave docs/ lead to the repository."""

from __future__ import annotations

import re
from typing import Any

HOME = "https://github.com/amtl-export/amtl-export/blob/main/"
RAW = "https://raw.githubusercontent.com/amtl-export/amtl-export/main/"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with each page: `](../benchmarks/lookup.py)` becomes a link, `![…](../…)` a picture."""
    pictures = re.sub(r"(!\[[^\]]*\]\()\.\./", rf"\g<1>{RAW}", markdown)
    return re.sub(r"\]\(\.\./", f"]({HOME}", pictures)
