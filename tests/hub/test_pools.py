"""A pool on the Hub is read at one commit: the run is that of the same files here, whatever is pushed meanwhile."""

from __future__ import annotations

import gzip
import json
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests import commands, runs
from tests.hub.conftest import TOKEN, Hub
from tests.processes import start

pytestmark = pytest.mark.extra

FILES, ROWS = 7, 300


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small pool of parquet files, here: more than a page of the server's listing."""
    return runs.write_pool(tmp_path_factory.mktemp("pool") / "data", FILES, ROWS)


@pytest.fixture(scope="module")
def wanted(pool: Path, words: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The result of its run, here."""
    run = tmp_path_factory.mktemp("here") / "run"
    commands.done(*runs.curate(pool, words, run))
    return runs.result(run)


def files_of(folder: Path, below: str = "data") -> dict[str, bytes]:
    return {f"{below}/{path.name}": path.read_bytes() for path in sorted(folder.iterdir())}


def run(*arguments: Any, into: Path) -> commands.Done:
    """Run a command in a process of its own, in which huggingface_hub finds the server of the tests."""
    with start(*arguments, into=into) as process:
        code = process.wait()
        return commands.Done(code, process.out, process.err)


def done(*arguments: Any, into: Path) -> commands.Done:
    result = run(*arguments, into=into)
    assert result.code == 0, result.err
    return result


def refused(*arguments: Any, into: Path) -> str:
    """Run a command that must be refused in one line; return the line."""
    result = run(*arguments, into=into)
    assert result.code == 2, (result.out, result.err)
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("metaclip")
    assert "Traceback" not in result.err
    return result.err


def inputs_of(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["inputs"])


@pytest.mark.parametrize(
    "given", ["hf://datasets/{}/data", "hf://datasets/{}", "hf://datasets/{}@main/data/*.parquet"]
)
def test_the_run_is_the_same(
    given: str, hub: Hub, repository: str, pool: Path, words: Path, wanted: dict[str, str], tmp_path: Path
) -> None:
    """A folder, a repository and a glob have the run that their files have here, and it names the commit."""
    commit = hub.put(repository, files_of(pool) | {"README.md": b"# A pool\n"})
    done(*runs.curate(given.format(repository), words, tmp_path / "run"), into=tmp_path)
    found = runs.result(tmp_path / "run")
    if given.endswith("{}"):  # names are those below the repository
        assert found.pop("card") != wanted["card"]
        wanted = {name: digest for name, digest in wanted.items() if name != "card"}
    assert found == wanted
    names = [path if given.endswith("{}") else path.removeprefix("data/") for path in files_of(pool)]
    assert [item["name"] for item in inputs_of(tmp_path / "run")] == names
    places = [f"hf://datasets/{repository}@{commit}/{path}" for path in files_of(pool)]
    assert [item["path"] for item in inputs_of(tmp_path / "run")] == places


def _jsonl(folder: Path) -> Path:
    path = folder / "pool.jsonl.gz"
    lines = [json.dumps({"text": f"word{i % 40} word{i % 7}", "uid": f"{i:032x}"}) for i in range(500)]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def _tar(folder: Path) -> Path:
    path = folder / "00000.tar"
    with tarfile.open(path, "w") as tar:
        for i in range(200):
            member = folder / f"{i:09d}.txt"
            member.write_text(f"word{i % 40} word{i % 7}", encoding="utf-8")
            tar.add(member, member.name)
            member.unlink()
    return path


@pytest.mark.parametrize("write", [_jsonl, _tar])
def test_other_forms(write: Any, hub: Hub, repository: str, words: Path, tmp_path: Path) -> None:
    """A file that is read from its start to its end arrives whole."""
    (tmp_path / "here").mkdir()
    path = write(tmp_path / "here")
    hub.put(repository, {path.name: path.read_bytes()})
    done(*runs.curate(path, words, tmp_path / "wanted"), into=tmp_path)
    done(*runs.curate(f"hf://datasets/{repository}/{path.name}", words, tmp_path / "run"), into=tmp_path)
    assert runs.result(tmp_path / "run") == runs.result(tmp_path / "wanted")


def test_a_commit_that_leaves_the_pool_as_it_is(
    hub: Hub, repository: str, pool: Path, words: Path, tmp_path: Path
) -> None:
    """A run goes on after a push that changes none of its files; its inputs are those of the new commit then."""
    hub.put(repository, files_of(pool))
    command = [
        "match",
        f"hf://datasets/{repository}/data",
        "--metadata",
        words,
        "--out",
        tmp_path / "run",
    ]
    done(*command, "--part", "1/2", into=tmp_path)
    before = runs.made(tmp_path / "run", "match")
    assert len(before) == 4
    later = hub.put(repository, {"README.md": b"# Another text\n"})
    done(*command, into=tmp_path)
    after = runs.made(tmp_path / "run", "match")
    assert {name: after[name] for name in before} == before
    assert all(f"@{later}/" in item["path"] for item in inputs_of(tmp_path / "run"))
    done("balance", tmp_path / "run", "--t", runs.T, into=tmp_path)
    wanted = tmp_path / "wanted"
    commands.done(*runs.curate(pool, words, wanted))
    assert runs.result(tmp_path / "run") == runs.result(wanted)


def test_a_changed_file(hub: Hub, repository: str, pool: Path, words: Path, tmp_path: Path) -> None:
    """A file that was changed since is noticed; the run goes on at the commit that it began with, and reads that one."""
    files = files_of(pool)
    first = hub.put(repository, files)
    command = [
        "match",
        f"hf://datasets/{repository}/data",
        "--metadata",
        words,
        "--out",
        tmp_path / "run",
    ]
    done(*command, "--part", "1/2", into=tmp_path)
    changed = hub.put(repository, {"data/000.parquet": files["data/001.parquet"]})
    line = refused(*command, into=tmp_path)
    assert f"@{changed}/data/000.parquet has changed since" in line
    command[1] = f"hf://datasets/{repository}@{first}/data"
    done(*command, into=tmp_path)
    # And so does balancing, which reads the pool again.
    done("balance", tmp_path / "run", "--t", runs.T, into=tmp_path)
    commands.done(*runs.curate(pool, words, tmp_path / "wanted"))
    assert runs.result(tmp_path / "run") == runs.result(tmp_path / "wanted")


def test_a_branch_and_a_list(hub: Hub, repository: str, pool: Path, words: Path, tmp_path: Path) -> None:
    """A branch is named behind @, and a query list is read from the Hub too."""
    files = files_of(pool)
    hub.put(repository, {"data/000.parquet": files["data/000.parquet"], "list.txt": words.read_bytes()})
    commit = hub.put(repository, {"data/000.parquet": files["data/003.parquet"]}, "refs/convert/parquet")
    address = f"hf://datasets/{repository}"
    (tmp_path / "here" / "data").mkdir(parents=True)
    (tmp_path / "here" / "data" / "000.parquet").write_bytes(files["data/003.parquet"])
    commands.done(*runs.curate(tmp_path / "here" / "data", words, tmp_path / "wanted"))
    branch = f"{address}@refs/convert/parquet/data"
    done(*runs.curate(branch, f"{address}/list.txt", tmp_path / "run"), into=tmp_path)
    assert runs.result(tmp_path / "run") == runs.result(tmp_path / "wanted")
    assert (
        inputs_of(tmp_path / "run")[0]["path"] == f"hf://datasets/{repository}@{commit}/data/000.parquet"
    )


def test_one_request_in_nine_fails(
    hub: Hub, repository: str, pool: Path, words: Path, wanted: dict[str, str], tmp_path: Path
) -> None:
    """A server that is busy now and then costs time, and changes nothing."""
    hub.put(repository, files_of(pool))
    with hub.failing("/", 9):
        done(*runs.curate(f"hf://datasets/{repository}/data", words, tmp_path / "run"), into=tmp_path)
    assert runs.result(tmp_path / "run") == wanted


def test_a_private_pool(hub: Hub, repository: str, pool: Path, words: Path, tmp_path: Path) -> None:
    """The token opens a private repository; it is in no file, no message, and in no request to the server of the files."""
    hub.put(repository, files_of(pool), private=True)
    result = done(
        *runs.curate(f"hf://datasets/{repository}/data", words, tmp_path / "run"), into=tmp_path
    )
    assert result.err.count(TOKEN) == result.out.count(TOKEN) == 0
    secrets = (TOKEN.encode(), b"secretofthecdn")
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or not any(secret in path.read_bytes() for secret in secrets), path


def test_a_refused_file(hub: Hub, repository: str, pool: Path, words: Path, tmp_path: Path) -> None:
    """A file that the server of the files refuses is told without the signature of its address, and read later."""
    hub.put(repository, files_of(pool))
    command = runs.curate(f"hf://datasets/{repository}/data", words, tmp_path / "run")
    with hub.failing("/cdn/", 1, status=410):
        line = refused(*command, into=tmp_path)
    assert "data/000.parquet cannot be read as parquet" in line
    assert "Signature" not in line
    done(*command, into=tmp_path)


LOGIN = "log in with hf auth login, or set HF_TOKEN"


@pytest.mark.parametrize(
    ("pool_address", "changes", "says"),
    [
        ("hf://datasets/alice/nowhere", {}, "(repository not found)"),
        ("hf://datasets/{}@nowhere/data", {}, "(revision not found)"),
        ("hf://datasets/{}/nowhere", {}, "there is no pool at hf://datasets/{}/nowhere"),
        (
            "hf://datasets/{}/list.txt",
            {},
            "there is no pool in hf://datasets/{}/list.txt: no file that ends in",
        ),
        ("hf://datasets/{}", {"HF_TOKEN": ""}, "repository not found"),
        ("hf://datasets/{}", {"HF_TOKEN": "hf_wrong"}, LOGIN),
        ("hf://datasets/{}", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        ("hf://buckets/alice/bucket", {}, "names no dataset repository; the form is hf://datasets/USER"),
        ("hf://datasets/alice", {}, "names no dataset repository; the form is hf://datasets/USER"),
    ],
)
def test_what_is_wrong_is_one_line(
    pool_address: str, changes: dict[str, str], says: str,
    hub: Hub, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What the Hub refuses, and what cannot be there, is told in one line with the next step."""
    name = "alice/private-pool"
    if hub.repo(name) is None:
        hub.put(name, {"list.txt": b"a\n", "data/a.jsonl": b'{"text": "a"}\n'}, private=True)
    for variable, value in changes.items():
        monkeypatch.setenv(variable, value)
    line = refused(*runs.curate(pool_address.format(name), words, tmp_path / "run"), into=tmp_path)
    assert says.format(name) in line
    assert not (tmp_path / "run").exists()


def test_nothing_is_written_to_the_hub(
    hub: Hub, repository: str, pool: Path, words: Path, tmp_path: Path
) -> None:
    """A run on the Hub is refused, whether there is such a repository or not, and nothing is pushed."""
    for _ in range(2):
        line = refused(*runs.curate(pool, words, f"hf://datasets/{repository}/run"), into=tmp_path)
        assert "runs cannot be written to the Hub" in line
        hub.put(repository, {"README.md": b"# There\n"})
    found = hub.repo(repository)
    assert found is not None
    assert set(found["files"]) == {".gitattributes", "README.md"}


def test_two_commits_of_one_repository(hub: Hub, repository: str, words: Path, tmp_path: Path) -> None:
    """Files of two commits of one repository are no pool: they would share names, or a push came between."""
    first = hub.put(repository, {"a.jsonl": b'{"text": "a"}\n'})
    second = hub.put(repository, {"b.jsonl": b'{"text": "b"}\n'})
    address = f"hf://datasets/{repository}"
    command = ["plan", "--metadata", words, f"{address}@{first}/a.jsonl"]
    line = refused(*command, f"{address}@{second}/b.jsonl", into=tmp_path)
    assert "two commits of one repository" in line


def test_without_the_package(words: Path, tmp_path: Path) -> None:
    """Without huggingface_hub, the message names the extra that installs it."""
    import subprocess

    code = "import sys; sys.modules['huggingface_hub'] = None; from metaclip.cli import main; main(sys.argv[1:])"
    command = [
        sys.executable,
        "-c",
        code,
        *map(str, runs.curate("hf://datasets/a/b", words, tmp_path / "run")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 2
    assert "pip install -e '.[hub]'" in done.stderr
    assert done.stderr.count("\n") == 1
