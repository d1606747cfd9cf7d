"""The command line: a frozen set of verbs and flags, help that teaches, output as shown, silence where nobody looks."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import click
import pyarrow.json
import pyarrow.parquet as pq
import pytest

from metaclip import Run, __version__, cli
from metaclip.cli import options
from metaclip.curate import explain
from tests import commands
from tests.processes import environment

ROOT = Path(__file__).parents[2]
POOL = ROOT / "curation" / "toy_pool.jsonl"
LIST = ROOT / "metadata" / "toy.txt"

RULE = {
    "--fold-case", "--fold-spaces", "--longest-only", "--nfc", "--space-entries", "--unescape-html",
    "--unicode-separators", "--unspaced-scripts",
}  # fmt: skip
MATCH = {
    "--also", "--fold-duplicates", "--identify", "--language-column", "--languages", "--limit", "--metadata", "--quoting", "--recipe", "--subset", "--text-column", "--uid-column", "--url-column", "--with-text",
} | RULE  # fmt: skip
BALANCE = {
    "--seed",
    "--t",
    "--t-by-language",
    "--t-language",
    "--tail-share",
    "--target-pairs",
    "--weights",
}
ENGINE = {"--address", "--engine"}
WORK = {"--help", "--out", "--overwrite", "--workers", "-h"} | ENGINE
VERBS = {
    "build": {"RECIPE", "--help", "--languages", "--out", "--workers", "-h"} | ENGINE,
    "lint": {"METADATA", "--fold-duplicates", "--help", "--json", "--strict", "-h"} | RULE,
    "extract": {
        "CRAWL", "--agents", "--blocked-domains", "--blocked-words", "--captions", "--dedupe", "--first", "--identify",
        "--ignore-noai", "--lang", "--lazy",
        "--matched", "--max-text", "--memory", "--min-lang-score", "--min-text", "--opt-out", "--part", "--prefix", "--recipe", "--robots", "--sample",
        "--seed", "--srcset", "--titles",
    } | RULE | WORK,
    "inspect": {
        "TARS", "--against", "--hashes-only", "--mirrored", "--split", "--test-distance", "--distance", "--exact-duplicates", "--keep", "--max-aspect", "--max-texts", "--memory", "--metadata", "--min-bytes",
        "--min-side", "--near-duplicates", "--part", "--recipe", "--single-colour", "--text-column", "--uid-column", "--url-column",
    } | WORK,
    "curate": {"POOL", "--allow-lost"} | MATCH | BALANCE | WORK,
    "plan": {"POOL", "--help", "--json", "--pairs", "--seed", "--shards", "--workers", "-h"} | MATCH | ENGINE,
    "match": {"POOL", "--part"} | MATCH | WORK,
    "balance": {"RUN", "--allow-lost", "--recipe"} | BALANCE | WORK,
    "reshard": {
        "TARS", "--allow-lost", "--help", "--out", "--overwrite", "--shard-size", "--subset", "--text-column", "--uid-column",
        "--url-column", "--workers", "-h",
    },
    "train": {
        "RECIPE", "--accumulate", "--allow-lost", "--balance", "--checkpointing", "--compile", "--device", "--help", "--keep",
        "--log-every", "--out", "--overwrite", "--save-every", "--subset", "--t", "--tars", "--tensorboard", "--text",
        "--workers", "-h",
    },
    "evaluate": {
        "MODEL", "--batch", "--checkpoint", "--data", "--device", "--help", "--out", "--precision", "--pretrained", "--split",
        "--suite", "--tasks", "--templates", "--workers", "-h",
    },
    "explain": {"TEXT", "--epoch", "--help", "--language", "--metadata", "--run", "--seed", "--t", "--uid", "--url", "-h"} | RULE,
    "card": {"--help", "-h"},
    "card make": {
        "RUN", "--blocked-words", "--classes", "--contact", "--help", "--license", "--look-ups", "--name", "--out",
        "--overwrite", "--samples", "--url", "--workers", "-h",
    },
    "card verify": {"FOLDER", "--blocked-words", "--help", "--run", "--workers", "-h"},
    "card diff": {"FIRST", "SECOND", "--help", "-h"},
    "card push": {
        "FOLDER", "REPOSITORY", "--blocked-words", "--help", "--private", "--run", "--workers", "-h",
    },
    "card remove": {
        "RUN", "--blocked-words", "--card", "--card-out", "--domains", "--help", "--out", "--overwrite", "--uids", "--urls",
        "--workers", "-h",
    },
    "card apply": {"REMOVED", "COPY", "--help", "--out", "-h"},
}  # fmt: skip
"""Frozen: a word that goes, or changes what it means, breaks somebody's script. What is new is written here on purpose."""


def command_of(verb: str) -> click.Command:
    """Return the command of a verb, or of a verb and what it is to do."""
    found: click.Command = cli.group
    for word in verb.split():
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), word) or pytest.fail(f"no {word}")
    return found


def words_of(verb: str) -> set[str]:
    """Return the arguments and flags that a verb takes."""
    command = command_of(verb)
    context = click.Context(command, **cli.group.context_settings)
    parameters = command.get_params(context)
    return {
        word
        for parameter in parameters
        for word in (parameter.opts if isinstance(parameter, click.Option) else [parameter.name.upper()])
    }


def test_verbs_are_frozen() -> None:
    """The command line has these verbs, in the order in which one needs them."""
    verbs = [verb for verb in VERBS if " " not in verb]
    assert list(cli.VERBS) == verbs == cli.group.list_commands(click.Context(cli.group))
    for verb in verbs:
        inner = [name.partition(" ")[2] for name in VERBS if name.startswith(f"{verb} ")]
        command = command_of(verb)
        assert inner == (list(command.commands) if isinstance(command, click.Group) else [])


@pytest.mark.parametrize("verb", VERBS)
def test_flags_are_frozen(verb: str) -> None:
    """A verb takes these arguments and flags."""
    assert words_of(verb) == VERBS[verb]


# Help -----------------------------------------------------------------------------------------------------------------


def test_help() -> None:
    """The help names every verb, the exit codes and a command to begin with, and is what a bare `metaclip` shows."""
    shown = commands.done("--help")
    assert shown == commands.done("-h") == commands.done()
    for verb, line in cli.VERBS.items():
        assert re.search(rf"^  {verb} +{re.escape(line)}$", shown.out, re.M)
    assert "metaclip curate pairs.parquet --out run/" in shown.out
    for code in ("0 done", "2 usage", "3 finished", "130 interrupted"):
        assert code in shown.out
    assert shown.err == ""


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(verb: str) -> None:
    """The help of a verb says what it does and every flag, and its examples are commands that are well formed."""
    shown = commands.done(*verb.split(), "--help").out
    assert shown == commands.done(*verb.split(), "-h").out
    for word in VERBS[verb]:
        assert re.search(rf"(^|[\s\[,]){re.escape(word)}\b", shown, re.M), word
    examples = re.findall(rf"^ +(metaclip {verb} .*?)(?:  .*)?$", shown, re.M)
    assert len(examples) >= 2
    known = set().union(*(words for name, words in VERBS.items() if name.split()[0] == verb.split()[0]))
    for example in examples:
        flags = re.findall(r"(?<= )--[\w-]+", example)
        assert set(flags) <= known, example


@pytest.mark.parametrize(
    ("share", "read"), [("6%", 0.06), ("0.06", 0.06), ("0.1%", 0.001), ("12.5 %", 0.125)]
)
def test_a_share_in_per_cent(share: str, read: float) -> None:
    """A tail share of 6% is 0.06, exactly."""
    assert options.Share().convert(share, None, None) == read


@pytest.mark.parametrize(
    ("share", "says"),
    [
        ("six", "'six' is not a share such as 0.06 or 6%"),
        ("1e999999999%", "is not a share"),
        ("6", "tail_share is 6, must be at least 0 and below 1; 6% is 0.06"),
        ("nan", "tail_share is nan, must be"),
    ],
)
def test_what_is_no_share(share: str, says: str, tmp_path: Path) -> None:
    """A share that means nothing is refused."""
    given = ("--metadata", LIST, "--tail-share", share, "--out", tmp_path / "run")
    assert says in commands.refused("curate", POOL, *given)


def test_every_flag_says_what_it_does() -> None:
    """No flag is without a line of help."""
    for verb in VERBS:
        for option in command_of(verb).params:
            assert not isinstance(option, click.Option) or option.help, (verb, option.name)


def test_version() -> None:
    """`--version` says the package's version."""
    assert commands.done("--version").out == commands.done("-V").out == f"metaclip {__version__}\n"


# What verbs print -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, commands.Done]:
    """Curate the toy pool: the run's folder, and what the command wrote."""
    run = tmp_path_factory.mktemp("curated") / "run"
    return run, commands.done("curate", POOL, "--metadata", LIST, "--t", 20, "--out", run)


def test_curate(curated: tuple[Path, commands.Done]) -> None:
    """`curate` prints what came of the rows, what t gave, and where to read on; nothing on standard error."""
    run, done = curated
    account = Run(run).account
    pairs = account["pairs"]
    assert (account["funnel"]["rows"], pairs["matched"], pairs["kept"]) == (400, 338, 312)
    lines = [re.split(r" {2,}", line) for line in done.out.splitlines()]
    assert lines[:5] == [
        ["rows", "400"],
        ["matched", "338", "84.5% of rows"],
        ["kept", "312", f"expected {pairs['expected']:,.1f} ± {pairs['deviation']:,.1f}"],
        ["t", "20", f"tail share {100 * account['balance']['tail_share']:.2f}% (asked: t = 20)"],
        ["entries", "157", "8 at zero, 136 tail, 13 head"],
    ]
    assert lines[5] == ["repeated", "3", "matched rows whose uid stands on an earlier row"]
    assert account["result_digest"].startswith(lines[-1][1])
    assert str(run / "card.md") in done.out
    assert str(run / "curated") in done.out
    assert done.err == ""
    assert pq.read_table(run / "curated").num_rows == 312


def test_the_same_command_again(curated: tuple[Path, commands.Done]) -> None:
    """A command that is run again prints the same and changes no file."""
    run, done = curated
    before = {
        path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != "lock"
    }
    assert commands.done("curate", POOL, "--metadata", LIST, "--t", 20, "--out", run) == done
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_entries_that_can_never_match(tmp_path: Path) -> None:
    """Their number is reported when matching begins, with the option that would let the first of them match."""
    words = tmp_path / "list.txt"
    words.write_text("dog\nSt. Louis\n3.5\nT-shirt\na . b\n")
    match = ("match", POOL, "--metadata", words, "--out")
    said = commands.done(*match, tmp_path / "run").err
    assert said.splitlines() == [
        "metaclip: 2 of 5 entries can never match (first: 'St. Louis', it can with --space-entries); "
        "metaclip lint names all of them"
    ]
    assert commands.done(*match, tmp_path / "run").err == ""  # nothing is left to match
    assert commands.done(*match, tmp_path / "spaced", "--space-entries").err == ""


def test_match_then_balance(curated: tuple[Path, commands.Done], tmp_path: Path) -> None:
    """In steps the result is the same; `match` prints the next step, and another t does not match again."""
    run, done = curated
    matched = commands.done("match", POOL, "--metadata", LIST, "--out", tmp_path / "run")
    lines = [re.split(r" {2,}", line) for line in matched.out.splitlines()]
    assert lines[:3] == [
        ["rows", "400"], ["matched", "338", "84.5% of rows, 3.6 entries each"], ["entries", "157", "8 at zero"],
    ]  # fmt: skip
    assert lines[-1][1] == f"metaclip balance {tmp_path / 'run'}"
    assert lines[-1][2].startswith("(t = 2, by the default tail share of 0.06; ")
    assert matched.err == ""
    balanced = commands.done("balance", tmp_path / "run", "--t", 20)
    assert balanced.out.splitlines()[:6] == done.out.splitlines()[:6]
    assert Run(tmp_path / "run").account["result_digest"] == Run(run).account["result_digest"]
    more = commands.done("balance", tmp_path / "run", "--t", 50, "--out", tmp_path / "run_50")
    assert "(asked: t = 50)" in more.out
    assert not (tmp_path / "run_50" / "matched").exists()
    kept = [set(Run(path).curated["uid"].to_pylist()) for path in (tmp_path / "run", tmp_path / "run_50")]
    assert kept[0] < kept[1]


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        (("--tail-share", 0.3), "asked: tail_share = 0.3"),
        (("--target-pairs", "0.2k"), "asked: target_pairs = 200"),
        (("--target-pairs", "1_0_0"), "asked: target_pairs = 100"),
        ((), "asked: tail_share = 0.06"),
    ],
)
def test_how_t_is_asked_for(
    flags: tuple[str | float, ...], asked: str, curated: tuple[Path, commands.Done], tmp_path: Path
) -> None:
    """The threshold is solved for a share or a number of pairs, which may have a suffix; what was asked is printed beside it."""
    done = commands.done("balance", curated[0], "--out", tmp_path / "b", *flags)
    assert asked in done.out
    assert f"{Run(tmp_path / 'b').t:g}" in done.out.splitlines()[3]


def test_parts_of_a_job_array(curated: tuple[Path, commands.Done], tmp_path: Path) -> None:
    """Each part does its shards; when all are done one command adds up to the result of one process."""
    lines = POOL.read_bytes().splitlines(keepends=True)
    (tmp_path / "pool").mkdir()
    for i in range(4):
        (tmp_path / "pool" / f"{i}.jsonl").write_bytes(b"".join(lines[100 * i : 100 * (i + 1)]))
    command = ("match", tmp_path / "pool", "--metadata", LIST, "--out", tmp_path / "run")
    for part in ("2/3", "1/3"):
        assert f"part {part} is done" in commands.done(*command, "--part", part).out
    assert "338" in commands.done(*command, "--part", "3/3").out
    commands.done(*command)
    commands.done("balance", tmp_path / "run", "--t", 20)
    ours, whole = (set(Run(path).curated["uid"].to_pylist()) for path in (tmp_path / "run", curated[0]))
    assert ours == whole


# Explain --------------------------------------------------------------------------------------------------------------


def test_explain_without_a_run() -> None:
    """A list alone shows what matches, under the rule's flags."""
    shown = commands.done("explain", "a photo of a dog", "--metadata", LIST).out
    assert re.findall(r"^  '(.*)'$", shown, re.M) == ["a", "of", "photo", "photo of", "photo of a", "dog"]
    assert "6 entries match" in shown
    assert (
        "no entry matches, so the pair is dropped"
        in commands.done("explain", "DOG", "--metadata", LIST).out
    )
    assert "1 entries match" in commands.done("explain", "DOG", "--metadata", LIST, "--fold-case").out


def test_explain_a_pair(curated: tuple[Path, commands.Done]) -> None:
    """With a run, each entry's count and probability, P(keep), uid, u and the verdict are shown."""
    run = curated[0]
    shown = commands.done(
        "explain", "a photo of a dog", "--run", run, "--url", "https://example.org/dog.jpg"
    ).out
    found = explain.explain("a photo of a dog", run=run, url="https://example.org/dog.jpg")
    for row in found.entries.to_pylist():
        where = "head" if row["count"] >= 20 else "tail"
        assert re.search(
            rf"^  '{row['entry']}' +{row['count']} +{row['probability']:.6f}  {where}$", shown, re.M
        )
    assert f"P(keep) = 1 - product of (1 - probability) = {found.p:.6f}   (t = 20)" in shown
    assert f"uid     = {found.uid}   (md5 of text and url)" in shown
    assert f"u       = {found.u:.6f}   (seed 0, epoch 0)" in shown
    assert ("kept: u < P(keep)" if found.kept else "dropped: u >= P(keep)") in shown


def test_explain_by_uid(curated: tuple[Path, commands.Done]) -> None:
    """A pair's own uid decides, and t, seed and epoch can be others than the run's."""
    shown = commands.done("explain", "a dog", "--run", curated[0], "--uid", "1").out
    assert f"uid     = {1:032x}   (given)" in shown
    assert "u       = 0.167636" in shown  # the second test vector of the law
    shown = commands.done(
        "explain", "a dog", "--run", curated[0], "--uid", "1", "--epoch", 1, "--t", 9, "--seed", 0
    ).out
    assert "u       = 0.786163   (seed 0, epoch 1)" in shown
    assert "(t = 9)" in shown
    assert "no url is given" in commands.done("explain", "a dog", "--run", curated[0]).out


def test_explain_agrees_with_the_run(curated: tuple[Path, commands.Done]) -> None:
    """For pairs of the pool, `explain` says kept exactly where the run kept them, with the run's probability and matches."""
    run = Run(curated[0])
    kept = {row["uid"]: row for row in run.curated.to_pylist()}
    pool = [row for row in pyarrow.json.read_json(POOL).to_pylist() if row["text"]]
    verdicts = []
    for row in pool[::19][:20]:
        shown = commands.done("explain", row["text"], "--run", run.path, "--url", row["url"]).out
        found = explain.explain(row["text"], run=run, url=row["url"])
        verdicts.append("\nkept: " in shown)
        if not len(found.entries):
            assert "no entry matches" in shown
            continue
        assert verdicts[-1] == (found.uid in kept)
        assert f"uid     = {found.uid}" in shown
        if verdicts[-1]:
            assert kept[found.uid]["matches"] == found.entries["entry_id"].to_pylist()
            assert kept[found.uid]["keep_probability"] == found.p
    assert len(verdicts) == 20
    assert set(verdicts) == {True, False}


def test_what_comes_from_outside_is_shown_escaped() -> None:
    """A text with control characters cannot steer the terminal it is explained on."""
    shown = commands.done("explain", "a \x1b[2Jdog\x07 \u202e", "--metadata", LIST).out
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", shown)


# Terminals ------------------------------------------------------------------------------------------------------------


def process(*arguments: object) -> list[str]:
    """Return the command line of a process of its own."""
    return [sys.executable, "-m", "metaclip", *map(str, arguments)]


def test_a_process_of_its_own_is_quiet(curated: tuple[Path, commands.Done], tmp_path: Path) -> None:
    """Where standard error is not a terminal, nothing is written to it, and standard output is the same as ever."""
    command = process("curate", POOL, "--metadata", LIST, "--t", 20, "--out", tmp_path / "run")
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[:6] == curated[1].out.splitlines()[:6]


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal both stages show rows, share of the whole, rate and time left."""
    # Parquet says beforehand how many rows there are.
    pool = tmp_path / "pool.parquet"
    pq.write_table(pyarrow.json.read_json(POOL), pool)
    command = process("curate", pool, "--metadata", LIST, "--t", 20, "--out", tmp_path / "run")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=theirs) as running:
        os.close(theirs)
        shown = b""
        while select.select([ours], [], [], 60)[0]:
            try:
                block = os.read(ours, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not block:
                break
            shown += block
        assert running.stdout is not None
        assert b"kept" in running.stdout.read()
    os.close(ours)
    assert running.returncode == 0
    text = shown.decode()
    for verb, through in (("match", "338 matched"), ("balance", "312 kept")):
        assert re.search(rf"{verb}: 100%.*400/400 .*rows/s.*{through}", text), text


def test_output_that_nobody_reads(curated: tuple[Path, commands.Done]) -> None:
    """A reader that goes away (`| head -1`) ends the command without a word, with the code of a program that SIGPIPE ends."""
    command = process("explain", "a dog", "--run", curated[0])
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command, env=environment(), stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 128 + signal.SIGPIPE
