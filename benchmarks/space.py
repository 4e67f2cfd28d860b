"""How soon the Space shows its first page, and how much longer an erase takes in it than erase_concept itself.

    python benchmarks/space.py --pairs 3

First view: from the start of the server to the examples' pictures in a headless Chromium. Erase: the shipped pipeline, "dress",
all defaults, one thread: once through the Space's /erase endpoint, once by `erase_concept` with the same arguments in this
process, in turns, after a short run of each to load what is loaded once.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from gradio_client import Client
from playwright.sync_api import sync_playwright


REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from space_server import SpaceServer  # noqa: E402

from scissorhands_hf import erase_concept  # noqa: E402
from spaces_demo.judge import FashionJudge  # noqa: E402
from spaces_demo.models import SHIPPED_NAME, load_pipeline  # noqa: E402
from spaces_demo.tasks import SHIPPED_SAMPLING  # noqa: E402


def first_view(repetitions: int) -> list[float]:
    seconds = []
    with sync_playwright() as playwright:
        executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if executable is None:
            raise SystemExit("no Chromium on this machine: make browser installs it")
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(repetitions):
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                server = SpaceServer(Path(folder))
                page = browser.new_page()
                page.goto(server.url)
                page.wait_for_selector("#erase-samples img")
                seconds.append(time.perf_counter() - started)
                page.close()
                server.close()
        browser.close()
    return seconds


def through_the_space(client: Client, steps: str = "") -> float:
    started = time.perf_counter()
    client.predict(
        model=SHIPPED_NAME, hub_id="", concept="dress", anchor="", keep="", recipe="default", trim_ratio="", forget_weight="",
        steps=steps, scope="", projection="default", images=4, seed=0, api_name="/erase",
    )  # fmt: skip
    return time.perf_counter() - started


def directly(judge: FashionJudge, **settings: int) -> float:
    started = time.perf_counter()
    erase_concept(
        load_pipeline(REPOSITORY / "spaces_demo" / "fashion_pipeline"), "dress", judge=judge, report_images=4,
        sampling=SHIPPED_SAMPLING, generator=torch.Generator().manual_seed(0), disable_tqdm=True, **settings,
    )  # fmt: skip
    return time.perf_counter() - started


def spread(values: list[float], unit: str) -> str:
    return f"median {statistics.median(values):.2f}{unit} ({min(values):.2f} - {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"first view: {spread(first_view(options.pairs), ' s')}", flush=True)
    judge = FashionJudge()
    with tempfile.TemporaryDirectory() as folder:
        server = SpaceServer(Path(folder))
        try:
            client = Client(server.url, verbose=False, download_files=folder)
            through_the_space(client, steps="4")
            directly(judge, max_steps=4)
            pairs = [(through_the_space(client), directly(judge)) for _ in range(options.pairs)]
        finally:
            server.close()
    print(f"erase_concept: {spread([own for _, own in pairs], ' s')}")
    print(f"through the Space: {spread([space for space, _ in pairs], ' s')}")
    print(f"ratio: {spread([space / own for space, own in pairs], '')}")


if __name__ == "__main__":
    main()
