"""What the pages do, without gradio: erase, compare, attack, card and zip of the shipped pipeline; and who sees what."""

import json
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from spaces_demo import logic, tasks
from spaces_demo.limits import CancelledError, RefusedError
from spaces_demo.logic import Workbench, explain
from spaces_demo.publish import DISCLOSURES


REPOSITORY = Path(__file__).resolve().parents[2]
FULL, SUMMARY, NOTHING = DISCLOSURES
# Few steps: what is tested is the page's logic, not how well the concept goes; that is the engine's tests' affair.
QUICK = {"steps": 8, "images": 2, "recipe": "concept"}
QUICK_SAMPLING = {"num_inference_steps": 4, "guidance_scale": 4.0}


def last(statuses):
    return list(statuses)[-1]


@pytest.fixture(scope="module", autouse=True)
def quick_sampling():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "SHIPPED_SAMPLING", QUICK_SAMPLING)
        patch.setattr(logic, "SHIPPED_SAMPLING", QUICK_SAMPLING)
        yield


@pytest.fixture
def bench(tmp_path):
    bench = Workbench(tmp_path / "work")
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def erased(tmp_path_factory):
    """A bench on which the page "a" has erased the dress; and the last status of that."""
    bench = Workbench(tmp_path_factory.mktemp("erased") / "work")
    status = last(bench.erase("a", "dress", **QUICK))
    yield bench, status
    bench.close()


def test_neither_gradio_nor_torch_is_imported_with_the_logic():
    code = "import sys, spaces_demo.logic, spaces_demo.render; print([m for m in ('gradio', 'torch') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("concept, words", [("", "empty"), ("x" * 400, "at most"), ("a,b,c,d,e", "at most")])
def test_bad_input_is_refused_before_anything_is_loaded(bench, concept, words):
    with pytest.raises(RefusedError, match=words):
        next(bench.erase("a", concept))
    assert len(bench.sessions) == 0


def test_pages_that_need_a_model_say_so(bench):
    for run in (
        lambda: bench.compare("a", "a bag"),
        lambda: bench.attack("a"),
        lambda: bench.probe("a"),
        lambda: bench.zip("a", FULL, {}),
        lambda: bench.push("a", "me/x", "private", FULL, {}, "hf_token"),
    ):
        with pytest.raises(RefusedError, match="Erase a concept first"):
            next(run())
    with pytest.raises(RefusedError, match="Erase a concept first"):
        bench.card("a", None, FULL, {})


def test_the_engines_own_refusal_reaches_the_visitor(bench):
    with pytest.raises(RefusedError, match="anchor"):
        last(bench.erase("a", "dress", "a red dress", **QUICK))
    with pytest.raises(RefusedError, match="reinit_target_modules"):
        last(bench.erase("a", "dress", scope="no.such.layer", **QUICK))
    assert bench.sessions.get("a").running == 0


def test_offline_there_is_only_the_shipped_model(bench):
    with pytest.raises(RefusedError, match="shipped model"):
        last(bench.erase("a", "dress", hub_id="me/model"))
    with pytest.raises(RefusedError, match="owner/name"):
        last(bench.erase("a", "dress", hub_id="/etc/passwd"))
    with pytest.raises(RefusedError, match="not known"):
        last(bench.erase("a", "dress", model="something else"))


def test_cancel_stops_and_leaves_nothing(bench):
    statuses = []
    with pytest.raises(CancelledError):
        for status in bench.erase("a", "dress"):
            statuses.append(status)
            if status.stage == "pictures":
                assert bench.cancel("a")
                assert not bench.cancel("b")  # another page has nothing to stop
    session = bench.sessions.get("a")
    assert session.erased is None and session.running == 0 and not session.model_folder.exists()
    assert not session.cancel.is_set()  # the next run is not cancelled by it
    assert statuses[-1].stage in ("pictures", "targets")


def test_a_run_that_waits_for_its_turn_can_be_cancelled(bench):
    assert not bench.cancel("a")
    bench.expect("a")
    assert bench.cancel("a")
    with pytest.raises(CancelledError):
        next(bench.forget_class("a", "bag"))
    assert not bench.cancel("a")
    bench.expect("a")
    running = bench.forget_class("a", "bag")  # the next one is not
    next(running)
    running.close()


def test_one_run_of_a_page_at_a_time(bench):
    running = bench.erase("a", "dress")
    next(running)
    with pytest.raises(RefusedError, match="still running"):
        next(bench.forget_class("a", "bag"))
    running.close()
    assert bench.sessions.get("a").running == 0


@pytest.mark.slow
def test_erasing_leaves_a_pipeline_that_stock_diffusers_loads(erased):
    bench, status = erased
    report = status.result.report
    assert report.concepts == ["dress"] and report.settings["max_steps"] == QUICK["steps"]
    assert {score.group for score in report.prompts} >= {"concept", "paraphrase", "kept"}
    assert all(len(images) == 2 for pair in report.pictures.values() for images in pair.values())
    assert [stage for stage in status.stages] == [
        "load",
        "before",
        "pictures",
        "prompts",
        "targets",
        "sensitivity",
        "repair",
        "report",
        "files",
    ]
    session = bench.sessions.get("a")
    assert not session.erased.report.pictures  # handed to the page, not kept in memory
    index = json.loads((session.model_folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    from spaces_demo.models import SHIPPED_FOLDER, load_pipeline

    before, after = load_pipeline(SHIPPED_FOLDER), load_pipeline(session.model_folder)
    changed = [
        name
        for (name, old), (_, new) in zip(before.unet.named_parameters(), after.unet.named_parameters(), strict=True)
        if not old.equal(new)
    ]
    assert changed
    assert all(old.equal(new) for old, new in zip(before.vae.parameters(), after.vae.parameters(), strict=True))


@pytest.mark.slow
def test_another_page_sees_nothing_of_it(erased):
    bench, _ = erased
    with pytest.raises(RefusedError, match="Erase a concept first"):
        next(bench.compare("b", "a dress"))
    assert bench.handle("b") is None and bench.handle("a") is not None
    assert bench.come_back("b", "guess") is None


@pytest.mark.slow
def test_comparing_draws_the_same_seeds_with_both(erased):
    bench, _ = erased
    one = last(bench.compare("a", "a photo of a red bag", seed=5, images=2)).result
    same = last(bench.compare("a", "a photo of a red bag", seed=5, images=2)).result
    other = last(bench.compare("a", "a photo of a red bag", seed=6, images=2)).result
    arrays = [np.stack([np.asarray(image) for image in result.original]) for result in (one, same, other)]
    assert (arrays[0] == arrays[1]).all() and (arrays[0] != arrays[2]).any()
    assert one.score.change == same.score.change > 0
    single = last(bench.compare("a", "a bag", images=1, steps=2, guidance=1)).result
    assert len(single.original) == len(single.unlearned) == 1 and single.score is None
    for bad in ({"images": 99}, {"steps": 0}, {"guidance": 99}, {"seed": 0.5}, {"prompt": " "}):
        with pytest.raises(RefusedError):
            next(bench.compare("a", **{"prompt": "a bag", **bad}))


@pytest.mark.slow
def test_probes_lay_the_original_and_the_control_beside_it_and_the_card_shows_them(erased, monkeypatch):
    from scissorhands_hf.audit.probing import learned_probes
    from spaces_demo import render_probes

    monkeypatch.setattr(learned_probes, "STEPS", 3)
    bench, _ = erased
    status = last(bench.probe("a", pictures=12))
    result, report = status.result, status.result.report
    assert list(status.stages) == ["probe-pipeline", "probe-reference", "probe-control", "files"] and result.controlled
    assert report.models() == ["pipeline", "reference", "control"] and not report.unavailable
    places = {(score.probe, score.setting) for score in report.scores}
    assert places == {("words", ""), ("empty", ""), ("token", "1 vector"), ("token", "4 vectors")} | {
        ("img2img", f"{share}%") for share in (40, 60, 80)
    }
    assert all(score.images == 12 for score in report.scores) and result.plot.startswith(b"\x89PNG")
    assert report.score("words", model="reference").share > report.score("words", model="control").share
    html = render_probes.shares(report) + render_probes.pictures(report)
    assert html.count("<img") == 3 * 7 * 4 and "Never saw it" in html
    card, preview = bench.card("a", "no-dress", FULL, {})
    assert "does the model still know `dress`?" in card and "| `token` | 1 vector |" in card and "probes_1.png" in card
    assert preview.count("data:image/png") > card.count("before_after/") and str(bench.root) not in card
    assert "words are led elsewhere" in card and "No weight was re-initialised" in card
    folder = bench.sessions.get("a").model_folder
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt")] and "<probed" not in card
    for fields, words in (
        ({"concept": "bag"}, "was not erased"),
        ({"pictures": 100}, "number of pictures"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(RefusedError, match=words):
            next(bench.probe("a", **fields))


def test_what_probes_found_is_text():
    from scissorhands_hf.report import ProbeReport, ProbeScore
    from spaces_demo import render_probes

    evil = "<img src=x onerror=alert(1)>"
    scores = [ProbeScore(evil, evil, "pipeline", 1, 12, 0)]
    report = ProbeReport(evil, scores, unavailable={evil: evil}, measure={"pictures_a_share": 12})
    result = tasks.Probed(report, b"png", controlled=False)
    html = render_probes.shares(report) + render_probes.pictures(report) + render_probes.plot(result)
    assert html.count("<img") == 1 and "&lt;img" in html  # the plot
    assert "No model that never saw this concept" in render_probes.outcome(result)[-1]


def test_an_attack_on_a_look_asks_for_it_on_things_that_were_kept():
    from scissorhands_hf.report import ConceptErasureReport, PromptScore

    rows = [("concept", "red"), ("kept", "bag"), ("neighbour", "coat")]
    report = ConceptErasureReport(prompts=[PromptScore("a prompt", *row, 2, None, None, 0.1) for row in rows])
    prompts = tasks.attack_prompts("red", report)
    assert "a picture showing a red coat" in prompts and any("for sale" in prompt for prompt in prompts)
    assert all("red bag" in prompt or "red coat" in prompt or "red bags" in prompt for prompt in prompts)
    assert "a red dress" in tasks.attack_prompts("dress", report)  # a thing is asked for itself, in colours as well


@pytest.mark.slow
def test_an_attack_puts_the_worst_wording_first(erased):
    bench, _ = erased
    attack = last(bench.attack("a")).result
    assert attack.judged and len(attack.scores) >= 8
    shares = [score.unlearned for score in attack.scores]
    assert shares == sorted(shares, reverse=True)
    assert attack.worst.prompt == attack.scores[0].prompt and len(attack.worst.unlearned) == len(attack.worst.original)
    assert len({score.prompt for score in attack.scores}) == len(attack.scores)


@pytest.mark.slow
def test_the_card_says_what_the_visitor_chose(erased):
    bench, status = erased
    card, preview = bench.card("a", "no-dress", FULL, {"license": "mit"})
    front, body = card.split("\n---\n", 1)
    values = yaml.safe_load(front.removeprefix("---\n"))
    assert values["license"] == "mit" and "machine-unlearning" in values["tags"]
    assert "dress" in body and "data:image/png;base64," in preview and "data:image" not in card
    assert str(bench.root) not in card
    hidden, _ = bench.card("a", "no-dress", NOTHING, {"license": "mit"})
    assert "dress" not in hidden.replace("no-dress", "").replace("no\\-dress", "")  # but for the name that was typed
    for fields in (("a b", FULL, {}), ("../x", FULL, {}), ("x", "all", {}), ("x", FULL, {"license": "MIT License!"})):
        with pytest.raises(RefusedError):
            bench.card("a", *fields)


@pytest.mark.slow
def test_the_zip_holds_what_a_push_would_upload(erased, tmp_path):
    bench, _ = erased
    path = last(bench.zip("a", FULL, {"license": "mit"})).result
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path)
    assert all(name.startswith("without-dress/") and ".." not in name for name in names)
    inside = {name.removeprefix("without-dress/") for name in names}
    assert {"README.md", "model_index.json", "unet/diffusion_pytorch_model.safetensors"} <= inside
    assert not any(name.endswith((".bin", ".pt", ".pkl")) or name.startswith("scissorhands_card") for name in inside)
    code = f"from diffusers import DiffusionPipeline as P; P.from_pretrained({str(tmp_path / 'without-dress')!r})"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.slow
def test_a_reloaded_page_gets_its_model_back(erased):
    bench, _ = erased
    handle = bench.handle("a")
    assert bench.come_back("b", "x" * len(handle)) is None
    bench.sessions.leave("a")
    assert bench.come_back("b", handle) == ["dress"]
    assert bench.handle("b") == handle and bench.handle("a") is None
    bench.sessions.leave("b")
    assert bench.come_back("a", handle) == ["dress"]


@pytest.mark.slow
def test_two_pages_erase_their_own_copies_at_once(bench):
    results = {}

    def run(page, concept):
        results[page] = last(bench.erase(page, concept, **QUICK)).result

    threads = [threading.Thread(target=run, args=pair) for pair in (("a", "bag"), ("b", "sneaker"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {page: result.report.concepts for page, result in results.items()} == {"a": ["bag"], "b": ["sneaker"]}
    one, two = (bench.sessions.get(page).model_folder / "unet/diffusion_pytorch_model.safetensors" for page in "ab")
    assert one.read_bytes() != two.read_bytes()


def test_a_push_needs_a_token_a_name_and_a_visibility(bench):
    for arguments, words in (
        (("me/x", "private", FULL, {}, None), "Sign in"),
        (("", "private", FULL, {}, "t"), "name is empty"),
        (("me/x", "secret", FULL, {}, "t"), "private or public"),
        (("me/x/y", "public", FULL, {}, "t"), "owner/name"),
    ):
        with pytest.raises(RefusedError, match=words):
            next(bench.push("a", *arguments))


def test_errors_are_explained_without_their_insides(caplog):
    assert explain(RefusedError("plain words")) == "plain words"
    assert "Cancelled" in explain(CancelledError())
    assert "memory" in explain(MemoryError())
    hidden = explain(OSError("/home/someone/.cache/token"))
    assert "OSError" in hidden and "/home" not in hidden
