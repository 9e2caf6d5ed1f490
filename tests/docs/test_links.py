"""Every link from one page to a file leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.test_blocks import PAGES, ROOT

LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "benchmarks" / "README.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [(a or b).partition("#")[0] for a, b in LINK.findall(page.read_text())]
    lost = [t for t in targets if t and "://" not in t and not (page.parent / t).exists()]
    assert lost == []
