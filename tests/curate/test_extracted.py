"""The account of a run says how its pool was extracted, and whether opt-outs of pages were ignored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metaclip import ExtractSettings, curate, extract
from tests.crawls import image, packed, wat


@pytest.fixture
def crawl(tmp_path: Path) -> Path:
    pytest.importorskip("isal", reason="needs metaclip[crawl]")
    said = [{"name": "robots", "content": "noai"}]
    pages = [
        wat("https://e.org/", [image("/1.jpg", "a photo of a dog"), image("/2.jpg")]),
        wat("https://e.org/no", [image("/3.jpg", "a photo of a cat")], metas=said),
    ]
    (tmp_path / "crawl.warc.wat.gz").write_bytes(packed(pages))
    return tmp_path / "crawl.warc.wat.gz"


@pytest.mark.parametrize(
    ("ignored", "pairs", "says"),
    [
        (False, 1, "3 images, 1 pairs; left out because their pages opt out: noai 1"),
        (True, 2, "3 images, 2 pairs; opt-outs of pages (noai and the like) were ignored"),
    ],
)
def test_the_account_of_an_extracted_pool(
    crawl: Path, tmp_path: Path, ignored: bool, pairs: int, says: str
) -> None:
    """card.json has the funnel of the extraction and the setting, card.md a sentence."""
    extract(crawl, out=tmp_path / "pool", settings=ExtractSettings(identify=False, ignore_noai=ignored))
    run = curate(tmp_path / "pool", ["photo"], out=tmp_path / "run", t=10)
    account = json.loads((run.path / "card.json").read_text())
    [found] = account["extracted"]
    assert (found["ignore_noai"], found["agents"]) == (ignored, "CCBot,img2dataset")
    assert (found["funnel"]["images_seen"], found["funnel"]["pairs"]) == (3, pairs)
    assert says in (run.path / "card.md").read_text()


@pytest.mark.parametrize(
    ("manifest", "found"),
    [
        ({"settings": {"extract": {"lang": "en"}}, "funnel": {"pairs": 2, "odd": "x"}}, [{"ignore_noai": None, "agents": None, "funnel": {"pairs": 2}}]),
        ({"settings": {"extract": 1}, "funnel": {}}, None), ({"settings": {"match": {}}, "funnel": {}}, None), ([], None), ("{", None),
    ],
)  # fmt: skip
def test_a_manifest_of_another_kind(tmp_path: Path, manifest: object, found: object) -> None:
    """What stands beside a pool is read as far as it is an extraction's, and never stops a run."""
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "x.jsonl").write_text('{"text": "a photo"}\n')
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    (tmp_path / "pool" / "manifest.json").write_text(text)
    run = curate(tmp_path / "pool", ["photo"], out=tmp_path / "run", t=10)
    assert json.loads((run.path / "card.json").read_text()).get("extracted") == found
