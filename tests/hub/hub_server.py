"""A small Hub on loopback: enough of its HTTP protocol for the real client to create, upload, commit, download and fail.

Written from what the client (huggingface_hub 2.4) sends and reads. Repositories live in memory, as a list of commits with the
whole tree of each. Faults are queued with :meth:`HubServer.fail` and happen to the next matching requests.
"""

import base64
import hashlib
import json
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


WRITE_TOKEN, READ_TOKEN, OTHER_TOKEN = "hf_" + "w" * 34, "hf_" + "r" * 34, "hf_" + "o" * 34
USERS = {WRITE_TOKEN: ("tester", "write"), READ_TOKEN: ("tester", "read"), OTHER_TOKEN: ("other", "write")}
LFS_SUFFIXES = (".safetensors", ".png", ".bin")


@dataclass
class Repository:
    """``branches`` name a commit, ``commits`` the files of one by path, ``pulls`` the commit of each pull request."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    pulls: dict[int, str] = field(default_factory=dict)

    def add(self, files: dict[str, bytes], message: str) -> str:
        sha = secrets.token_hex(20)
        self.commits[sha] = files
        self.messages.append(message)
        return sha

    def find(self, revision: str) -> str | None:
        if revision.startswith("refs/pr/"):
            return self.pulls.get(int(revision.rpartition("/")[2]))
        return self.branches.get(revision, revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.find(revision)]


@dataclass
class Fault:
    """``action``: a status, "drop" (close before answering), "drop-after" (do it, then close), "half" (read half, close),
    or "hold" (set ``held``, wait for ``release``, close)."""

    method: str
    pattern: str
    action: int | str
    times: int
    message: str


class HubServer:
    """Serves until :meth:`close`. ``log`` lists the requests as "METHOD /path"."""

    def __init__(self):
        self.lock = threading.RLock()
        self.reset()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        with self.lock:
            self.repositories: dict[str, Repository] = {}
            self.objects: dict[str, bytes] = {}
            self.log: list[str] = []
            self.faults: list[Fault] = []
            self.before_commit: Callable[[], None] | None = None
            self.uploads: list[bytes] = []
            self.held, self.release = threading.Event(), threading.Event()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fail(self, method: str, pattern: str, action: int | str, times: int = 1, message: str = "") -> None:
        """Let the next ``times`` requests whose path matches ``pattern`` (a regular expression) fail."""
        self.faults.append(Fault(method, pattern, action, times, message))

    def create(self, repo_id: str, private: bool = False, files: dict[str, bytes] | None = None) -> Repository:
        repository = Repository(private)
        repository.branches["main"] = repository.add({".gitattributes": b"", **(files or {})}, "initial commit")
        self.repositories[repo_id] = repository
        return repository

    def requests(self, pattern: str) -> list[str]:
        return [line for line in self.log if re.search(pattern, line)]


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        # ---- Answers ----

        def answer(self, status: int, value: Any = None, headers: dict[str, str] | None = None) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value if value is not None else {}).encode()
            self.send_response(status)
            for name, text in (headers or {}).items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def refuse(self, status: int, code: str | None = None, message: str = "") -> None:
            headers = {"X-Error-Message": message or f"status {status}"}
            if code:
                headers["X-Error-Code"] = code
            self.answer(status, {"error": message or f"status {status}"}, headers)

        def hang_up(self) -> None:
            self.close_connection = True
            self.connection.close()

        # ---- Every request ----

        def handle_one(self) -> None:
            parts = urlsplit(self.path)
            self.route, self.query = parts.path, parse_qs(parts.query)
            with hub.lock:
                hub.log.append(f"{self.command} {self.route}")
                fault = next(
                    (f for f in hub.faults if f.times and f.method == self.command and re.search(f.pattern, self.route)), None
                )
                if fault:
                    fault.times -= 1
            length = int(self.headers.get("Content-Length", 0))
            if fault and fault.action == "half":
                self.rfile.read(length // 2)
                return self.hang_up()
            self.body = self._chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
            if fault and fault.action == "hold":
                hub.held.set()
                hub.release.wait(60)
            if fault and fault.action in ("drop", "hold"):
                return self.hang_up()
            if fault and isinstance(fault.action, int):
                codes = {404: "RepoNotFound"}
                return self.refuse(fault.action, codes.get(fault.action), fault.message)
            if fault:
                self.answer = lambda *arguments, **keywords: self.hang_up()  # "drop-after"
            with hub.lock:
                self.dispatch()

        do_GET = do_HEAD = do_POST = do_PUT = handle_one

        def _chunks(self) -> bytes:
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        @property
        def user(self) -> tuple[str, str] | None:
            return USERS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

        def may_write(self, repo_id: str) -> bool:
            return self.user is not None and self.user[1] == "write" and repo_id.startswith(f"{self.user[0]}/")

        def dispatch(self) -> None:
            routes = (
                ("GET", r"/api/whoami-v2", self.whoami),
                ("POST", r"/api/repos/create", self.create),
                ("POST", r"/api/validate-yaml", self.validate_yaml),
                ("PUT", r"/objects/([0-9a-f]{64})", self.put_object),
                ("GET", r"/api/models/([\w.-]+/[\w.-]+)/auth-check(/write)?", self.auth_check),
                ("GET", r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/(.+))?", self.info),
                ("POST", r"/api/models/([\w.-]+/[\w.-]+)/branch/(.+)", self.branch),
                ("POST", r"/api/models/([\w.-]+/[\w.-]+)/preupload/(.+)", self.preupload),
                ("POST", r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", self.lfs_batch),
                ("POST", r"/api/models/([\w.-]+/[\w.-]+)/commit/(.+)", self.commit),
                ("GET", r"/api/models/([\w.-]+/[\w.-]+)/tree/([^/]+)", self.tree),
                ("HEAD", r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self.resolve),
                ("GET", r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self.resolve),
            )
            for method, pattern, function in routes:
                match = re.fullmatch(pattern, self.route)
                if match and method == self.command:
                    return function(*(unquote(group) if group else group for group in match.groups()))
            return self.refuse(404, message=f"no such route: {self.command} {self.route}")

        def repository(self, repo_id: str) -> Repository | None:
            """The repository if the token may see it; else an answer of 404 (401 without a token), and None."""
            found = hub.repositories.get(repo_id)
            if found and (not found.private or (self.user and repo_id.startswith(f"{self.user[0]}/"))):
                return found
            self.refuse(404 if self.user else 401, "RepoNotFound" if self.user else None, "Repository not found")
            return None

        # ---- Accounts and repositories ----

        def whoami(self) -> None:
            if not self.user:
                return self.refuse(401, message="Invalid credentials in Authorization header")
            name, role = self.user
            return self.answer(200, {"type": "user", "name": name, "auth": {"accessToken": {"role": role}}})

        def create(self) -> None:
            asked = json.loads(self.body)
            if not self.user:
                return self.refuse(401, message="Invalid credentials in Authorization header")
            repo_id = f"{asked.get('organization') or self.user[0]}/{asked['name']}"
            if not self.may_write(repo_id):
                return self.refuse(403, message="You don't have the rights to create a model under this namespace")
            url = {"url": f"{hub.endpoint}/{repo_id}"}
            if repo_id in hub.repositories:
                message = "You already created this model repo"
                return self.answer(409, {"error": message, **url}, {"X-Error-Message": message})
            hub.create(repo_id, asked.get("visibility") == "private")
            return self.answer(200, url)

        def auth_check(self, repo_id: str, write: str | None) -> None:
            if self.repository(repo_id) is None:
                return None
            if write and not self.may_write(repo_id):
                return self.refuse(403, message="You don't have write access")
            return self.answer(200)

        def info(self, repo_id: str, revision: str | None) -> None:
            repository = self.repository(repo_id)
            if repository is None:
                return None
            sha = repository.find(revision or "main")
            if sha is None:
                return self.refuse(404, "RevisionNotFound", "Invalid rev id")
            siblings = [{"rfilename": name} for name in sorted(repository.commits[sha])]
            return self.answer(
                200,
                {
                    "id": repo_id,
                    "modelId": repo_id,
                    "sha": sha,
                    "private": repository.private,
                    "siblings": siblings,
                    "tags": [],
                },
            )

        def branch(self, repo_id: str, name: str) -> None:
            repository = self.repository(repo_id)
            if repository is None:
                return None
            if name in repository.branches:
                return self.refuse(409, message="Reference already exists")
            repository.branches[name] = repository.branches["main"]
            return self.answer(200)

        def tree(self, repo_id: str, revision: str) -> None:
            repository = self.repository(repo_id)
            if repository is None:
                return None
            files = repository.files(revision)
            return self.answer(
                200, [{"type": "file", "path": name, "size": len(data), "oid": _git_hash(data)} for name, data in files.items()]
            )

        # ---- Uploads ----

        def validate_yaml(self) -> None:
            content = json.loads(self.body)["content"]
            match = re.match(r"---\n(.*?)\n---", content, re.DOTALL)
            try:
                metadata = yaml.safe_load(match.group(1)) if match else None
            except yaml.YAMLError as error:
                return self.answer(400, {"errors": [{"message": str(error)}]})
            if not isinstance(metadata, dict):
                return self.answer(400, {"errors": [{"message": "no metadata"}]})
            for result in (metadata.get("model-index") or [{}])[0].get("results", ()):
                if not result["task"].get("type") or not result["dataset"].get("type") or not result["metrics"]:
                    return self.answer(400, {"errors": [{"message": "a result of model-index is incomplete"}]})
            return self.answer(200, {"errors": [], "warnings": []})

        def preupload(self, repo_id: str, revision: str) -> None:
            repository = self.repository(repo_id)
            if repository is None:
                return None
            if not self.may_write(repo_id) and "create_pr" not in self.query:
                return self.refuse(403, message="You don't have write access")
            if repository.find(revision) is None:
                return self.refuse(404, "RevisionNotFound", "Invalid rev id")
            files, answers = repository.files(revision), []
            for item in json.loads(self.body)["files"]:
                mode = "lfs" if item["path"].endswith(LFS_SUFFIXES) else "regular"
                answers.append({"path": item["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None})
                if item["path"] in files:
                    data = files[item["path"]]
                    answers[-1]["oid"] = hashlib.sha256(data).hexdigest() if mode == "lfs" else _git_hash(data)
            return self.answer(200, {"files": answers, "commitOid": repository.find(revision)})

        def lfs_batch(self, repo_id: str) -> None:
            if self.repository(repo_id) is None:
                return None
            objects = []
            for item in json.loads(self.body)["objects"]:
                entry = {"oid": item["oid"], "size": item["size"]}
                if item["oid"] not in hub.objects:
                    entry["actions"] = {"upload": {"href": f"{hub.endpoint}/objects/{item['oid']}"}}
                objects.append(entry)
            return self.answer(200, {"transfer": "basic", "objects": objects})

        def put_object(self, oid: str) -> None:
            if hashlib.sha256(self.body).hexdigest() != oid:
                return self.refuse(400, message="wrong content")
            hub.objects[oid] = self.body
            hub.uploads.append(self.body)
            return self.answer(200)

        def commit(self, repo_id: str, revision: str) -> None:
            repository = self.repository(repo_id)
            if repository is None:
                return None
            pull = "create_pr" in self.query
            if not pull and not self.may_write(repo_id):
                return self.refuse(403, message="You don't have write access")
            if hub.before_commit:
                call, hub.before_commit = hub.before_commit, None
                call()
            sha = repository.find(revision)
            if sha is None:
                return self.refuse(404, "RevisionNotFound", "Invalid rev id")
            files, header = dict(repository.commits[sha]), {}
            for line in self.body.splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "header":
                    header = value
                    if not pull and value.get("parentCommit") not in (None, sha):
                        return self.refuse(412, message="A commit has happened since")
                elif item["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                    hub.uploads.append(files[value["path"]])
                elif item["key"] == "lfsFile":
                    if value["oid"] not in hub.objects:
                        return self.refuse(400, message="a file was not uploaded")
                    files[value["path"]] = hub.objects[value["oid"]]
                elif item["key"] == "deletedFile" and files.pop(value["path"], None) is None:
                    return self.refuse(404, "EntryNotFound", "A file with this name doesn't exist")
            new = repository.add(files, header["summary"])
            found: dict[str, Any] = {"commitOid": new, "commitUrl": f"{hub.endpoint}/{repo_id}/commit/{new}", "success": True}
            if pull:
                number = len(repository.pulls) + 1
                repository.pulls[number] = new
                found["pullRequestUrl"] = f"{hub.endpoint}/{repo_id}/discussions/{number}"
            else:
                repository.branches[revision] = new
            return self.answer(200, found)

        # ---- Downloads ----

        def resolve(self, repo_id: str, revision: str, path: str) -> None:
            repository = self.repository(repo_id)
            if repository is None:
                return None
            sha = repository.find(revision)
            if sha is None:
                return self.refuse(404, "RevisionNotFound", "Invalid rev id")
            data = repository.commits[sha].get(path)
            if data is None:
                return self.answer(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
            headers = {"X-Repo-Commit": sha, "ETag": f'"{_git_hash(data)}"', "Accept-Ranges": "bytes"}
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted:
                start, end = int(wanted[1]), int(wanted[2] or len(data) - 1)
                headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
                return self.answer(206, data[start : end + 1], headers)
            return self.answer(200, data, headers)

    return Handler


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
