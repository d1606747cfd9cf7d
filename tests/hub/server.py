"""The part of the Hugging Face Hub's HTTP API that pools and cards need, for a process of its own: ``python -m tests.hub.server``.

Repositories are kept in memory: each commit is a map from paths to contents. What git would store of a file is named by
git's digest, and parquet files and the like are stored by LFS, as on the Hub. Paths below ``/-/`` are for the tests: they
put files into a repository, list the requests that arrived, and let some of them fail.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import sys
from typing import Any

import flask

from tests.hub.rules import faults_of_card

app = flask.Flask(__name__)
PAGE = 3
"""Entries of a page of a listing: 1,000 on the Hub."""
TOKENS = {"hf_ofthetests": "alice", "hf_ofanother": "bob"}
LFS = (".parquet", ".tar", ".gz", ".npy", ".zst")

repos: dict[str, dict[str, Any]] = {}
"""By name: private, refs (names of commits by branch) and commits (files by name of the commit)."""
objects: dict[str, bytes] = {}
"""What LFS stores, by sha256."""
asked: list[str] = []
failing: dict[str, Any] = {"every": 0, "path": "", "status": 503}
"""Every so many requests for a path that contains this one is answered with this status."""
count = itertools.count(1)


class Refused(Exception):
    """An answer other than success: its status, and the headers with which the Hub names errors."""

    def __init__(self, status: int, code: str, message: str, **body: Any) -> None:
        self.answer = flask.Response(
            json.dumps({"error": message, **body}), status,
            {"X-Error-Code": code, "X-Error-Message": message}, mimetype="application/json",
        )  # fmt: skip


@app.errorhandler(Refused)
def _refuse(error: Refused) -> flask.Response:
    return error.answer


@app.before_request
def _note() -> None:
    path = flask.request.full_path.rstrip("?")
    if path.startswith("/-/"):
        return
    asked.append(f"{flask.request.method} {path}")
    if failing["every"] and failing["path"] in path and next(count) % failing["every"] == 0:
        raise Refused(failing["status"], "", "refused by the test")


def _user() -> str | None:
    given = flask.request.headers.get("Authorization", "")
    if given and given.removeprefix("Bearer ") not in TOKENS:
        raise Refused(401, "", "Invalid credentials in Authorization header")
    return TOKENS.get(given.removeprefix("Bearer "))


def _repo(name: str, *, write: bool = False) -> dict[str, Any]:
    user, found = _user(), repos.get(name)
    if found is None or (found["private"] and user != name.partition("/")[0]):
        raise Refused(404 if user else 401, "RepoNotFound", "Repository not found")
    if write and user != name.partition("/")[0]:
        raise Refused(403, "", f"You don't have the rights to write to {name}")
    return found


def _commit(name: str, revision: str) -> str:
    found = _repo(name)
    commit = found["refs"].get(revision, revision)
    if commit not in found["commits"]:
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return str(commit)


def _add_commit(name: str, branch: str, files: dict[str, bytes]) -> str:
    found = repos[name]
    commit = hashlib.sha1(f"{name} {len(found['commits'])} {sorted(files)}".encode()).hexdigest()
    found["commits"][commit] = files
    found["refs"][branch] = commit
    return commit


def _create(name: str, private: bool) -> None:
    repos[name] = {"private": private, "refs": {}, "commits": {}}
    _add_commit(name, "main", {".gitattributes": b"*.parquet filter=lfs\n"})


def _is_lfs(path: str) -> bool:
    return path.endswith(LFS)


def _described(path: str, data: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(data).hexdigest()
    stored, lfs = data, {}
    if _is_lfs(path):
        stored = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
        lfs = {"lfs": {"oid": sha256, "size": len(data), "pointerSize": len(stored)}}
    oid = hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()
    return {"type": "file", "path": path, "size": len(data), "oid": oid, **lfs}


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}


# --- repositories


@app.post("/api/repos/create")
def create() -> Any:
    user, given = _user(), flask.request.json
    if user is None:
        raise Refused(401, "", "Invalid username or password.")
    owner = given.get("organization") or user
    if owner != user:
        raise Refused(
            403, "", f"You don't have the rights to create a dataset under the namespace {owner!r}"
        )
    assert given["type"] == "dataset"
    name = f"{owner}/{given['name']}"
    url = f"{flask.request.host_url}datasets/{name}"
    if name in repos:
        raise Refused(409, "", "You already created this dataset repo", url=url)
    _create(name, given.get("visibility") == "private" or given.get("private") is True)
    return {"url": url, "name": name, "id": name}


@app.get("/api/datasets/<name>")
@app.get("/api/datasets/<name>/revision/<path:revision>")
def of_nobody(name: str, revision: str = "main") -> Any:
    """Refuse a name without a user, which releases before 2.0 of huggingface_hub ask for."""
    _repo(name)


@app.get("/api/datasets/<user>/<name>")
@app.get("/api/datasets/<user>/<name>/revision/<path:revision>")
def info(user: str, name: str, revision: str = "main") -> Any:
    name = f"{user}/{name}"
    commit = _commit(name, revision)
    fields = {"sha": commit, "private": repos[name]["private"]}
    if wanted := flask.request.args.getlist("expand"):
        return {"id": name, "_id": name, **{key: fields[key] for key in wanted}}
    files = repos[name]["commits"][commit]
    return {
        "id": name,
        "_id": name,
        **fields,
        "siblings": [{"rfilename": path} for path in sorted(files)],
    }


@app.get("/api/datasets/<user>/<name>/tree/<revision>")
@app.get("/api/datasets/<user>/<name>/tree/<revision>/<path:folder>")
def tree(user: str, name: str, revision: str, folder: str = "") -> Any:
    commit = _commit(f"{user}/{name}", revision)
    files = repos[f"{user}/{name}"]["commits"][commit]
    prefix = f"{folder}/" if folder else ""
    recursive = flask.request.args.get("recursive", "").lower() == "true"
    entries: dict[str, dict[str, Any]] = {}
    for path, data in sorted(files.items()):
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        for i in range(1, len(parts)):
            above = prefix + "/".join(parts[:i])
            if recursive or i == 1:
                entries[above] = _folder(above)
        if recursive or len(parts) == 1:
            entries[path] = _described(path, data)
    if folder and not entries:
        raise Refused(404, "EntryNotFound", f"{folder} does not exist on {revision!r}")
    begin = int(flask.request.args.get("cursor", 0))
    answer = flask.jsonify(list(entries.values())[begin : begin + PAGE])
    if begin + PAGE < len(entries):
        more = "&".join(f"{k}={v}" for k, v in flask.request.args.items() if k != "cursor")
        answer.headers["Link"] = f'<{flask.request.base_url}?{more}&cursor={begin + PAGE}>; rel="next"'
    return answer


@app.post("/api/datasets/<user>/<name>/paths-info/<revision>")
def paths_info(user: str, name: str, revision: str) -> Any:
    files = repos[f"{user}/{name}"]["commits"][_commit(f"{user}/{name}", revision)]
    found = []
    for path in flask.request.form.getlist("paths"):
        if path in files:
            found.append(_described(path, files[path]))
        elif any(name.startswith(f"{path}/") for name in files):
            found.append(_folder(path))
    return found


# --- reading


@app.get("/datasets/<user>/<name>/resolve/<revision>/<path:path>")
def resolve(user: str, name: str, revision: str, path: str) -> Any:
    commit = _commit(f"{user}/{name}", revision)
    data = repos[f"{user}/{name}"]["commits"][commit].get(path)
    if data is None:
        raise Refused(404, "EntryNotFound", "Entry not found")
    described = _described(path, data)
    headers = {"X-Repo-Commit": commit, "ETag": f'"{described["oid"]}"', "Accept-Ranges": "bytes"}
    if "lfs" in described:
        oid = described["lfs"]["oid"]
        headers |= {
            "X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data)),
            # Another host, to which clients send no token of the user.
            "Location": f"http://localhost:{flask.request.host.partition(':')[2]}/cdn/{oid}?X-Amz-Signature=secretofthecdn",
        }  # fmt: skip
        return flask.Response(status=302, headers=headers)
    return _ranged(data, headers)


@app.get("/cdn/<oid>")
def cdn(oid: str) -> Any:
    assert flask.request.args["X-Amz-Signature"] == "secretofthecdn"
    assert "Authorization" not in flask.request.headers
    return _ranged(objects[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})


def _ranged(data: bytes, headers: dict[str, str]) -> flask.Response:
    answer = flask.Response(data, headers=headers, mimetype="application/octet-stream")
    return answer.make_conditional(flask.request, accept_ranges=True, complete_length=len(data))


# --- writing


@app.post("/api/validate-yaml")
def validate() -> Any:
    faults = faults_of_card(flask.request.json["content"])
    if faults:
        return {"errors": [{"message": fault} for fault in faults], "warnings": []}, 400
    return {"errors": [], "warnings": []}


@app.post("/api/datasets/<user>/<name>/preupload/<revision>")
def preupload(user: str, name: str, revision: str) -> Any:
    found = _repo(f"{user}/{name}", write=True)
    files = found["commits"][_commit(f"{user}/{name}", revision)]
    described = []
    for item in flask.request.json["files"]:
        path = item["path"]
        assert len(base64.b64decode(item["sample"])) == min(512, item["size"])
        known = _described(path, files[path]) if path in files else {}
        there = {"oid": known.get("lfs", known)["oid"]} if known else {}
        mode = "lfs" if _is_lfs(path) else "regular"
        described.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **there})
    return {"files": described}


@app.post("/datasets/<user>/<name>.git/info/lfs/objects/batch")
def batch(user: str, name: str) -> Any:
    _repo(f"{user}/{name}", write=True)
    given, host = flask.request.json, flask.request.host_url
    assert (given["operation"], given["hash_algo"]) == ("upload", "sha256")
    answers = []
    for item in given["objects"]:
        actions = {
            "upload": {"href": f"{host}lfs/{item['oid']}?X-Amz-Signature=secretofthecdn"},
            "verify": {"href": f"{host}lfs-verify/{item['oid']}"},
        }
        answers.append(item if item["oid"] in objects else {**item, "actions": actions})
    return {"transfer": "basic", "objects": answers}


@app.put("/lfs/<oid>")
def put(oid: str) -> Any:
    data = flask.request.get_data()
    assert hashlib.sha256(data).hexdigest() == oid
    objects[oid] = data
    return ""


@app.post("/lfs-verify/<oid>")
def verify(oid: str) -> Any:
    assert len(objects[oid]) == flask.request.json["size"]
    return ""


@app.post("/api/datasets/<user>/<name>/commit/<revision>")
def commit(user: str, name: str, revision: str) -> Any:
    found = _repo(f"{user}/{name}", write=True)
    assert flask.request.content_type == "application/x-ndjson"
    files = dict(found["commits"][_commit(f"{user}/{name}", revision)])
    header, *operations = [json.loads(line) for line in flask.request.get_data().splitlines()]
    assert header["key"] == "header"
    assert header["value"]["summary"]
    for operation in operations:
        value = operation["value"]
        if operation["key"] == "file":
            assert not _is_lfs(value["path"])
            files[value["path"]] = base64.b64decode(value["content"])
        elif operation["key"] == "lfsFile":
            assert len(objects[value["oid"]]) == value["size"]
            files[value["path"]] = objects[value["oid"]]
        else:
            assert operation["key"] == "deletedFile"
            del files[value["path"]]
    made = _add_commit(f"{user}/{name}", revision, files)
    url = f"{flask.request.host_url}datasets/{user}/{name}/commit/{made}"
    return {"success": True, "commitOid": made, "commitUrl": url}


# --- for the tests


@app.post("/-/put/<user>/<name>/<path:revision>")
def put_files(user: str, name: str, revision: str) -> Any:
    """Commit files, given in base64 by their paths; null removes one. Create the repository if there is none."""
    if f"{user}/{name}" not in repos:
        _create(f"{user}/{name}", flask.request.args.get("private") == "1")
    found = repos[f"{user}/{name}"]
    files = dict(found["commits"][found["refs"].get(revision, found["refs"]["main"])])
    for path, data in flask.request.json.items():
        if data is None:
            del files[path]
            continue
        files[path] = base64.b64decode(data)
        if _is_lfs(path):
            objects[hashlib.sha256(files[path]).hexdigest()] = files[path]
    return {"commit": _add_commit(f"{user}/{name}", revision, files)}


@app.get("/-/repo/<user>/<name>")
def show(user: str, name: str) -> Any:
    """Return whether a repository is private, its commits and the files of its main branch; null if there is none."""
    if (found := repos.get(f"{user}/{name}")) is None:
        return flask.jsonify(None)
    files = found["commits"][found["refs"]["main"]]
    shown = {path: base64.b64encode(data).decode() for path, data in files.items()}
    return {"private": found["private"], "commits": list(found["commits"]), "files": shown}


@app.post("/-/fail")
def fail() -> Any:
    failing.update(flask.request.json)
    return ""


@app.get("/-/asked")
def list_asked() -> Any:
    """Return the requests since the last time."""
    found = asked.copy()
    asked.clear()
    return found


if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]), threaded=True)
