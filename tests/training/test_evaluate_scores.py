"""Figures of an evaluation: those of open_clip and CLIP_benchmark; prompts; lines of results."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs torch: pip install '.[train]'")

import torch

from metaclip.errors import MetaclipError
from metaclip.training.evaluation import prompts, scores
from metaclip.training.evaluation.results import append_result, read_results

pytestmark = pytest.mark.extra


# -- classification


def test_scores_of_a_table() -> None:
    """Accuracy is over images, mean per class over classes that have images; the top five count where there are five."""
    found = np.array([[0, 1], [1, 0], [0, 1], [2, 0]])
    figures, per_class = scores.accuracies(found, np.array([0, 0, 0, 2]), ["a", "b", "c"])
    assert figures == {
        "accuracy": 0.75, "mean_per_class": pytest.approx((2 / 3 + 1) / 2), "macro_f1": pytest.approx((0.8 + 1) / 2),
    }  # fmt: skip
    assert per_class == {"a": pytest.approx(2 / 3), "b": None, "c": 1.0}
    many = np.array([[4, 0, 1, 2, 3], [0, 1, 2, 3, 4]])
    figures, _ = scores.accuracies(many, np.array([3, 5]), list("abcdef"))
    assert figures == {"accuracy": 0.0, "accuracy_top5": 0.5, "mean_per_class": 0.0, "macro_f1": 0.0}


@given(st.lists(st.tuples(st.integers(0, 5), st.permutations(range(6))), min_size=1, max_size=30))
def test_scores_by_their_definitions(rows: list[tuple[int, list[int]]]) -> None:
    """Accuracy as open_clip's trainer counts it, from logits; mean per class as scikit-learn defines balanced accuracy."""
    labels = np.array([label for label, _ in rows])
    order = np.array([order for _, order in rows])
    figures, _ = scores.accuracies(order[:, :5], labels, list("abcdef"))
    logits = torch.tensor(-np.argsort(order, axis=1).astype(np.float32))
    hits = logits.topk(5, dim=1).indices == torch.tensor(labels)[:, None]
    assert figures["accuracy"] == hits[:, 0].sum().item() / len(rows)
    assert figures["accuracy_top5"] == hits.sum().item() / len(rows)
    recalls = [
        np.mean([row[0] == c for label, row in rows if label == c]) for c in sorted(set(labels.tolist()))
    ]
    assert figures["mean_per_class"] == pytest.approx(np.mean(recalls))


# -- retrieval


def naive_recall(near: np.ndarray, own: np.ndarray, k: int) -> float:
    """Return the share of rows with a right answer among the k nearest."""
    return float(
        np.mean([own[i][np.argsort(-near[i], kind="stable")[:k]].any() for i in range(len(near))])
    )


@given(st.lists(st.integers(1, 4), min_size=1, max_size=9), st.integers(0, 2**32 - 1))
def test_recalls_are_counts_where_nothing_ties(texts: list[int], seed: int) -> None:
    """With several texts an image, recall is the part of queries with a right answer among the k nearest."""
    draw = np.random.default_rng(seed)
    image_of = np.repeat(np.arange(len(texts)), texts)
    images, captions = draw.normal(size=(len(texts), 6)), draw.normal(size=(len(image_of), 6))
    own = image_of[None, :] == np.arange(len(texts))[:, None]
    figures = scores.recalls(torch.tensor(images), torch.tensor(captions), torch.tensor(image_of))
    near = images @ captions.T
    assert list(figures) == [
        f"{way}@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)
    ] + ["mean@1"]
    for k in (1, 5, 10):
        assert figures[f"image_to_text@{k}"] == pytest.approx(naive_recall(near, own, k))
        assert figures[f"text_to_image@{k}"] == pytest.approx(naive_recall(near.T, own.T, k))


@pytest.mark.parametrize(
    ("right", "wrong", "ahead"), [(1, 3, 0), (2, 2, 1), (1, 0, 2), (3, 1, 0), (1, 4, 3)]
)
def test_ties_are_taken_in_every_order_alike(right: int, wrong: int, ahead: int) -> None:
    """The chance of a hit is the part of orders of what ties that have a right answer among the first k."""
    for k in range(1, 7):
        orders = [
            [False] * ahead + list(one)
            for one in itertools.permutations([True] * right + [False] * wrong)
        ]
        wanted = np.mean([any(order[:k]) for order in orders])
        got = scores.hit_chance(np.array([ahead]), np.array([right]), np.array([wrong]), k)
        assert got == pytest.approx([wanted])


def test_a_model_that_says_one_thing_has_the_recall_of_chance() -> None:
    """One vector for everything finds nothing."""
    same = torch.ones(50, 4)
    figures = scores.recalls(same, same, torch.arange(50))
    assert figures == {
        f"{way}@{k}": pytest.approx(k / 50)
        for way in ("image_to_text", "text_to_image")
        for k in (1, 5, 10)
    } | {"mean@1": pytest.approx(1 / 50)}


def test_recalls_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many scores are made at a time changes nothing."""
    torch.manual_seed(0)
    images, texts, image_of = torch.randn(23, 5), torch.randn(46, 5), torch.arange(46) // 2
    whole = scores.recalls(images, texts, image_of)
    monkeypatch.setattr(scores, "BLOCK", 100)
    assert scores.recalls(images, texts, image_of) == whole


# -- prompts


@pytest.mark.parametrize("templates", prompts.TEMPLATES.values(), ids=prompts.TEMPLATES)
def test_our_templates_have_one_place_each(templates: tuple[str, ...]) -> None:
    """Each is filled in once, and no two are the same."""
    assert len(set(templates)) == len(templates)
    for template in templates:
        assert prompts.fill(template, "dog").count("dog") == 1
        assert "{" not in prompts.fill(template, "dog")


def test_a_template_is_text() -> None:
    """Nothing but the place of the class name is looked at, so that a file cannot reach into objects."""
    assert (
        prompts.fill("{c.__class__} {0!r} a {c}, %s", "a {c} dog")
        == "{c.__class__} {0!r} a a {c} dog, %s"
    )
    assert [fill("cat") for fill in prompts.fillers(["a {}.", "the {c}"])] == ["a cat.", "the cat"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a {c}\na dog\n", "t.txt, line 2: 'a dog' has no {c} where the class name goes"),
        ("a {c}\n\nthe {c}\n", "t.txt, line 2: it is empty"),
        ("", "t.txt, line 1: it is empty"),
    ],
)
def test_bad_templates(text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template without a place for the name, and an empty line, are refused by line."""
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text(text)
    with pytest.raises(MetaclipError) as error:
        prompts.templates_of("t.txt")
    assert str(error.value).startswith(says)


def test_templates_that_are_not_there() -> None:
    """A name that is neither ours nor a file's is told with ours."""
    with pytest.raises(MetaclipError, match="'pohto', which is no file and none of ours .name, photo."):
        prompts.templates_of("pohto")


# -- lines of results


def result(number: int) -> dict[str, Any]:
    return {"task": f"t{number}", "metrics": {"accuracy": number / 10}, "identity": f"{number:064d}"}


def test_results_come_back(tmp_path: Path) -> None:
    """What was added is read, in order; no file is no results."""
    path = tmp_path / "new" / "results.jsonl"
    assert read_results(path) == []
    for number in range(3):
        append_result(path, result(number))
    assert read_results(path) == [result(number) for number in range(3)]


def test_a_line_cut_anywhere_is_no_result(tmp_path: Path) -> None:
    """What a power cut left of the last line does not count, and does not spoil the next one."""
    path = tmp_path / "results.jsonl"
    append_result(path, result(0))
    begin = path.stat().st_size
    append_result(path, result(1))
    whole = path.read_bytes()
    for size in range(begin, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert read_results(path) == [result(0)]
        append_result(path, result(2))
        assert read_results(path) == [result(0), result(2)]


@pytest.mark.parametrize(
    "content", ["task,accuracy\ncifar10,0.5\n", '{"epoch": 1}\n', "{}\n", "\x00\x01"]
)
def test_another_kind_of_file_is_left_alone(content: str, tmp_path: Path) -> None:
    """A file that holds other lines than results is refused, by line."""
    path = tmp_path / "results.jsonl"
    path.write_text(content)
    with pytest.raises(MetaclipError, match=r"results\.jsonl, line 1: it is no result"):
        read_results(path)


def test_a_full_disk_takes_nothing(tmp_path: Path) -> None:
    """A line that does not fit is taken back: the results before it stand, and one line says so."""
    path = tmp_path / "results.jsonl"
    append_result(path, result(0))
    before = path.read_bytes()
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from metaclip.errors import MetaclipError\n"
        "from metaclip.training.evaluation.results import append_result\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 30}, {len(before) + 30}))\n"
        "try:\n"
        f"    append_result(Path({os.fspath(path)!r}), {result(1)!r})\n"
        "except MetaclipError as error:\n"
        "    sys.exit(str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{path} cannot be written (")
    assert done.stderr.count("\n") == 1
    assert path.read_bytes() == before


def test_results_are_json_lines(tmp_path: Path) -> None:
    """Any reader of JSON lines reads them."""
    append_result(tmp_path / "r.jsonl", result(4))
    assert [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()] == [result(4)]
