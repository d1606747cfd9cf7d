"""The table of cases, checked with the naive algorithm and every backend."""

from __future__ import annotations

import collections

import pytest

from curation import naive
from metaclip.matching.matcher import Matcher
from metaclip.matching.text_rule import PAPER
from metaclip.metadata import Metadata, shipped_list
from tests import oracle
from tests.backends import BACKENDS
from tests.cases.matching import CASES, Case

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def test_cases_have_different_names() -> None:
    """The name of a case identifies it."""
    names = collections.Counter(case.name for case in CASES)
    assert [name for name, n in names.items() if n > 1] == []


def test_the_default_list() -> None:
    """Without a list, a Matcher has the shipped one, as `Metadata.read()` does."""
    matcher = Matcher()
    assert matcher.metadata.digest == Metadata.read().digest == Metadata.read(shipped_list()).digest
    assert matcher.metadata[matcher.find("zebra")[0]] == "zebra"


@every_case
def test_naive(case: Case) -> None:
    """The naive algorithm finds the matches in the table."""
    assert oracle.match(case.entries, case.text, case.rule) == case.ids


@pytest.mark.parametrize("backend", BACKENDS)
@every_case
def test_backend(case: Case, backend: str) -> None:
    """Each backend finds the matches in the table, also for a text between other texts."""
    matcher = Matcher(case.entries, case.rule, backend=backend, cache=False)
    assert matcher.match([case.text]).to_pylist() == [case.ids]
    around = [case.entries[0], None, case.text, "", case.text, case.entries[-1]]
    found = matcher.match(around).to_pylist()
    assert found[1] is None
    assert found[2] == found[4] == case.ids


@pytest.mark.parametrize(
    "rule", sorted({case.rule for case in CASES}, key=str), ids=lambda rule: rule.identity
)
def test_all_lists_of_a_rule_in_one(rule: object) -> None:
    """Cases do not affect each other: one list of all entries finds in each text what the naive algorithm finds."""
    cases = [case for case in CASES if case.rule == rule]
    entries = list(
        dict.fromkeys(entry for case in cases for entry in case.entries if len(case.entries) < 1000)
    )
    texts = [case.text for case in cases]
    wanted = [oracle.match(entries, text, cases[0].rule) for text in texts]
    for backend in BACKENDS:
        assert (
            Matcher(entries, cases[0].rule, backend=backend, cache=False).match(texts).to_pylist()
            == wanted
        )


def test_paper_rule_is_the_naive_algorithm() -> None:
    """The default rule pads texts and entries exactly as curation/naive.py does."""
    for case in CASES:
        assert PAPER.text(case.text) == naive.pad_text(case.text)
        assert [PAPER.entry(entry) for entry in case.entries] == [
            naive.pad_entry(entry) for entry in case.entries
        ]


def test_one_string_is_refused() -> None:
    """A string is not a column of texts: it is not matched letter by letter."""
    with pytest.raises(TypeError, match="one string"):
        Matcher(["a"], cache=False).match("a dog")


def test_another_type_is_refused() -> None:
    """A column that does not hold strings is refused with its type."""
    import pyarrow as pa

    with pytest.raises(TypeError, match="int64"):
        Matcher(["a"], cache=False).match(pa.array([1, 2]))
    with pytest.raises(TypeError, match="int64"):
        Matcher(["a"], cache=False).match(pa.array([1, 2]).dictionary_encode())


def test_another_backend_is_refused() -> None:
    """An unknown backend is refused, and the error lists the known ones."""
    with pytest.raises(ValueError, match="'native' or 'pyahocorasick'"):
        Matcher(["a"], backend="grep", cache=False)  # type: ignore[arg-type]
