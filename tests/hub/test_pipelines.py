"""Pipelines on the Hub: stock diffusers loads them, and their card shows what was erased, before and after."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Client, ClientError
from hub_server import HubServer


STOCK = """
import sys
sys.modules["scissorhands_hf"] = None  # importing it fails from here on
import json
import torch
from diffusers import DiffusionPipeline
found = []
for arguments in ({}, {"variant": "fp16"}):
    pipe = DiffusionPipeline.from_pretrained(sys.argv[1], **arguments, torch_dtype=torch.float32)
    generator = torch.Generator().manual_seed(3)
    latents = pipe("a red dress", num_inference_steps=2, output_type="latent", generator=generator).images
    found.append(latents.flatten().tolist())
print(json.dumps([type(pipe).__name__, *found]))
"""


@pytest.mark.slow
def test_stock_diffusers_loads_what_was_pushed(
    client: Client, hub: HubServer, environment: dict[str, str], token: str, tmp_path: Path
) -> None:
    """In shards, with half-precision copies, in a process that cannot import this package."""
    pushed = client.push_pipeline(
        concepts=["dress", "coat"], repo_id="tester/no-dress", token=token, fp16_variant=True, max_shard_size="1MB"
    )
    files = hub.repositories["tester/no-dress"].files()
    assert json.loads(files["model_index.json"])["_class_name"] == "StableDiffusionPipeline"
    assert {
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
    } <= (files.keys())
    result = subprocess.run(
        [sys.executable, "-c", STOCK, "tester/no-dress"],
        env={**environment, "HF_HOME": str(tmp_path / "empty-cache"), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    name, full, half = json.loads(result.stdout.splitlines()[-1])
    assert name == "StableDiffusionPipeline"
    assert full == pytest.approx(pushed["latents"], abs=1e-5)
    assert half == pytest.approx(pushed["half"], abs=1e-2) and half != full

    card = files["README.md"].decode()
    assert "The concepts `dress`, `coat`." in card and "led to `clothing`" in card
    assert "library_name: diffusers" in card and "pipeline_tag: text-to-image" in card and "license: mit" in card
    assert "| `a photo of a bag` | ![before](before_after/" in card
    shown = set(re.findall(r"!\[[\w ]+\]\(([^)]+)\)", card))
    assert shown == {name for name in files if name.endswith(".png")} and len(shown) == 5
    assert "Measured before the later erasures: concept 12.5" in card and "judge `fashion-judge`" in card
    assert json.loads(files["unlearning_report.json"])["concepts"] == ["coat"]


def test_disclosure_of_a_concept(client: Client, hub: HubServer, token: str, tmp_path: Path) -> None:
    """With a summary, neither the name nor a picture, a prompt or a plot of them is published, nor stays published."""
    folder = tmp_path / "saved"
    client.save_pipeline(concepts=["dress"], directory=str(folder), fp16_variant=True)
    client.push(directory=str(folder), repo_id="tester/told", token=token)
    before = hub.repositories["tester/told"].files()
    assert "before_after/01-before.png" in before

    for disclose, told in (("summary", "1 concept. What it was is not disclosed."), ("none", "What it was is not disclosed.")):
        client.push(directory=str(folder), repo_id="tester/told", token=token, disclose=disclose)
        files = hub.repositories["tester/told"].files()
        assert told in files["README.md"].decode()
        assert not [name for name in files if name.startswith("before_after")]
        for name in ("README.md", "unlearning_report.json"):
            assert not re.search(rb"dress|clothing|a photo of", files[name]), name
        assert files["unlearning.png"] != before["unlearning.png"]

    client.card(directory=str(folder), disclose="full")
    assert "`dress`" in (folder / "README.md").read_text()


def test_pictures_of_kept_prompts_alone(client: Client, hub: HubServer, tmp_path: Path) -> None:
    client.save_pipeline(concepts=["dress"], directory=str(tmp_path / "a"), pictures="kept")
    card = (tmp_path / "a" / "README.md").read_text()
    assert "| `a photo of a bag` | ![before]" in card and "| `a photo of a dress` | ![" not in card
    assert not (tmp_path / "a" / "erasure_report.png").exists()
    client.save_pipeline(concepts=["dress"], directory=str(tmp_path / "a"), pictures="none")
    assert not (tmp_path / "a" / "before_after").exists()


def test_pictures_chosen_after_saving(client: Client, hub: HubServer, token: str, tmp_path: Path) -> None:
    """What was saved with all pictures can be pushed without those of the concept, its plot among them."""
    folder = tmp_path / "a"
    client.save_pipeline(concepts=["dress"], directory=str(folder))
    whole = (folder / "unlearning.png").read_bytes()
    assert whole == (folder / "erasure_report.png").read_bytes()
    for choice, shown in (("kept", {"before_after/02-before.png", "before_after/02-after.png"}), ("none", set())):
        client.push(directory=str(folder), repo_id="tester/chosen", token=token, pictures=choice)
        files = hub.repositories["tester/chosen"].files()
        assert {name for name in files if name.startswith("before_after")} == shown
        assert files["unlearning.png"] != whole


def test_saving_refuses_nothing_that_only_a_push_must(client: Client, hub: HubServer, token: str, tmp_path: Path) -> None:
    """Names and paths of this machine stay on it; a README whose parts cannot be told is left alone; a second save in other
    shards follows the first."""
    folder, secret = tmp_path / "a", "measured by winifred-quillfeather at /home/winifred"
    client.save_pipeline_noted(directory=str(folder), note=secret)
    assert "winifred" in (folder / "README.md").read_text()
    for match in ("the name of your account", "a path of this machine"):
        with pytest.raises(ClientError, match=match) as caught:
            client.push(directory=str(folder), repo_id="tester/x", token=token)
        assert caught.value.name == "UploadRefusedError" and hub.log == []
        secret = secret.replace("winifred-quillfeather", "someone")
        client.save_pipeline_noted(directory=str(folder), note=secret)
    broken = "<!-- scissorhands:begin -->\n"
    (folder / "README.md").write_text(broken)
    client.save_pipeline_noted(directory=str(folder), note="fine", max_shard_size="1MB")
    assert (folder / "README.md").read_text() == broken
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    client.save_pipeline_noted(directory=str(folder), note="fine")
    (folder / "README.md").unlink()
    client.push(directory=str(folder), repo_id="tester/x", token=token)
    assert "unet/diffusion_pytorch_model.safetensors" in hub.repositories["tester/x"].files()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"variant": "fp16"}, "is torch.float32: the file would not be what its name says"),
        ({"safe_serialization": False}, "safe_serialization=False writes pickles"),
        ({"pictures": "some"}, "pictures='some' is not one of"),
        ({"disclose": "half"}, "disclose='half' is not one of"),
        ({"license": "My licence!"}, "license='My licence!' is not a licence identifier"),
        ({"base_model": "a/b/c"}, "base_model='a/b/c' is not an id on the Hub"),
        ({"language": "english please"}, "is not a language code"),
    ],
)
def test_bad_arguments(options: dict, says: str, client: Client, tmp_path: Path) -> None:
    with pytest.raises(ClientError) as caught:
        client.save_pipeline(concepts=["dress"], directory=str(tmp_path / "a"), **options)
    assert caught.value.name == "ValueError" and says in caught.value.message


def test_a_pipeline_without_an_erasure(client: Client, hub: HubServer, token: str, tmp_path: Path) -> None:
    client.save_pipeline(concepts=[], directory=str(tmp_path / "a"))
    assert not (tmp_path / "a" / "README.md").exists() and (tmp_path / "a" / "model_index.json").exists()
    with pytest.raises(ClientError, match="nothing was erased from this pipeline"):
        client.push_pipeline(concepts=[], repo_id="tester/x", token=token)
    assert hub.log == []


def test_the_wrong_weights_are_not_sent(client: Client, hub: HubServer, token: str, tmp_path: Path) -> None:
    """A folder in which a component is the original's again, as a faulty converter leaves it."""
    with pytest.raises(ClientError, match="unet: the saved weight '.*' is not the live model's") as caught:
        client.push_pipeline_with_original_unet(repo_id="tester/x", token=token, directory=str(tmp_path / "a"))
    assert caught.value.name == "UploadRefusedError" and hub.log == []


def test_a_failed_push_keeps_its_folder(client: Client, hub: HubServer, token: str, tmp_path: Path) -> None:
    hub.fail("POST", "repos/create", 403, times=9)
    with pytest.raises(ClientError, match="Push it later with") as caught:
        client.push_pipeline(concepts=["dress"], repo_id="tester/late", token=token, check="weights")
    folder = re.search(r"complete in (\S+)\. Push", caught.value.message).group(1)
    hub.faults.clear()
    client.push(directory=folder, repo_id="tester/late", token=token)
    assert "unet/diffusion_pytorch_model.safetensors" in hub.repositories["tester/late"].files()


def test_the_methods_of_a_pipeline(client: Client, hub: HubServer, token: str, tmp_path: Path) -> None:
    """Also of a class that is its user's own, which nobody else could load by name."""
    client.save_and_push_with_the_mixin(repo_id="tester/mixed", token=token, directory=str(tmp_path / "saved"))
    assert "`dress`" in (tmp_path / "saved" / "README.md").read_text()
    for index in (
        (tmp_path / "saved" / "model_index.json").read_bytes(),
        hub.repositories["tester/mixed"].files()["model_index.json"],
    ):
        assert json.loads(index)["_class_name"] == "StableDiffusionPipeline"
