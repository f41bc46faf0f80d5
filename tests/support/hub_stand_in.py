"""A local stand-in of the Hugging Face Hub, so that tests pull datasets and push models without a network.

It serves what huggingface_hub, datasets and diffusers call for public repos on the branch "main" (and reads from
other branches that a test adds), keeps everything in memory, and listens on 127.0.0.1 only. `client_environment`
gives the environment that points a client at it; the clients read those variables when they are imported, so they
must run in another process.

Two hosts are one server: `http://127.0.0.1:PORT` is the Hub, `http://localhost:PORT` is the storage that its LFS
links lead to. A client keeps its token to the Hub's host, and the storage refuses a request that carries one.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

Files = dict[str, bytes]  # path in the repo -> content
RepoKey = tuple[str, str]  # ("models" or "datasets", repo id)

DEFAULT_TOKEN = "hf_stand_in_token"
USER = "tester"
LFS_SUFFIXES = frozenset({".bin", ".gif", ".jpg", ".jpeg", ".parquet", ".png", ".pt", ".safetensors", ".webp", ".zip"})

REPO_ID = r"(?P<repo_id>[^/]+(?:/[^/]+)?)"
API_PATH = re.compile(
    rf"/api/(?P<kind>models|datasets)/{REPO_ID}"
    r"(?:/(?P<action>revision|tree|paths-info|preupload|commit)/(?P<revision>[^/]+)(?:/(?P<path>.+))?)?"
)
RESOLVE_PATH = re.compile(rf"/(?:(?P<kind>datasets)/)?{REPO_ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
LFS_PATH = re.compile(rf"/(?:(?P<kind>datasets)/)?{REPO_ID}\.git/info/lfs/(?P<action>objects/batch|verify)")


@dataclass(frozen=True)
class Request:
    """One request as the stand-in saw it."""

    method: str
    path: str
    """As sent: percent-encoded, without the query."""
    query: dict[str, list[str]]
    headers: dict[str, str]
    """Names in lower case. "host" tells the Hub (127.0.0.1) from its storage (localhost)."""
    body: bytes


@dataclass(frozen=True)
class Answer:
    """One answer; the server adds Content-Length, and leaves the body out for HEAD."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """An error answer in the Hub's terms: the clients choose their exception by status and X-Error-Code."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        named = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer = Answer(status, json.dumps({"error": message}).encode(), named | (headers or {}))


def client_environment(endpoint: str, hf_home: str, token: str | None = DEFAULT_TOKEN) -> dict[str, str]:
    """Return the variables that make a client in another process talk to `endpoint` and to nothing else.

    Xet and the download counter of datasets go to hosts of their own, so both are off. A machine-wide
    HF_HUB_OFFLINE or HF_TOKEN must be taken out by the caller, who also owns PATH and the like.
    """
    return {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": hf_home,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "NO_PROXY": "127.0.0.1,localhost",
    } | ({} if token is None else {"HF_TOKEN": token})


def is_lfs(path: str, num_bytes: int) -> bool:
    """Say whether the repo holds the file through LFS: by suffix, and never if empty, as clients send it."""
    return PurePosixPath(path).suffix.lower() in LFS_SUFFIXES and num_bytes > 0


def git_blob_oid(content: bytes) -> str:
    """Return git's name of the content, by which clients see that a regular file has not changed."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_oid(content: bytes) -> str:
    """Return LFS's name of the content."""
    return hashlib.sha256(content).hexdigest()


def tree_entries(files: Files) -> list[dict[str, Any]]:
    """Return what the Hub tells of the files, and of every folder that holds one, sorted by path."""
    folders = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
    entries: list[dict[str, Any]] = [
        {"type": "directory", "path": path, "size": 0, "oid": git_blob_oid(path.encode())} for path in folders
    ]
    for path, content in files.items():
        entry = {"type": "file", "path": path, "size": len(content), "oid": git_blob_oid(content)}
        if is_lfs(path, len(content)):
            oid = lfs_oid(content)
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()
            lfs = {"oid": oid, "size": len(content), "pointerSize": len(pointer)}
            entry |= {"oid": git_blob_oid(pointer), "lfs": lfs}
        entries.append(entry)
    return sorted(entries, key=lambda entry: entry["path"])


def json_answer(value: Any, status: int = 200) -> Answer:
    """Answer with a JSON value."""
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def content_answer(request: Request, content: bytes, headers: dict[str, str]) -> Answer:
    """Answer with the content, or with the one range of bytes that the request asks for."""
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    span = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if span is None:
        return Answer(200, content, headers)
    first, last = span.groups()
    start = int(first) if first else max(len(content) - int(last), 0)
    stop = min(int(last) + 1, len(content)) if first and last else len(content)
    if start >= stop:
        raise Refusal(416, "Range Not Satisfiable", headers={"Content-Range": f"bytes */{len(content)}"})
    return Answer(206, content[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"})


class HubStandIn:
    """The Hub, while the context lasts. Writing, and asking who one is, need the token; reading needs none.

    A request with any other token is refused with 401, even where none is needed, as the Hub does.
    """

    endpoint: str
    """What clients take as HF_ENDPOINT: "http://127.0.0.1:PORT"."""
    requests: list[Request]
    """Every request seen, oldest first."""
    failures: dict[str, int]
    """Start of a path -> HTTP status to answer there, for as long as the test leaves it in."""

    def __init__(self, token: str = DEFAULT_TOKEN) -> None:
        self.token = token
        self.requests = []
        self.failures = {}
        self._commits: dict[RepoKey, dict[str, Files]] = {}  # commit sha -> all files; the last one is "main"
        self._branches: dict[tuple[RepoKey, str], str] = {}  # others than "main" -> commit sha
        self._lfs_objects: dict[str, bytes] = {}  # oid -> content
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._storage = f"http://localhost:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def repos(self) -> dict[RepoKey, Files]:
        """Every repo's files on "main"; a view to read, while `commit` is the way to write."""
        return {key: commits[self.head(*key)] for key, commits in self._commits.items()}

    def head(self, kind: str, repo_id: str) -> str:
        """Return the commit sha of "main", by which a client can pin the revision."""
        return next(reversed(self._commits[kind, repo_id]))

    def commit(self, kind: str, repo_id: str, files: Files) -> str:
        """Make these the only files on "main", creating the repo if need be; return the commit's sha."""
        commits = self._commits.setdefault((kind, repo_id), {})
        listing = [[path, lfs_oid(content)] for path, content in sorted(files.items())]
        sha = hashlib.sha1(json.dumps([kind, repo_id, list(commits), listing]).encode()).hexdigest()
        self._lfs_objects |= {
            lfs_oid(content): content for path, content in files.items() if is_lfs(path, len(content))
        }
        commits[sha] = dict(files)
        return sha

    def add_dataset(self, repo_id: str, files: Files) -> str:
        """Serve a dataset with these files; return its commit sha."""
        return self.commit("datasets", repo_id, files)

    def add_branch(self, repo_id: str, name: str, files: Files) -> str:
        """Give a dataset a branch beside "main", such as "refs/convert/parquet"; return its commit sha."""
        key = ("datasets", repo_id)
        main, sha = self.head(*key), self.commit(*key, files)
        commits = self._commits[key]
        commits[main] = commits.pop(main)  # the last one stays "main"
        self._branches[key, name] = sha
        return sha

    def answer(self, request: Request) -> Answer:
        """Record the request and answer it."""
        self.requests.append(request)
        try:
            return self._route(request)
        except Refusal as refusal:
            return refusal.answer

    def _route(self, request: Request) -> Answer:
        for start, status in self.failures.items():
            if request.path.startswith(start):
                code = "RepoNotFound" if status == 404 else ""
                raise Refusal(status, f"{status} as the test asked for {start}", code, {"Retry-After": "0"})
        if request.headers["host"].startswith("localhost"):
            return self._storage_answer(request)
        if "authorization" in request.headers:
            self._require_token(request)
        if request.path == "/api/whoami-v2":
            self._require_token(request)
            return json_answer({"type": "user", "name": USER, "fullname": USER, "orgs": [], "auth": {}})
        if request.path == "/api/repos/create":
            return self._create_repo(request)
        if request.path == "/api/validate-yaml":
            return json_answer({"errors": [], "warnings": []})
        for pattern, handle in (
            (LFS_PATH, self._lfs_answer),
            (RESOLVE_PATH, self._resolve),
            (API_PATH, self._api_answer),
        ):
            if match := pattern.fullmatch(request.path):
                parts = {name: unquote(part or "") for name, part in match.groupdict().items()}
                return handle(request, (parts["kind"] or "models", parts["repo_id"]), parts)
        raise Refusal(501, f"The stand-in does not serve {request.method} {request.path}")

    def _require_token(self, request: Request) -> None:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            raise Refusal(401, "Invalid credentials in Authorization header")

    def _files_at(self, key: RepoKey, revision: str) -> tuple[str, Files]:
        """Return the commit sha and the files of a branch or of a commit sha."""
        if key not in self._commits:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        commits = self._commits[key]
        sha = self.head(*key) if revision == "main" else self._branches.get((key, revision), revision)
        if sha not in commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha, commits[sha]

    def _url(self, key: RepoKey) -> str:
        return f"{self.endpoint}/{'datasets/' if key[0] == 'datasets' else ''}{key[1]}"

    def _create_repo(self, request: Request) -> Answer:
        self._require_token(request)
        asked = json.loads(request.body)
        key = (f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or USER}/{asked['name']}")
        created = key not in self._commits
        if created:
            self.commit(*key, {})
        return json_answer({"url": self._url(key), "name": key[1]}, 200 if created else 409)

    def _api_answer(self, request: Request, key: RepoKey, parts: dict[str, str]) -> Answer:
        action, revision, folder = parts["action"], parts["revision"] or "main", parts["path"]
        if action in ("preupload", "commit"):
            self._require_token(request)
        sha, files = self._files_at(key, revision)
        if action == "preupload":
            return self._preupload(request, files)
        if action == "commit":
            return self._commit_answer(request, key, sha, files)
        if action == "paths-info":
            form = parse_qs(request.body.decode())
            return json_answer([entry for entry in tree_entries(files) if entry["path"] in form.get("paths", [])])
        if action == "tree":
            return self._tree(request, files, folder)
        siblings = [{"rfilename": path} for path in sorted(files)]
        about = {"id": key[1], "sha": sha, "author": key[1].split("/")[0], "private": False, "gated": False}
        return json_answer({**about, "disabled": False, "tags": [], "siblings": siblings})

    def _tree(self, request: Request, files: Files, folder: str) -> Answer:
        """List the files and folders in a folder ("" is the root), all the way down if the client asks for it."""
        inside = f"{folder}/" if folder else ""
        below = [entry for entry in tree_entries(files) if entry["path"].startswith(inside)]
        if folder and not below:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        if request.query.get("recursive") != ["true"]:
            below = [entry for entry in below if "/" not in entry["path"].removeprefix(inside)]
        return json_answer(below)

    def _preupload(self, request: Request, files: Files) -> Answer:
        """Say which files go through LFS, and the oid held so far, by which the client skips unchanged files."""
        modes = []
        for asked in json.loads(request.body)["files"]:
            path, held = asked["path"], files.get(asked["path"])
            mode = "lfs" if is_lfs(path, asked["size"]) else "regular"
            oid = None if held is None else lfs_oid(held) if is_lfs(path, len(held)) else git_blob_oid(held)
            modes.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return json_answer({"files": modes})

    def _commit_answer(self, request: Request, key: RepoKey, parent: str, files: Files) -> Answer:
        """Apply the lines of a commit (newline-delimited JSON: a header, then one operation each) to "main"."""
        files = dict(files)
        for line in request.body.splitlines():
            operation = json.loads(line)
            name, value = operation["key"], operation["value"]
            if name == "header":
                if value.get("parentCommit", parent) != parent or parent != self.head(*key):
                    raise Refusal(412, "The parent commit is not the last one")
            elif name == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif name == "lfsFile":
                if value["oid"] not in self._lfs_objects:
                    raise Refusal(400, f"{value['path']} was not uploaded to the storage")
                files[value["path"]] = self._lfs_objects[value["oid"]]
            elif name in ("deletedFile", "deletedFolder"):
                gone = value["path"].rstrip("/")
                files = {path: files[path] for path in files if path != gone and not path.startswith(f"{gone}/")}
            else:
                raise Refusal(501, f"The stand-in does not serve the operation {name}")
        sha = self.commit(*key, files)
        return json_answer({"success": True, "commitOid": sha, "commitUrl": f"{self._url(key)}/commit/{sha}"})

    def _lfs_answer(self, request: Request, key: RepoKey, parts: dict[str, str]) -> Answer:
        """Send each new object to the storage; confirm, once it is there, that it is."""
        self._require_token(request)
        self._files_at(key, "main")
        asked = json.loads(request.body)
        if parts["action"] == "verify":
            if asked["oid"] not in self._lfs_objects:
                raise Refusal(404, f"No object {asked['oid']}")
            return json_answer({})
        objects = [{"oid": item["oid"], "size": item["size"]} for item in asked["objects"]]
        for item in objects:
            if item["oid"] not in self._lfs_objects:
                verify = {"href": f"{self._url(key)}.git/info/lfs/verify"}
                item["actions"] = {"upload": {"href": f"{self._storage}/{item['oid']}"}, "verify": verify}
        return json_answer({"transfer": "basic", "objects": objects})

    def _storage_answer(self, request: Request) -> Answer:
        """Take or give one LFS object; like a signed link, without a token and refusing one."""
        if "authorization" in request.headers:
            raise Refusal(400, "The storage takes no Authorization header")
        oid = request.path.removeprefix("/")
        if request.method == "PUT":
            if lfs_oid(request.body) != oid:
                raise Refusal(400, f"The content is not that of {oid}")
            self._lfs_objects[oid] = request.body
            return Answer()
        if oid not in self._lfs_objects:
            raise Refusal(404, f"No object {oid}")
        return content_answer(request, self._lfs_objects[oid], {"ETag": f'"{oid}"'})

    def _resolve(self, request: Request, key: RepoKey, parts: dict[str, str]) -> Answer:
        """Give a regular file, or the link to an LFS file's content in the storage."""
        sha, files = self._files_at(key, parts["revision"])
        path, commit = parts["path"], {"X-Repo-Commit": sha}
        if path not in files:
            raise Refusal(404, f"{path} does not exist", "EntryNotFound", commit)
        content = files[path]
        if not is_lfs(path, len(content)):
            return content_answer(request, content, {**commit, "ETag": f'"{git_blob_oid(content)}"'})
        oid = lfs_oid(content)
        linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        return Answer(302, b"", {**commit, **linked, "Location": f"{self._storage}/{oid}"})


class _Handler(BaseHTTPRequestHandler):
    """Turn HTTP into `Request` and `Answer`. One request a connection (HTTP/1.0), so that none outlives the context."""

    def __init__(self, hub: HubStandIn, *connection: Any) -> None:
        self.hub = hub
        super().__init__(*connection)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        answer = self.hub.answer(Request(self.command, url.path, parse_qs(url.query), headers, body))
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_DELETE = do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output clean; `HubStandIn.requests` is the record."""
