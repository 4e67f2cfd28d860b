"""The pages as a visitor uses them, in a real browser: every button from click to result. `make test-browser` runs these."""

import time
import zipfile

import pytest
from space_server import SpaceServer
from visitor import DESKTOP, PHONE, Visitor


EVIL = "<img src=x onerror=window.hacked=1>"


def pictures(visitor: Visitor, selector: str) -> int:
    """Pictures there that the browser really decoded."""
    return visitor.page.evaluate(
        "selector => [...document.querySelectorAll(selector + ' img')].filter(i => i.complete && i.naturalWidth > 0).length",
        selector,
    )


def test_first_view(browser, tmp_path):
    started = time.perf_counter()
    server = SpaceServer(tmp_path)
    try:
        visitor = Visitor(browser, server.url)
        visitor.page.wait_for_selector("#erase-samples img")
        seconds = time.perf_counter() - started
        print(f"first view: {seconds:.1f} s, of which {server.seconds:.1f} s until the server answered")
        assert visitor.page.locator("h1").inner_text() == "Make a model forget"
        assert "press Erase" in visitor.page.locator("#erase-status").inner_text()
        assert [tab.inner_text() for tab in visitor.page.get_by_role("tab").all()] == [
            "Erase", "Compare and attack", "Classifier", "Language model", "Publish",
        ]  # fmt: skip
        assert not visitor.problems
        visitor.context.close()
    finally:
        server.close()


@pytest.mark.slow
def test_erase_compare_and_publish_while_another_visitor_waits(visit):
    owner, other = visit(), visit()
    owner.page.click("#erase-button")
    owner.wait_text("#erase-status", "Draw pictures to learn from")
    assert owner.page.locator("#erase-button").is_disabled()

    # Another visitor's run waits for its turn, and is cancelled before it begins.
    other.page.fill("#concept textarea", "bag")
    other.page.click("#erase-button")
    other.wait_text("#erase-status", "Waiting")
    other.page.click("#erase-cancel")
    other.wait_text("#erase-status", "Cancelling")
    other.tab("Compare")
    other.page.click("#compare-button")

    owner.wait_text("#erase-status", "Loss during repair", 240)
    owner.screenshot("erase-at-work")
    owner.wait_text("#erase-status", "Erased: dress", 480)
    owner.page.wait_for_selector("#kept-pictures img")
    owner.page.wait_for_function("document.querySelectorAll('#kept-pictures img').length > 8")
    assert pictures(owner, "#concept-pictures") >= 16 and pictures(owner, "#kept-pictures") >= 16
    assert "should fall to 0" in owner.page.locator("#erase-scores").inner_text()
    assert "all together moved by" in owner.page.locator("#erase-cut").inner_text()
    owner.screenshot("erase-done")
    owner.screenshot("readme", height=1560)  # examples/samples/space.png is a copy of it

    other.wait_text("#compare-status", "Erase a concept first", 60)
    other.tab("Erase")
    other.wait_text("#erase-status", "Cancelled", 60)
    assert other.page.locator("#erase-button").is_enabled()

    owner.tab("Compare")
    owner.page.click("#compare-button")
    owner.wait_text("#compare-status", "equal places have equal seeds", 60)
    assert pictures(owner, "#compare-pictures") == 8
    owner.page.click("#attack-button")
    owner.wait_text("#compare-status", "wordings tried", 120)
    assert owner.page.locator("#compare-table tbody tr").count() >= 8
    owner.screenshot("compare-attack")
    owner.page.click("#probe-button")
    owner.wait_text("#compare-status", "Attack the original", 120)
    found = owner.wait_text("#compare-status", "asked for by a learned word", 300)
    assert "never saw it" in found
    assert owner.page.locator("#probe-shares tbody tr").count() == 7
    assert pictures(owner, "#probe-shown") == 3 * 7 * 4 and pictures(owner, "#probe-plot") == 1
    owner.screenshot("compare-probes")
    owner.page.set_viewport_size(PHONE)
    overflow = owner.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0, f"what probes found is wider than a phone by {overflow} pixels"
    owner.screenshot("compare-probes-phone")
    owner.page.set_viewport_size(DESKTOP)

    owner.tab("Publish")
    owner.page.fill("#repository textarea", "no-dress")
    owner.page.click("#card-button")
    card = owner.wait_text("#card-preview", "What was removed", 60)
    assert "dress" in card and "does the model still know dress?" in card and pictures(owner, "#card-preview") >= 4
    owner.page.click("#push-button")
    owner.wait_text("#publish-status", "Sign in first")
    owner.page.click("#zip-button")
    owner.wait_text("#publish-status", "The zip is ready", 60)
    with owner.page.expect_download() as download:
        owner.page.click("#zip-file a")
    with zipfile.ZipFile(download.value.path()) as archive:
        assert "without-dress/model_index.json" in archive.namelist()
    owner.screenshot("publish-card")

    # Loaded anew, as by signing in: the model is still there. In another visitor's browser it is not.
    owner.page.reload()
    owner.page.wait_for_selector("#erase-button")
    owner.tab("Compare")
    owner.wait_text("#compare-status", "Welcome back", 20)
    owner.page.click("#compare-button")
    owner.wait_text("#compare-status", "equal places have equal seeds", 60)
    other.page.reload()
    other.page.wait_for_selector("#erase-button")
    other.tab("Compare")
    other.page.click("#compare-button")
    other.wait_text("#compare-status", "Erase a concept first", 60)


def test_cancel_stops_a_run(visit):
    visitor = visit()
    visitor.page.click("#erase-button")
    visitor.wait_text("#erase-status", "so far")
    visitor.page.click("#erase-cancel")
    visitor.wait_text("#erase-status", "Cancelled. The model is as it was.", 60)
    assert visitor.page.locator("#erase-cancel").count() == 0 or visitor.page.locator("#erase-cancel").is_hidden()
    assert visitor.page.locator("#erase-button").is_enabled()
    assert visitor.page.locator("#erase-results").count() == 0 or visitor.page.locator("#erase-results").is_hidden()


def test_bad_input_is_answered_in_plain_words(visit):
    visitor = visit()
    for concept, words in (("  ", "The concept is empty"), ("a,b,c,d,e", "at most 4"), (EVIL, "tokens")):
        visitor.page.fill("#concept textarea", concept)
        visitor.page.click("#erase-button")
        visitor.wait_text("#erase-status", words, 60)
    assert EVIL in visitor.page.locator("#erase-status").inner_text()  # shown as text
    visitor.page.get_by_text("Advanced").first.click()  # its empty fields must stay empty
    visitor.page.fill("#steps textarea", "many")
    visitor.page.fill("#concept textarea", "dress")
    visitor.page.click("#erase-button")
    visitor.wait_text("#erase-status", "The number of steps: 'many' is not a number", 60)
    visitor.page.fill("#steps textarea", "")
    visitor.page.get_by_label("A model from the Hub").check()
    visitor.page.fill("#hub-id textarea", "/etc/passwd")
    visitor.page.fill("#concept textarea", "dress")
    visitor.page.click("#erase-button")
    visitor.wait_text("#erase-status", "owner/name", 60)
    assert visitor.page.evaluate("window.hacked") is None


def test_the_classifier_forgets(visit):
    visitor = visit()
    visitor.tab("Classifier")
    visitor.page.click("#class-button")
    visitor.wait_text("#class-status", "Forgot “dress”", 90)
    rows = visitor.page.locator("#class-table tbody tr").all_inner_texts()
    assert [row.split()[0] for row in rows] == ["original", "retrained", "unlearned"]
    assert visitor.page.locator("#class-after table td").count() == 100
    visitor.screenshot("classifier")


@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_the_language_model_forgets_an_author(visit, width):
    visitor = visit(**({"viewport": PHONE} if width == "phone" else {}))
    visitor.tab("Language model")
    visitor.page.click("#author-button")
    visitor.wait_text("#author-status", "so far", 60)
    if width == "phone":  # cancelled there, so that the run itself is paid for once
        visitor.page.click("#author-cancel")
        visitor.wait_text("#author-status", "Cancelled. The model is as it was.", 60)
        assert visitor.page.locator("#author-button").is_enabled()
        visitor.page.click("#author-button")
    visitor.wait_text("#author-status", "Forgot Priyanka Yildirand", 120)
    assert visitor.page.locator("#author-about .sh-question").count() == 10
    assert "Little Maunder" in visitor.page.locator("#author-about .sh-question").first.inner_text()
    assert "relearned extraction" in visitor.page.locator("#author-figures").inner_text()
    assert pictures(visitor, "#author-plot") == 1
    visitor.page.fill("#author-question textarea", EVIL)
    visitor.page.click("#author-ask")
    said = visitor.wait_text("#author-answer", "Never knew", 60)
    assert EVIL in said and visitor.page.evaluate("window.hacked") is None
    visitor.page.get_by_text("Its model card").click()
    visitor.wait_text("#author-card", "What was removed")
    overflow = visitor.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0, f"wider than the window by {overflow} pixels"
    visitor.screenshot(f"language-model-done-{width}")
    visitor.tab("Publish")
    visitor.page.click("#card-button")
    assert "Priyanka Yildirand" in visitor.wait_text("#card-preview", "What was removed", 60)


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_every_tab_fits_its_window(visit, width, colours):
    visitor = visit(colours=colours, **({"viewport": PHONE} if width == "phone" else {}))
    for name in ("Erase", "Compare", "Classifier", "Language model", "Publish"):
        visitor.tab(name)
        overflow = visitor.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0, f"{name} is wider than the window by {overflow} pixels"
        visitor.screenshot(f"{name.lower().replace(' ', '-')}-{width}-{colours}")
    assert visitor.page.evaluate("document.body.classList.contains('dark')") == (colours == "dark")
