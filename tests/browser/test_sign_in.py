"""Erase, sign in, push: against a loopback sign-in and a loopback Hub, with the Space set up as Spaces set it up."""

import sys
from pathlib import Path

import pytest
import yaml
from sign_in import SignIn
from space_server import SpaceServer
from visitor import Visitor


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hub"))
from hub_server import WRITE_TOKEN, HubServer


@pytest.mark.slow
def test_sign_in_and_push(browser, tmp_path):
    sign_in, hub = SignIn("tester", WRITE_TOKEN), HubServer()
    server = SpaceServer(
        tmp_path,
        **sign_in.environment(),
        HF_ENDPOINT=hub.endpoint,
        HF_HUB_OFFLINE="0",
        HF_HUB_DISABLE_XET="1",
        HF_HOME=str(tmp_path / "hf"),
    )
    try:
        visitor = Visitor(browser, server.url)
        visitor.page.get_by_text("Advanced").first.click()
        visitor.page.fill("#steps textarea", "8")
        visitor.page.click("#erase-button")
        visitor.wait_text("#erase-status", "Erased: dress", 240)
        visitor.tab("Publish")
        visitor.page.fill("#repository textarea", "no-dress")
        visitor.page.click("#push-button")
        visitor.wait_text("#publish-status", "Sign in first")

        # Signing in loads the page anew; the model is handed over to it.
        visitor.page.click("#login")
        visitor.page.wait_for_url(f"{server.url}/**", wait_until="load")
        visitor.page.get_by_role("tab", name="Publish").wait_for()
        visitor.page.wait_for_timeout(1000)
        visitor.tab("Publish")
        visitor.wait_text("#login", "tester")
        visitor.wait_text("#publish-status", "Welcome back", 20)
        visitor.page.fill("#repository textarea", "no-dress")
        visitor.page.click("#push-button")
        visitor.wait_text("#publish-status", "Pushed to tester/no-dress (private)", 120)
        link = visitor.page.locator("#publish-status a").get_attribute("href")
        assert link == f"{hub.endpoint}/tester/no-dress"
        visitor.screenshot("publish-pushed")
        visitor.context.close()
    finally:
        server.close()
        sign_in.close()
        hub.close()
    repository = hub.repositories["tester/no-dress"]
    files = repository.files()
    assert repository.private and {"README.md", "model_index.json", "unet/diffusion_pytorch_model.safetensors"} <= set(files)
    card = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert card["library_name"] == "diffusers" and "machine-unlearning" in card["tags"]
    # The token is in no uploaded file, no log and nothing on disk.
    assert WRITE_TOKEN not in server.log()
    kept = [path for path in [*tmp_path.rglob("*")] if path.is_file()]
    assert not [path for path in kept if WRITE_TOKEN.encode() in path.read_bytes()]
    assert not [name for name, data in files.items() if WRITE_TOKEN.encode() in data]
