"""The running Space, asked as programs ask it: named endpoints through gradio_client, alone and several at once."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from gradio_client import Client
from space_server import REPOSITORY, SPACE, SpaceServer

from spaces_demo.models import SHIPPED_NAME


EVIL = "<script>alert(1)</script>"
QUICK = {"steps": "8", "images": 2}
FULL = "The name of the concept, prompts and pictures"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = SpaceServer(tmp_path_factory.mktemp("space"))
    yield server
    server.close()
    assert not server.session_folders()  # what visitors left is deleted at the end


@pytest.fixture
def client(server, tmp_path):
    # On a busy machine an answer may take longer than the client's few seconds.
    return Client(server.url, verbose=False, download_files=str(tmp_path), httpx_kwargs={"timeout": 120})


def erase_fields(concept, **fields):
    return {
        "model": SHIPPED_NAME, "hub_id": "", "concept": concept, "anchor": "", "keep": "", "recipe": "default",
        "trim_ratio": "", "forget_weight": "", "steps": "", "scope": "", "projection": "default", "images": 2, "seed": 0,
        **fields, "api_name": "/erase",
    }  # fmt: skip


def test_the_named_endpoints(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {
        "/erase", "/cancel", "/compare", "/attack", "/probe", "/forget_class", "/forget_author", "/ask", "/card", "/zip",
        "/push",
    }  # fmt: skip
    assert [p["parameter_name"] for p in endpoints["/forget_class"]["parameters"]] == ["name", "seed"]


def test_a_class_is_forgotten(client):
    status, *_, report = client.predict(name="bag", seed=0, api_name="/forget_class")
    assert "Forgot “bag”" in status
    assert set(report["metrics"]) == {"original", "retrained", "unlearned"}
    assert report["metrics"]["unlearned"]["UA"] > 95


@pytest.mark.parametrize(
    "concept, fields, words",
    [
        ("", {}, "The concept is empty"),
        ("dress", {"anchor": "dress"}, "anchor"),
        ("dress", {"steps": "1000000"}, "must be from 1 to 600"),
        ("dress", {"trim_ratio": "7"}, "trim ratio"),
        ("dress", {"recipe": EVIL}, "&lt;script&gt;"),
        ("dress", {"recipe": "compound", "way": "Lead its words elsewhere (quick)"}, "its own way to erase"),
        ("dress", {"model": "A model from the Hub", "hub_id": "../../etc/passwd"}, "owner/name"),
        ("dress", {"model": "A model from the Hub", "hub_id": "me/model"}, "without the Hub"),
    ],
)
def test_bad_input_ends_in_plain_words(client, concept, fields, words):
    status = client.predict(**erase_fields(concept, **fields))[0]
    assert words in status and "<script" not in status and "Traceback" not in status


def test_pages_without_a_model_say_so(client):
    assert "Erase a concept first" in client.predict("a bag", 0, 2, "", "", api_name="/compare")[0]
    assert "Erase a concept first" in client.predict(0, api_name="/attack")[0]
    assert "Erase a concept first" in client.predict("", 16, 0, api_name="/probe")[0]
    assert "forget one first" in client.predict("Where was she born?", api_name="/ask")
    assert "Erase a concept first" in client.predict("me/x", FULL, "", api_name="/card")[0]
    assert "Sign in first" in client.predict("me/x", "private", FULL, "", api_name="/push")
    assert "Nothing of yours" in client.predict(api_name="/cancel")


@pytest.mark.slow
def test_an_erased_model_belongs_to_its_client(server, client, tmp_path):
    status, *_, report, pictures = client.predict(**erase_fields("dress", **QUICK))
    assert "Erased: dress" in status
    assert report["concepts"] == ["dress"] and "pictures" not in report
    assert len(pictures) == sum(2 * score["images"] for score in report["prompts"])
    status, html, _, files = client.predict("a red bag", 1, 2, "4", "4.0", api_name="/compare")
    assert "a red bag" in status and html.count("<img") == 4 and len(files) == 4
    card = client.predict("me/no-dress", FULL, "mit", api_name="/card")[1]
    assert card.startswith("---\n") and "license: mit" in card
    archive = client.predict(FULL, "mit", api_name="/zip")[1]
    assert archive.endswith("without-dress.zip")
    stranger = Client(server.url, verbose=False)
    assert "Erase a concept first" in stranger.predict("a red bag", 1, 2, "4", "4.0", api_name="/compare")[0]
    assert "Erase a concept first" in stranger.predict(FULL, "mit", api_name="/zip")[0]


@pytest.mark.slow
def test_cancel_from_the_same_client_stops_the_run(client):
    job = client.submit(**erase_fields("coat"))
    deadline = time.monotonic() + 60
    while not any("Draw" in str(output[0]) for output in job.outputs()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "stops at the next step" in client.predict(api_name="/cancel")
    assert "Cancelled" in job.result(timeout=60)[0]


@pytest.mark.slow
def test_twenty_requests_of_four_clients_all_end(server):
    """Each with a result, or in plain words: three of each client's five run something, two are refused."""
    clients = [Client(server.url, verbose=False) for _ in range(4)]
    jobs = []
    for number, client in enumerate(clients):
        jobs += [
            client.submit("sandal", number, api_name="/forget_class"),
            client.submit("no such class", 0, api_name="/forget_class"),
            client.submit(0, api_name="/attack"),
            client.submit("coat", number, api_name="/forget_class"),
            client.submit("shirt", number, api_name="/forget_class"),
        ]
    with ThreadPoolExecutor(len(jobs)) as pool:
        results = list(pool.map(lambda job: job.result(timeout=300), jobs))
    texts = [result[0] for result in results]
    assert len(texts) == 20
    assert sum("Forgot" in text for text in texts) == 12
    assert sum("Erase a concept first" in text for text in texts) == 4
    assert sum("knows no class" in text for text in texts) == 4


def test_sessions_are_given_back_when_clients_go(server):
    before = set(server.session_folders())
    client = Client(server.url, verbose=False)
    client.predict(name="bag", seed=0, api_name="/forget_class")
    made = set(server.session_folders()) - before
    assert len(made) == 1
    client.close()
    deadline = time.monotonic() + 40
    while made & set(server.session_folders()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not made & set(server.session_folders())


def test_the_log_holds_no_error_and_no_typed_text(server):
    assert "Traceback" not in server.log() and EVIL not in server.log()


def test_the_folder_alone_is_the_space():
    """A Space is this folder's files: nothing in it is a link, and its head names what starts it and what it needs."""
    assert not [path for path in SPACE.rglob("*") if path.is_symlink()]
    head = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert head["sdk"] == "gradio" and (SPACE / head["app_file"]).is_file() and head["hf_oauth"] is True
    assert len(head["short_description"]) <= 60  # the Hub refuses longer ones
    needed = (SPACE / "requirements.txt").read_text(encoding="utf-8")
    pinned = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"gradio[oauth]=={head['sdk_version']}" in needed and f"gradio=={head['sdk_version']}" in pinned
    lines = [line for line in needed.splitlines() if line and not line.startswith(("#", "scissorhands_hf", "gradio"))]
    assert {line.lower() for line in lines} <= {line.lower() for line in pinned}
