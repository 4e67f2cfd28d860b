"""Every failure between the disk and the Hub has one clear message, and leaves the result complete with the way to go on."""

import shlex
from pathlib import Path

import pytest
from conftest import Client, ClientError
from hub_server import OTHER_TOKEN, READ_TOKEN, HubServer


REPO = "tester/model"


def failure(client: Client, folder: Path, token: str, repo_id: str = REPO, **options: object) -> ClientError:
    """The error of a push. The folder is complete, and the command in the message, run as it stands, is right."""
    with pytest.raises(ClientError) as caught:
        client.push(directory=folder, repo_id=repo_id, token=token, **options)
    error = caught.value
    assert error.name == "HubPushError", str(error)
    assert token not in error.message and "Traceback" not in error.message
    command = shlex.split(error.message.rpartition("\n")[2])
    assert command[:3] == ["scissorhands", "push", str(folder)]
    assert {path.name for path in folder.iterdir()} >= {
        "README.md",
        "config.json",
        "model.safetensors",
        "unlearning_report.json",
    }
    assert not list(folder.glob(".scissorhands*"))
    return error


def pushed(hub: HubServer, repo_id: str = REPO) -> bool:
    return "model.safetensors" in hub.repositories[repo_id].files()


@pytest.mark.parametrize(
    ("pattern", "method", "status", "kind", "says"),
    [
        ("whoami", "GET", 401, "token", "does not know the token"),
        ("repos/create", "POST", 403, "read-only", "may not write to tester/model"),
        ("auth-check/write", "GET", 403, "read-only", "may not write to tester/model"),
        ("preupload", "POST", 403, "read-only", "may not write to tester/model"),
        ("preupload", "POST", 404, "missing", "does not exist, or the token may not see it"),
        ("objects/batch", "POST", 404, "missing", "does not exist, or the token may not see it"),
        ("/commit/", "POST", 403, "read-only", "may not write to tester/model"),
        ("/commit/", "POST", 404, "missing", "does not exist, or the token may not see it"),
        ("/commit/", "POST", 409, "taken", "another change to it is going on"),
        ("/commit/", "POST", 400, "rejected", "The Hub rejected the upload"),
        ("validate-yaml", "POST", 400, "rejected", "The Hub rejected the upload"),
        ("/objects/", "PUT", 413, "rejected", "The Hub rejected the upload"),
    ],
)
def test_refusals(
    pattern: str, method: str, status: int, kind: str, says: str, client: Client, hub: HubServer, run_folder: Path, token: str
) -> None:
    hub.fail(method, pattern, status, times=99)
    error = failure(client, run_folder, token)
    assert error.kind == kind and says in error.message
    hub.faults.clear()
    client.push(directory=run_folder, repo_id=REPO, token=token)
    assert pushed(hub) and len(hub.repositories[REPO].messages) == 2


def test_tokens_and_names(client: Client, hub: HubServer, run_folder: Path, token: str) -> None:
    assert failure(client, run_folder, "hf_" + "x" * 34).kind == "token"

    hub.create(REPO)
    error = failure(client, run_folder, READ_TOKEN)
    assert error.kind == "read-only" and not hub.requests("preupload|commit")
    assert failure(client, run_folder, OTHER_TOKEN).kind == "read-only"
    assert failure(client, run_folder, token, "other/new").kind == "read-only"

    error = failure(client, run_folder, token, exist_ok=False)
    assert error.kind == "taken" and "The name tester/model is taken" in error.message
    error = failure(client, run_folder, token, private=True)
    assert error.kind == "taken" and "exists and is public" in error.message and error.message.endswith("--private")
    assert not pushed(hub)

    error = failure(client, run_folder, token, "tester/absent", create_pr=True)
    assert error.kind == "missing" and error.message.endswith("--create_pr")
    error = failure(client, run_folder, token, revision="refs/pr/7")
    assert error.kind == "missing" and "no such revision" in error.message
    assert failure(client, run_folder, token, "not a name").kind == "rejected"


@pytest.mark.slow
@pytest.mark.parametrize("action", [503, "drop"])
def test_a_moment_of_weakness(action: int | str, client: Client, hub: HubServer, run_folder: Path, token: str) -> None:
    """A 503 or a dropped line once, at every kind of request, is not noticed."""
    for method, pattern in (
        ("GET", "whoami"),
        ("POST", "repos/create"),
        ("GET", "auth-check"),
        ("GET", r"/api/models/tester/model$"),
        ("POST", "validate-yaml"),
        ("POST", "preupload"),
        ("POST", "objects/batch"),
        ("PUT", "/objects/"),
        ("POST", "/commit/"),
    ):
        hub.fail(method, pattern, action)
    client.push(directory=run_folder, repo_id=REPO, token=token)
    assert pushed(hub) and len(hub.repositories[REPO].messages) == 2
    assert all(fault.times == 0 for fault in hub.faults)


def test_dropped_in_the_middle_and_after_the_end(client: Client, hub: HubServer, run_folder: Path, token: str) -> None:
    """Half an upload; a commit whose answer is lost and which must not be made twice."""
    hub.fail("PUT", "/objects/", "half")
    hub.fail("POST", "/commit/", "drop-after")
    client.push(directory=run_folder, repo_id=REPO, token=token)
    assert pushed(hub) and len(hub.repositories[REPO].messages) == 2
    assert [fault.times for fault in hub.faults] == [0, 0]


def test_a_pull_request_is_not_opened_twice(client: Client, hub: HubServer, run_folder: Path, token: str) -> None:
    hub.create(REPO)
    hub.fail("POST", "/commit/", "drop-after")
    assert failure(client, run_folder, token, create_pr=True).kind == "offline"
    assert list(hub.repositories[REPO].pulls) == [1]


def test_a_server_that_stays_down(client: Client, hub: HubServer, run_folder: Path, token: str) -> None:
    hub.fail("POST", "repos/create", 503, times=99)
    error = failure(client, run_folder, token)
    assert error.kind == "server" and "failed several times (status 503)" in error.message
    assert len(hub.requests("repos/create")) == 5


@pytest.mark.slow
def test_a_line_that_stays_down(client: Client, hub: HubServer, run_folder: Path, token: str) -> None:
    hub.fail("POST", "/commit/", "drop", times=99)
    error = failure(client, run_folder, token)
    assert error.kind == "offline" and "the connection broke and did not come back" in error.message
    hub.faults.clear()
    sent = len(hub.requests("PUT"))
    client.push(directory=run_folder, repo_id=REPO, token=token)
    assert pushed(hub) and len(hub.requests("PUT")) == sent


def test_someone_else_pushes_meanwhile(client: Client, hub: HubServer, run_folder: Path, token: str) -> None:
    """A card edited between reading and writing it is merged again; with no end to it, it is a conflict."""
    repository = hub.create(REPO, files={"README.md": b"---\nlicense: mit\n---\nFirst.\n"})

    def edit() -> None:
        files = {**repository.files(), "README.md": b"---\nlicense: mit\n---\nEdited just now.\n"}
        repository.branches["main"] = repository.add(files, "edit")

    hub.before_commit = edit
    client.push(directory=run_folder, repo_id=REPO, token=token)
    card = repository.files()["README.md"].decode()
    assert "Edited just now." in card and "First." not in card
    assert len(hub.requests("/commit/")) == 2

    (run_folder / "README.md").unlink()
    hub.fail("POST", "/commit/", 412, times=99)
    client.card(directory=run_folder, forgotten="other words", disclose="full")
    error = failure(client, run_folder, token)
    assert error.kind == "conflict" and "changed by someone else" in error.message


@pytest.mark.slow
def test_offline(client: Client, hub: HubServer, run_folder: Path, token: str) -> None:
    error = ClientError(client.push_offline(directory=str(run_folder), repo_id=REPO, token=token))
    assert error.kind == "offline" and "HF_HUB_OFFLINE is set" in error.message
    error = ClientError(client.push_to_nowhere(directory=str(run_folder), repo_id=REPO, token=token))
    assert error.kind == "offline" and "cannot be reached" in error.message
    assert f"scissorhands push {run_folder} {REPO}" in error.message
    assert hub.log == []
