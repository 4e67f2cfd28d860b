"""Models from the Hub, looked at on a loopback server before anything is downloaded: what is refused, and in which words."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from spaces_demo.models import SHIPPED_FOLDER, PipelineCache, load_pipeline


REPOSITORY = Path(__file__).resolve().parents[2]
INDEX = json.dumps({"_class_name": "StableDiffusionPipeline"})
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
MODELS = {
    "me/large": {"model_index.json": 10, WEIGHTS: 40 * 10**9},
    "me/pickled": {"model_index.json": 10, "unet/diffusion_pytorch_model.bin": 10},
    "me/language": {"config.json": 10, "model.safetensors": 10},
    "me/gated": {"model_index.json": 10, WEIGHTS: 10},
    "me/leads-out": {"model_index.json": 10, "../x/y.json": 10, WEIGHTS: 10},
    # 40 GB of half-precision copies and a checkpoint in one file, which are not downloaded
    "me/fits": {"model_index.json": 10, WEIGHTS: 10, "unet/model.fp16.safetensors": 40 * 10**9, "all.safetensors": 40 * 10**9},
}


class Hub(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        name = self.path.partition("?")[0].removeprefix("/api/models/")
        if name in MODELS:
            siblings = [{"rfilename": file, "size": size} for file, size in MODELS[name].items()]
            gated = "manual" if name == "me/gated" else False
            return self.answer(200, {"id": name, "sha": "0" * 40, "gated": gated, "siblings": siblings})
        if name == "me/broken":
            return self.answer(500, {"error": "inside"})
        if name == "me/asks":
            return self.answer(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        return self.answer(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})

    def answer(self, status, value, headers=None):
        body = json.dumps(value).encode()
        self.send_response(status)
        for key, text in (headers or {}).items():
            self.send_header(key, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def answers():
    """By model: the words in which it was refused, or the files that would be downloaded. And what the server saw."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names = [*MODELS, "me/unknown", "me/broken", "me/asks"]
    code = (
        "import json, sys\n"
        "from spaces_demo.models import _look_at\n"
        "from spaces_demo.limits import RefusedError\n"
        "def ask(name, endpoint):\n"
        "    try:\n"
        "        return _look_at(name, endpoint)[0]\n"
        "    except RefusedError as error:\n"
        "        return str(error)\n"
        f"answers = {{name: ask(name, {f'http://127.0.0.1:{server.server_port}'!r}) for name in {names!r}}}\n"
        "answers['unreachable'] = ask('me/fits', 'http://127.0.0.1:9')\n"
        "print(json.dumps(answers))\n"
    )
    # In a process of its own: the library reads HF_HUB_OFFLINE at import. A token of the machine must not be sent.
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_of_the_owner"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    server.shutdown()
    return json.loads(run.stdout.splitlines()[-1]), server.seen


@pytest.mark.parametrize(
    "name, words",
    [
        ("me/unknown", "no public model"),
        ("me/gated", "gated"),
        ("me/asks", "gated"),
        ("me/large", "too large for this machine: 40.0 GB"),
        ("me/pickled", "safetensors"),
        ("me/language", "not a diffusers pipeline"),
        ("me/leads-out", "lead out"),
        ("me/broken", "error (500)"),
        ("unreachable", "could not be reached"),
    ],
)
def test_what_is_refused(answers, name, words):
    assert words in answers[0][name]


def test_what_would_be_downloaded(answers):
    assert answers[0]["me/fits"] == ["model_index.json", WEIGHTS]


def test_the_owners_token_is_not_sent(answers):
    assert answers[1] and all(token is None for _, token in answers[1])


def test_a_fresh_pipeline_each_time_and_a_small_cache_to_draw_with():
    one, two = load_pipeline(SHIPPED_FOLDER), load_pipeline(SHIPPED_FOLDER)
    assert one.unet is not two.unet and next(one.unet.parameters()).data_ptr() != next(two.unet.parameters()).data_ptr()
    cache = PipelineCache(most=1)
    kept = cache.get(SHIPPED_FOLDER)
    assert cache.get(SHIPPED_FOLDER) is kept
    cache.get(SHIPPED_FOLDER.with_name("fashion_pipeline_without_dress"))
    assert cache.get(SHIPPED_FOLDER) is not kept
