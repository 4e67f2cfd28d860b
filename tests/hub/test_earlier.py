"""A pipeline that is saved after an erasure, loaded and made to forget again knows what it had forgotten before."""

import shutil
from pathlib import Path

import pytest
from conftest import Client
from hub_server import HubServer, Repository


@pytest.mark.slow
def test_earlier_erasures_are_known_from_a_folder_a_repository_and_its_clone(
    client: Client, hub: HubServer, token: str, tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    client.save_pipeline(concepts=["dress", "coat"], directory=str(folder))
    known = client.earlier(source=str(folder))
    assert known["concepts"] == [["dress"], ["coat"]] and known["unknown"] is None
    client.push(directory=str(folder), repo_id="tester/twice", token=token)
    published = client.earlier(source="tester/twice")
    assert published == known and known["figures"][0]["unlearned"]
    clone = tmp_path / "clone"
    shutil.copytree(folder, clone)
    for path in (*clone.glob("*.json"), clone / "README.md"):
        if path.name != "model_index.json":
            path.unlink()
    assert client.earlier(source=str(clone)) == {"concepts": [], "unknown": None, "figures": []}
    (clone / "unlearning_report.json").write_bytes(hub.repositories["tester/twice"].files()["unlearning_report.json"])
    assert client.earlier(source=str(clone)) == known


@pytest.mark.slow
def test_what_cannot_be_known_is_said(client: Client, hub: HubServer, token: str, tmp_path: Path) -> None:
    client.push_pipeline(concepts=["dress"], repo_id="tester/secret", token=token, disclose="summary")
    hidden = client.earlier(source="tester/secret")
    assert hidden["concepts"] == [] and "does not disclose" in hidden["unknown"]
    offline = client.earlier_offline(source="tester/never-loaded")
    assert offline["concepts"] == [] and "tester/never-loaded could not be asked" in offline["unknown"]
    nothing = {"concepts": [], "unknown": None, "figures": []}
    assert client.earlier(source=str(tmp_path)) == nothing  # a folder without a report
    hub.repositories["tester/plain"] = Repository()
    files = {"model_index.json": b"{}"}
    hub.repositories["tester/plain"].branches["main"] = hub.repositories["tester/plain"].add(files, "first")
    assert client.earlier(source="tester/plain") == nothing  # a repository without one
