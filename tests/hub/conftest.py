"""A loopback Hub, and a second process in which the real client talks to it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import WRITE_TOKEN, HubServer


HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]


class ClientError(Exception):
    """What the function in the other process raised. ``name`` is its class, ``kind`` that of a HubPushError."""

    def __init__(self, answer: dict[str, Any]):
        super().__init__(f"{answer['error']}: {answer['message']}\n{answer['trace']}")
        self.name, self.kind, self.message = answer["error"], answer["kind"], answer["message"]


class Client:
    """``client.name(**arguments)`` runs the function of that name in `scenarios` in the other process."""

    def __init__(self, environment: dict[str, str]):
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __getattr__(self, name: str) -> Any:
        def call(**arguments: Any) -> Any:
            self.process.stdin.write(json.dumps([name, arguments], default=str) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
            assert line, "the client process ended"
            answer = json.loads(line)
            if "error" in answer:
                raise ClientError(answer)
            return answer["value"]

        return call

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)


@pytest.fixture(scope="session")
def hub_for_all() -> Iterator[HubServer]:
    server = HubServer()
    yield server
    server.close()


@pytest.fixture
def hub(hub_for_all: HubServer) -> HubServer:
    hub_for_all.reset()
    return hub_for_all


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home folder of the client, by a name that must not get out."""
    folder = tmp_path_factory.mktemp("homes") / "winifred-quillfeather"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def environment(hub_for_all: HubServer, home: Path) -> dict[str, str]:
    """Of processes that talk to the loopback Hub."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return {
        **kept,
        "HF_ENDPOINT": hub_for_all.endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HOME": str(home),
        "LOGNAME": "winifred-quillfeather",
        "OMP_NUM_THREADS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
    }


@pytest.fixture(scope="session")
def client(environment: dict[str, str]) -> Iterator[Client]:
    process = Client(environment)
    yield process
    process.close()


@pytest.fixture(scope="session")
def finished_run(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """output_dir of a classifier that forgot some examples, with figures of before and after; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    client.train(output_dir=str(folder))
    return folder


@pytest.fixture
def run_folder(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def token() -> str:
    return WRITE_TOKEN
