"""Pushes over a real connection: the real client, a loopback Hub."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import Client, ClientError
from hub_server import WRITE_TOKEN, HubServer


STOCK = """
import sys
sys.modules["scissorhands_hf"] = None  # importing it fails from here on
import json
import torch
from transformers import AutoModelForImageClassification
exec(sys.argv[2])  # the snippet of the card, which makes `model`
half = AutoModelForImageClassification.from_pretrained(sys.argv[1], variant="fp16", dtype="float16")
assert half.dtype == torch.float16
pixels = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16)
with torch.no_grad():
    print(json.dumps([each.float().eval()(pixel_values=pixels).logits[0].tolist() for each in (model, half)]))
"""


def reload(repo_id: str, card: str, environment: dict[str, str], tmp_path: Path) -> tuple[list, list]:
    """Logits of what the card's snippet and what `variant="fp16"` load from the Hub, in a process that cannot import this
    package and has an empty cache."""
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
    result = subprocess.run(
        [sys.executable, "-c", STOCK, repo_id, snippet],
        env={**environment, "HF_HOME": str(tmp_path / "empty-cache"), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return tuple(json.loads(result.stdout.splitlines()[-1]))


def metadata(card: bytes) -> dict:
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card.decode(), re.DOTALL).group(1))


@pytest.mark.slow
def test_train_push_wipe_reload(
    client: Client, hub: HubServer, environment: dict[str, str], home: Path, token: str, tmp_path: Path
) -> None:
    """The whole way: what a stranger loads is what was unlearned, and nothing that was private went over the line."""
    settings = {"hub_model_id": "tester/forgetful", "hub_token": token, "license": "mit", "forgotten": "the secret six"}
    pushed = client.train_and_push(output_dir=str(tmp_path / "out"), settings=settings, push={"fp16_variant": True})
    repository = hub.repositories["tester/forgetful"]
    assert repository.branches["main"] == pushed["commit"]
    files = repository.files()
    assert set(files) == {
        ".gitattributes", "README.md", "config.json", "model.safetensors", "model.fp16.safetensors", "unlearning.png",
        "unlearning_report.json",
    }  # fmt: skip
    assert repository.messages[1:] == ["Upload unlearned model"]

    full, half = reload("tester/forgetful", files["README.md"].decode(), environment, tmp_path)
    assert full == pytest.approx(pushed["logits"][0], abs=1e-6)
    assert half == pytest.approx(pushed["logits"][0], abs=2e-2) and half != full

    (tmp_path / "out" / "training_args.bin").stat()  # Trainer's own, which stays here
    assert token.encode() not in (tmp_path / "out" / "training_args.bin").read_bytes()
    private = [token.encode(), str(home).encode(), home.name.encode(), str(tmp_path).encode(), b"the secret six"]
    private += [bytes.fromhex(example) for example in client.forget_bytes()]
    for data in (*hub.uploads, *files.values()):
        assert not [needle for needle in private if needle in data]
    assert metadata(files["README.md"])["license"] == "mit"


def test_only_the_finished_model_is_pushed(client: Client, hub: HubServer, token: str, tmp_path: Path) -> None:
    """With `push_to_hub` the repository is there before the run, or the run does not begin; no checkpoint goes there."""
    settings = {
        "push_to_hub": True, "hub_model_id": "tester/going", "hub_token": token, "save_strategy": "steps", "save_steps": 2,
        "hub_private_repo": True,
    }  # fmt: skip
    ended = client.train_with_push_to_hub(output_dir=str(tmp_path / "a"), **settings)
    repository = hub.repositories["tester/going"]
    assert ended["steps"] == 5 and repository.private
    assert repository.messages == ["initial commit"]
    client.save_trainer()
    assert repository.messages[1:] == ["Model save"]
    assert set(repository.files()) == {
        ".gitattributes", "README.md", "config.json", "model.safetensors", "unlearning.png", "unlearning_report.json",
    }  # fmt: skip
    assert not list((tmp_path / "a").glob(".scissorhands*"))

    hub.fail("GET", "whoami", 401)
    with pytest.raises(ClientError, match="does not know the token"):
        client.train_with_push_to_hub(output_dir=str(tmp_path / "c"), **settings)
    assert not (tmp_path / "c").exists()
    with pytest.raises(ClientError, match="hub_strategy='every_save' would push checkpoints"):
        client.train_with_push_to_hub(output_dir=str(tmp_path / "c"), **settings, hub_strategy="every_save")


def test_push_from_the_trainer_in_the_background_and_sharded(
    client: Client, hub: HubServer, token: str, tmp_path: Path, finished_run: Path
) -> None:
    folder = tmp_path / "out"
    client.train(output_dir=str(folder), hub_model_id="tester/shards", hub_token=token)
    (folder / "model-00001-of-00009.safetensors").write_bytes(b"left from another save")
    client.push_trainer(push={"max_shard_size": "20KB", "blocking": False, "revision": "sharded", "check": "weights"})
    files = hub.repositories["tester/shards"].files("sharded")
    shards = {name for name in files if name.endswith(".safetensors")}
    assert len(shards) > 2 and "model.safetensors" not in shards and "model.safetensors.index.json" in files
    assert set(json.loads(files["model.safetensors.index.json"])["weight_map"].values()) == shards
    assert set(hub.repositories["tester/shards"].files("main")) == {".gitattributes"}


def test_destinations(client: Client, hub: HubServer, run_folder: Path, token: str) -> None:
    """Own namespace by default, private, a branch, a pull request with one commit, a first line."""
    client.push(directory=run_folder, repo_id="named", token=token, private=True, commit_message="First")
    repository = hub.repositories["tester/named"]
    assert repository.private and repository.messages[-1] == "First"

    client.push(directory=run_folder, repo_id="tester/named", token=token, revision="attempt")
    assert "model.safetensors" in repository.files("attempt")

    hub.create("other/model", files={"README.md": b"---\nlicense: mit\n---\nTheirs.\n"})
    answer = client.push(directory=run_folder, repo_id="other/model", token=token, create_pr=True)
    theirs = hub.repositories["other/model"]
    assert answer["pr_url"].endswith("/other/model/discussions/1")
    assert set(theirs.files()) == {".gitattributes", "README.md"} and list(theirs.pulls) == [1]
    assert b"Theirs." in theirs.files("refs/pr/1")["README.md"]

    with pytest.raises(ClientError, match="leave out revision='attempt'"):
        client.push(directory=run_folder, repo_id="other/model", token=token, create_pr=True, revision="attempt")
    with pytest.raises(ClientError, match="commit_message is empty"):
        client.push(directory=run_folder, repo_id="x", token=token, commit_message=" ")


def test_a_second_push_keeps_what_users_wrote(client: Client, hub: HubServer, run_folder: Path, token: str) -> None:
    client.push(directory=run_folder, repo_id="tester/shared", token=token, license="mit")
    repository = hub.repositories["tester/shared"]
    text = repository.files()["README.md"].decode()
    edited = text.replace("license: mit\n", "license: mit\nthumbnail: a.png\n").replace("tags:\n", "tags:\n- mine\n")
    edited = (
        edited.replace("<!-- scissorhands:begin -->", "Hello from the web.\n\n<!-- scissorhands:begin -->") + "\nBelow, too.\n"
    )
    assert edited.count("\n") == text.count("\n") + 6
    files = {**repository.files(), "README.md": edited.encode(), "notes.txt": b"keep me"}
    repository.branches["main"] = repository.add(files, "edited on the web")

    report = json.loads((run_folder / "unlearning_report.json").read_text())
    report["metrics"]["unlearned"]["retain accuracy"] = 0.7654
    (run_folder / "unlearning_report.json").write_text(json.dumps(report))
    client.push(directory=run_folder, repo_id="tester/shared", token=token)
    card = repository.files()["README.md"].decode()
    assert (
        card.index("Hello from the web.") < card.index("scissorhands:begin") < card.rindex("0.7654") < card.index("Below, too.")
    )
    assert card.count("scissorhands:begin") == card.count("Hello from the web.") == card.count("Below, too.") == 1
    assert metadata(card.encode())["thumbnail"] == "a.png"
    assert {"mine", "scissorhands", "machine-unlearning", "arxiv:2401.06187"} <= set(metadata(card.encode())["tags"])
    assert repository.files()["notes.txt"] == b"keep me"
    assert (run_folder / "README.md").read_text() == card

    # Written here alone, then here and there at once.
    (run_folder / "README.md").write_text(card + "\nWritten on this disk.\n")
    client.push(directory=run_folder, repo_id="tester/shared", token=token)
    card = repository.files()["README.md"].decode()
    assert card.count("Written on this disk.") == card.count("Below, too.") == 1
    repository.branches["main"] = repository.add({**repository.files(), "README.md": f"{card}\nA\n".encode()}, "web")
    (run_folder / "README.md").write_text(card + "\nB\n")
    with pytest.raises(ClientError, match="edited both on this disk and on the Hub"):
        client.push(directory=run_folder, repo_id="tester/shared", token=token)


def test_weights_and_traces_of_before_do_not_stay(client: Client, hub: HubServer, run_folder: Path, token: str) -> None:
    """A repository that held the original is rid of its weights in the same commit; files of others stay."""
    files = {
        "pytorch_model.bin": b"the original", "model-00001-of-00002.safetensors": b"old", "training_args.bin": b"token",
        "onnx/model.onnx": b"the original", "before_after/01-before.png": b"shown by mistake", "data/labels.txt": b"cat",
    }  # fmt: skip
    repository = hub.create("tester/reused", files=files)
    client.push(directory=run_folder, repo_id="tester/reused", token=token)
    assert len(repository.messages) == 2
    assert set(repository.files()) == {
        ".gitattributes", "README.md", "config.json", "model.safetensors", "unlearning.png", "unlearning_report.json",
        "data/labels.txt",
    }  # fmt: skip


def test_only_listed_files_go_up(client: Client, hub: HubServer, run_folder: Path, token: str) -> None:
    for name in ("optimizer.pt", "trainer_state.json", "forget_examples.parquet", ".env", "mask.safetensors", "notes.md"):
        (run_folder / name).write_bytes(b"private")
    (run_folder / "checkpoint-3").mkdir()
    (run_folder / "checkpoint-3" / "model.safetensors").write_bytes(b"private")
    client.push(directory=run_folder, repo_id="tester/listed", token=token)
    assert set(hub.repositories["tester/listed"].files()) == {
        ".gitattributes", "README.md", "config.json", "model.safetensors", "unlearning.png", "unlearning_report.json",
    }  # fmt: skip


def test_a_folder_that_is_not_fit_is_not_sent(client: Client, hub: HubServer, run_folder: Path, token: str) -> None:
    """Each fault is found before anything is sent."""

    def refused(match: str, name: str, content: bytes | str | None, **options: str) -> None:
        path = run_folder / name
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(ClientError, match=match) as caught:
            client.push(directory=run_folder, repo_id="tester/unfit", token=token, **options)
        assert caught.value.name == "UploadRefusedError" and token not in caught.value.message
        path.write_bytes(before) if before is not None else path.unlink()

    config = json.loads((run_folder / "config.json").read_text())
    refused("config.json holds an access token", "config.json", json.dumps({**config, "note": token}))
    refused("config.json holds an access token", "config.json", json.dumps({**config, "note": "hf_" + "A1" * 17}))
    refused("config.json holds a path of this machine", "config.json", json.dumps({**config, "note": str(run_folder)}))
    refused("config.json holds a path of this machine", "config.json", json.dumps({**config, "note": "/home/eve/models"}))
    refused("not in transformers", "config.json", json.dumps({**config, "architectures": ["MyOwn"]}))
    refused("needs code of its own", "config.json", json.dumps({**config, "auto_map": {"AutoModel": "m.M"}}))
    refused("lie side by side", "model.safetensors.index.json", json.dumps({"weight_map": {}}))
    other = Path(client.card(directory=run_folder)).parent / "model.safetensors"
    data = bytearray(other.read_bytes())
    data[-4:] = b"\0\0\x80?"
    refused("not those that the report was written for", "model.safetensors", bytes(data))
    report = json.loads((run_folder / "unlearning_report.json").read_text())
    report["notes"] = ["measured by winifred-quillfeather at night"]
    refused("the name of your account", "unlearning_report.json", json.dumps(report), disclose="full")
    refused("once each", "README.md", "---\n{}\n---\n<!-- scissorhands:begin -->\n")
    assert hub.log == []
    client.card(directory=run_folder, disclose="summary")
    client.push(directory=run_folder, repo_id="tester/unfit", token=token)


def test_paths_in_configurations_are_left_out(client: Client, hub: HubServer, run_folder: Path, token: str) -> None:
    config = json.loads((run_folder / "config.json").read_text())
    config["_name_or_path"] = str(run_folder)
    (run_folder / "config.json").write_text(json.dumps({**config, "nested": {"_name_or_path": str(run_folder)}}))
    client.push(directory=run_folder, repo_id="tester/paths", token=token)
    assert b"_name_or_path" not in hub.repositories["tester/paths"].files()["config.json"]


@pytest.mark.slow
def test_a_killed_push_goes_on_where_it_was(
    client: Client, hub: HubServer, environment: dict[str, str], token: str, tmp_path: Path
) -> None:
    """The process is killed in the middle of an upload; the command for later sends only what is missing, as one commit."""
    folder = tmp_path / "out"
    client.train(output_dir=str(folder))
    client.push_trainer_shards(directory=str(folder))
    shards = sorted(path.stat().st_size for path in folder.glob("model-*.safetensors"))
    hub.fail("PUT", "/objects/", "hold", times=1)
    code = "import sys; sys.path.insert(0, sys.argv[4]); import scenarios; scenarios.push(*sys.argv[1:3], token=sys.argv[3])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), "tester/killed", token, str(Path(__file__).parent)], env=environment
    )
    assert hub.held.wait(120)
    deadline = time.monotonic() + 60
    while len(hub.uploads) < len(shards) and time.monotonic() < deadline:  # the plot and all shards but the held one
        time.sleep(0.05)
    process.kill()
    process.wait()
    hub.release.set()
    assert hub.repositories["tester/killed"].messages == ["initial commit"]
    sent = len(hub.requests("PUT /objects"))
    client.push(directory=folder, repo_id="tester/killed", token=token)
    assert len(hub.requests("PUT /objects")) == sent + 1
    assert len(hub.repositories["tester/killed"].messages) == 2
    shutil.rmtree(folder)


def test_the_token_of_the_environment(hub: HubServer, client: Client, run_folder: Path) -> None:
    with pytest.raises(ClientError, match="There is no access token") as caught:
        client.push(directory=run_folder, repo_id="tester/none")
    assert caught.value.kind == "token" and hub.log == []
    assert f"scissorhands push {run_folder} tester/none" in caught.value.message
    assert WRITE_TOKEN not in caught.value.message


def test_licence_and_language_of_the_base_model(client: Client, hub: HubServer, run_folder: Path, token: str) -> None:
    """They are inherited; what is not to be had is left out, and what the user says wins."""
    hub.create("tester/base", files={"README.md": b"---\nlicense: cc-by-4.0\nlanguage: de\n---\n"})
    client.push(directory=run_folder, repo_id="tester/child", token=token, base_model="tester/absent")
    found = metadata(hub.repositories["tester/child"].files()["README.md"])
    assert found["base_model"] == "tester/absent" and "license" not in found
    client.push(directory=run_folder, repo_id="tester/child", token=token, base_model="tester/base")
    found = metadata(hub.repositories["tester/child"].files()["README.md"])
    assert (found["license"], found["language"], found["base_model"]) == ("cc-by-4.0", ["de"], "tester/base")
    assert found["base_model_relation"] == "finetune"
    client.push(directory=run_folder, repo_id="tester/child", token=token, license="mit")
    assert metadata(hub.repositories["tester/child"].files()["README.md"])["license"] == "mit"


def test_a_text_model_with_its_tokenizer(client: Client, hub: HubServer, token: str, tmp_path: Path) -> None:
    client.push_text_model(output_dir=str(tmp_path / "out"), repo_id="tester/text", token=token)
    files = hub.repositories["tester/text"].files()
    assert {"tokenizer.json", "tokenizer_config.json"} <= files.keys() and "training_args.bin" not in files
    assert b"local_files_only" not in files["tokenizer_config.json"]
    card = files["README.md"].decode()
    assert metadata(card.encode())["pipeline_tag"] == "text-classification"
    assert 'tokenizer = AutoTokenizer.from_pretrained("tester/text")' in card


@pytest.mark.parametrize(("kind", "plots"), [("trainer", 1), ("folder", 1), ("pipeline", 1), ("space", 0)])
def test_a_push_renders_once(
    kind: str, plots: int, client: Client, hub: HubServer, token: str, run_folder: Path, tmp_path: Path
) -> None:
    """And draws its plot once, a pipeline's when it is saved, even if the README on the Hub changes in between."""
    folder = tmp_path / "saved"
    if kind == "folder":
        folder = run_folder
    if kind == "space":
        assert client.count_save(directory=str(folder)) == {"renders": 1, "plots": 1}
    repository = hub.create("tester/counted", private=True, files={"README.md": b"First.\n"})

    def edit() -> None:
        files = {**repository.files(), "README.md": b"Edited just now.\n"}
        repository.branches["main"] = repository.add(files, "edit")

    hub.before_commit = edit
    found = client.count_push(kind=kind, directory=str(folder), repo_id="tester/counted", token=token)
    assert found == {"renders": 1, "plots": plots}
    files = repository.files()
    card = files["README.md"].decode()
    assert "Edited just now." in card and "First." not in card and "![Figures and course of the run](unlearning.png)" in card
    assert files["unlearning.png"][:4] == b"\x89PNG"


def test_the_first_contact_has_a_time_limit(client: Client, hub: HubServer, token: str) -> None:
    hub.fail("GET", "whoami", "hold")
    with pytest.raises(ClientError, match="cannot be reached.*no answer within 0.3 s") as caught:
        client.who_within(seconds=0.3, token=token)
    assert caught.value.kind == "offline"
    hub.release.set()
