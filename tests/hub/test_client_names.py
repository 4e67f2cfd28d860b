"""Names of other libraries that are not documented and that cards and pushes still use; a version without one fails here.

Checked with huggingface_hub 2.4, transformers 5.23 and diffusers 0.42. Why each is used stands at its place.
"""

import inspect
from pathlib import Path

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.utils import httpx
from transformers.modelcard import TASK_MAPPING


def test_of_transformers() -> None:
    assert "ViTForImageClassification" in TASK_MAPPING["image-classification"].values()  # hub/run.py


def test_of_diffusers() -> None:
    from diffusers import DiffusionPipeline

    folder = Path(__file__).parents[2] / "spaces_demo" / "fashion_pipeline"
    pipe = DiffusionPipeline.from_pretrained(folder)
    assert Path(pipe.unet.config["_name_or_path"]) == folder / "unet"  # hub/push.py
    assert pipe.name_or_path == folder and not hasattr(pipe.unet, "name_or_path")


def test_of_the_hubs_client() -> None:
    """`connection.within` goes when this call takes a time limit."""
    assert not {"timeout", "etag_timeout"} & inspect.signature(HfApi.whoami).parameters.keys()  # hub/connection.py
    assert httpx.TransportError is httpx2.TransportError  # hub/connection.py, hub/readme.py
