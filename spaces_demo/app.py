"""The pages of the Space: layout and events. What they do is in logic.py; how pieces of them look, in render.py.

make space                       # or: python spaces_demo/app.py
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


HERE = Path(__file__).resolve().parent
if "spaces_demo" not in sys.modules and not __package__:
    # On a Space this folder has another name and stands alone; in the repository the package lies beside it, and is used.
    package = types.ModuleType("spaces_demo")
    package.__path__ = [str(HERE)]
    sys.modules["spaces_demo"] = package
    if (HERE.parent / "scissorhands_hf").is_dir():
        sys.path.insert(0, str(HERE.parent))

import spaces_demo.gpu  # noqa: E402, F401, I001  (before gradio and torch, as ZeroGPU asks)

import gradio as gr  # noqa: E402

from spaces_demo import limits, render  # noqa: E402
from spaces_demo.logic import Workbench, explain  # noqa: E402
from spaces_demo.models import SHIPPED_FOLDER, SHIPPED_NAME, class_names  # noqa: E402
from spaces_demo.publish import DISCLOSURES  # noqa: E402
from spaces_demo.tasks import import_libraries, recipe_names  # noqa: E402


DEFAULT = "default"
FROM_HUB = "A model from the Hub"
WORK = {"concurrency_limit": 1, "concurrency_id": "work", "show_progress": "minimal"}  # one worker: see jobs.py
UPLOAD = {"concurrency_limit": 2, "concurrency_id": "upload", "show_progress": "minimal"}
HIDDEN = {"api_visibility": "private", "show_progress": "hidden"}
MOST_WAITING = 32
ON_SPACE = "SPACE_ID" in os.environ
THEME = gr.themes.Soft(
    primary_hue="teal",
    neutral_hue="slate",
    # The visitor's own fonts: none is fetched from elsewhere.
    font=["ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    # White on the theme's own teal is too pale to read.
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_600",
    checkbox_label_background_fill_selected="*primary_700",
    checkbox_label_background_fill_selected_dark="*primary_700",
    checkbox_background_color_selected="*primary_900",
    block_label_text_color="*primary_800",
    block_title_text_color="*primary_800",
    block_title_text_color_dark="*primary_200",
)
Updates = dict[Any, Any]

bench = Workbench()


# ---- Events ----


def page_of(request: gr.Request) -> str:
    """The key of the visitor's session."""
    return request.session_hash or "no-page"


def follow(run: Callable[[], Iterator[Any]], status_area: Any, done: Callable[[Any], Updates]) -> Iterator[Updates]:
    """Show how far a run is, then its result, or in plain words why there is none."""
    try:
        for status in run():
            yield done(status) if status.finished else {status_area: render.progress(status) + render.losses(status.losses)}
    except Exception as error:  # every failure ends in a message on the page; explain() logs those that are not the visitor's
        yield {status_area: failure(error)}


def on_wait(request: gr.Request) -> tuple[str, Any, Any]:
    """At once after a click, while the run waits for its turn: it can be cancelled from now on, and not be started twice."""
    bench.expect(page_of(request))
    return render.note("Waiting for the worker …"), gr.update(visible=True), gr.update(interactive=False)


def on_end() -> tuple[Any, Any]:
    """However the run ended."""
    return gr.update(visible=False), gr.update(interactive=True)


def failure(error: BaseException) -> str:
    return render.note(explain(error), "warning" if isinstance(error, limits.CancelledError) else "error")


def on_erase(
    model: str, hub_id: str, concept: str, anchor: str, keep: str, recipe: str, trim_ratio: str, forget_weight: str,
    steps: str, scope: str, projection: str, images: float, seed: float, request: gr.Request,
) -> Iterator[Updates]:  # fmt: skip
    """Erase concepts from your own copy of a model, and show what that did."""

    def done(status: Any) -> Updates:
        report = status.result.report
        groups = {score.prompt: score.group for score in report.prompts}
        rows = {kind: [] for kind in ("concept", "paraphrase", "neighbour", "kept")}
        for text, pair in report.pictures.items():
            rows[groups[text]].append((text, pair["original"], pair["unlearned"]))
        files = [(image, f"{text} ({name})") for text, pair in report.pictures.items() for name in pair for image in pair[name]]
        return {
            erase_status: render.progress(status) + render.verdict(report) + render.losses(status.losses),
            erase_samples: gr.update(visible=False),
            erase_results: gr.update(visible=True),
            concept_pictures: render.pictures(rows["concept"] + rows["paraphrase"]),
            kept_pictures: render.pictures(rows["kept"] + rows["neighbour"]),
            erase_scores: render.scores(report.prompts),
            erase_cut: render.changes_per_layer(report),
            erase_settings: render.settings_table(report.settings, report.seconds, report.measure),
            erase_report: report.to_dict(),
            erase_files: files,
        }

    yield from follow(
        lambda: bench.erase(
            page_of(request), concept, anchor, keep,
            model=None if model == FROM_HUB else model, hub_id=hub_id if model == FROM_HUB else None,
            recipe=None if recipe in (None, "", DEFAULT) else recipe, trim_ratio=trim_ratio, forget_weight=forget_weight,
            steps=steps, scope=scope, projection={"on": True, "off": False}.get(projection), images=images, seed=seed,
        ),
        erase_status, done,
    )  # fmt: skip


def on_cancel(request: gr.Request) -> str:
    """Stop what you started; the model stays as it was."""
    stopped = bench.cancel(page_of(request))
    return render.note("Cancelling: it stops at the next step." if stopped else "Nothing of yours is running.", "warning")


def on_compare(prompt: str, seed: float, images: float, steps: str, guidance: str, request: gr.Request) -> Iterator[Updates]:
    """Draw a prompt with the original and with your unlearned model, at the same seeds."""

    def done(status: Any) -> Updates:
        result = status.result
        moved = f" They moved by {result.score.change:.2f} (0: the same pictures, about 1: others)." if result.score else ""
        return {
            compare_status: render.note(f"“{result.prompt}” by both models; equal places have equal seeds.{moved}", "done"),
            **both(result),
            compare_table: "",
        }

    yield from follow(lambda: bench.compare(page_of(request), prompt, seed, images, steps, guidance), compare_status, done)


def both(result: Any) -> Updates:
    """The pictures of a comparison, for the page and as files."""
    names = ("Original", "Unlearned")
    files = [(image, name) for name, images in zip(names, (result.original, result.unlearned), strict=True) for image in images]
    return {
        compare_pictures: render.pictures([(result.prompt, result.original, result.unlearned)], names),
        compare_files: files,
    }


def on_attack(seed: float, request: gr.Request) -> Iterator[Updates]:
    """Try to get the concept back with other words, and show the wording that does it best."""

    def done(status: Any) -> Updates:
        attack, score = status.result, status.result.worst.score
        if attack.judged:
            text = f"shows the concept in {score.unlearned:.0f} % of the pictures ({score.original:.0f} % before)."
        else:
            text = f"moved its pictures least, by {score.change:.2f} (0: the same, about 1: others)."
        return {
            compare_status: render.note(f"{len(attack.scores)} wordings tried. The worst, “{score.prompt}”, {text}", "done"),
            **both(attack.worst),
            compare_table: render.attack_table(attack.scores, attack.judged),
        }

    yield from follow(lambda: bench.attack(page_of(request), seed), compare_status, done)


def on_forget_class(name: str, seed: float, request: gr.Request) -> Iterator[Updates]:
    """Make the image classifier forget a class, and measure it against one that never saw the class."""

    def done(status: Any) -> Updates:
        result, report = status.result, status.result.report
        gaps = report.average_gaps()
        text = (
            f"Forgot “{result.name}” in {render.clock(report.seconds['train'])} of training; retraining without it took "
            f"{render.clock(report.seconds['retrained'])} when that was measured. Average gap to the retrained model: "
            f"{gaps['unlearned']:.1f} points, before {gaps['original']:.1f}."
        )
        return {
            class_status: render.progress(status) + render.note(text, "done", report.notes),
            class_results: gr.update(visible=True),
            class_before: render.confusion(result.confusion["original"], result.classes, "Before", result.name),
            class_after: render.confusion(result.confusion["unlearned"], result.classes, "After", result.name),
            class_table: render.metrics_table(report.metrics, gaps),
            class_cut: render.cut_per_layer(report.trim.get("per_module", {})),
            class_report: report.to_dict(),
        }

    yield from follow(lambda: bench.forget_class(page_of(request), name, seed), class_status, done)


def on_card(repository: str, disclosure: str, license: str, request: gr.Request) -> Updates:
    """The card of your model, as it would be pushed."""
    try:
        text, preview = bench.card(page_of(request), repository, disclosure, {"license": license})
    except Exception as error:  # as in follow()
        return {publish_status: failure(error)}
    message = render.note("This is what would be pushed. Nothing has left this machine.", "done")
    return {publish_status: message, card_text: text, card_preview: render.card_body(preview)}


def on_zip(disclosure: str, license: str, request: gr.Request) -> Iterator[Updates]:
    """Your model's folder with its card, as a zip."""

    def done(status: Any) -> Updates:
        ready = render.note("The zip is ready.", "done")
        return {publish_status: ready, zip_area: gr.update(visible=True), zip_file: str(status.result)}

    yield from follow(lambda: bench.zip(page_of(request), disclosure, {"license": license}), publish_status, done)


def on_push(
    repository: str, visibility: str, disclosure: str, license: str, request: gr.Request, token: gr.OAuthToken | None = None
) -> Iterator[Updates]:
    """Push your model with its card, in your own name."""
    secret = token.token if token is not None else own_token(request)
    yield from follow(
        lambda: bench.push(page_of(request), repository, visibility, disclosure, {"license": license}, secret),
        publish_status,
        lambda status: {publish_status: render.pushed(status.result)},
    )


def own_token(request: gr.Request) -> str | None:
    """On a computer of one's own, what `hf auth login` stored there; on a Space, or for visitors over a network, nothing."""
    if ON_SPACE or request.client is None or request.client.host not in ("127.0.0.1", "::1"):
        return None
    from huggingface_hub import get_token

    return get_token()


def on_load() -> Any:
    """Recipes can be named once the package is imported, which the first view does not wait for."""
    return gr.update(choices=[DEFAULT, *recipe_names()])


def on_return(handle: str | None, request: gr.Request) -> Updates:
    """Signing in loads the page anew: give the visitor the model back that was made before."""
    concepts = bench.come_back(page_of(request), handle)
    if concepts is None:
        return {publish_status: gr.skip()}
    text = f"Welcome back: your model without “{', '.join(concepts)}” is still here."
    return {publish_status: render.note(text, "done"), compare_status: render.note(text, "done")}


def on_made(request: gr.Request) -> str | None:
    """What the browser remembers of the session, for :func:`on_return`."""
    return bench.handle(page_of(request))


def on_leave(request: gr.Request) -> None:
    bench.sessions.leave(page_of(request))


# ---- Layout ----


def optional_number(label: str, info: str, elem_id: str) -> gr.Textbox:
    """A number that may be left out. Not a `gr.Number`: an empty one says 0 once the browser has shown it (gradio 6.31)."""
    return gr.Textbox(label=label, info=info, placeholder=DEFAULT, max_length=20, min_width=90, elem_id=elem_id)


with gr.Blocks(title="Scissorhands: make an image model forget", analytics_enabled=False, delete_cache=(600, 3600)) as demo:
    gr.HTML(render.HEADER)
    handle = gr.BrowserState(None, storage_key="scissorhands")
    with gr.Tabs(overflow_behavior="wrap"):
        with gr.Tab("Erase", id="erase"):
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    concept = gr.Textbox(
                        "dress", label="What should it forget?", info="A thing, a style, a colour; commas between several.",
                        max_length=4 * limits.LONGEST_TEXT, elem_id="concept",
                    )  # fmt: skip
                    gr.Examples([["dress"], ["sneaker"], ["red"], ["bag, purple"]], [concept], label="Click one")
                    anchor = gr.Textbox(
                        label="Anchor (optional)", info="What to draw in its place; left empty, another thing it knows.",
                        placeholder="for example: shirt", max_length=limits.LONGEST_TEXT, elem_id="anchor",
                    )  # fmt: skip
                    model = gr.Radio([SHIPPED_NAME, FROM_HUB], value=SHIPPED_NAME, label="Model", elem_id="model")
                    hub_id = gr.Textbox(
                        label="Hub id", placeholder="owner/name", visible=False, max_length=200, elem_id="hub-id",
                        info="A public diffusers pipeline in safetensors that fits this machine.",
                    )  # fmt: skip
                    with gr.Accordion("Advanced", open=False):
                        gr.Markdown("Empty fields take the recipe's or the package's own values.")
                        keep = gr.Textbox(
                            label="Keep", info="What must stay, with commas between.", placeholder="coat, shirt",
                            elem_id="keep", max_length=4000,
                        )  # fmt: skip
                        recipe = gr.Dropdown(
                            [DEFAULT], value=DEFAULT, label="Recipe", info="A named set of settings.", allow_custom_value=True
                        )
                        with gr.Row():
                            trim_ratio = optional_number("Trim ratio", "Share cut, 0–0.5", "trim-ratio")
                            forget_weight = optional_number("λ", "Weight of forgetting", "forget-weight")
                            steps = optional_number("Steps", "Of repair, 1–600", "steps")
                        scope = gr.Textbox(
                            label="Scope", info="Which weights may be cut: patterns on their names, commas between.",
                            placeholder="mid_block.*attn1*", max_length=2000,
                        )  # fmt: skip
                        projection = gr.Radio(
                            [DEFAULT, "on", "off"],
                            value=DEFAULT,
                            label="Projection",
                            info="Of gradients, off the forget set's",
                        )
                        with gr.Row():
                            images = gr.Slider(
                                2, limits.MOST_IMAGES, 4, step=1, label="Images per prompt", min_width=140, elem_id="images"
                            )
                            seed = gr.Number(0, label="Seed", precision=0, min_width=90)
                    with gr.Row():
                        erase_button = gr.Button("Erase", variant="primary", elem_id="erase-button", min_width=120)
                        erase_cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="erase-cancel", min_width=120)
                with gr.Column(scale=3, min_width=300):
                    erase_status = gr.HTML(render.note(render.START), elem_id="erase-status")
                    erase_samples = gr.Image(
                        SHIPPED_FOLDER / "samples.png", show_label=False, interactive=False, buttons=[], elem_id="erase-samples"
                    )
            with gr.Column(visible=False, elem_id="erase-results") as erase_results:
                gr.Markdown("### Asked for the concept, at the same seeds")
                concept_pictures = gr.HTML(elem_id="concept-pictures")
                gr.Markdown("### Asked for what is kept, at the same seeds")
                kept_pictures = gr.HTML(elem_id="kept-pictures")
                with gr.Row():
                    erase_scores = gr.HTML(elem_id="erase-scores")
                    erase_cut = gr.HTML(elem_id="erase-cut")
                with gr.Accordion("Settings, seconds, measure", open=False):
                    erase_settings = gr.HTML()
                with gr.Accordion("The whole report as JSON", open=False):
                    erase_report = gr.JSON(label="unlearning_report.json")
            erase_files = gr.Gallery(visible=False, format="png", label="Pictures")  # for the API

        with gr.Tab("Compare", id="compare"):
            gr.Markdown(
                "Ask both models for anything, at the same seeds. Or **attack**: look for words that bring the concept back."
            )
            with gr.Row():
                with gr.Column(scale=3, min_width=280):
                    prompt = gr.Textbox(
                        "a photo of a red dress", label="Prompt", max_length=limits.LONGEST_TEXT, elem_id="prompt"
                    )
                with gr.Column(scale=1, min_width=120):
                    compare_seed = gr.Number(0, label="Seed", precision=0, elem_id="compare-seed")
            gr.Examples(
                [["a photo of a red dress"], ["a blue sneaker"], ["look at this bag"], ["clothing"]],
                [prompt],
                label="Click one",
            )
            with gr.Accordion("Advanced", open=False), gr.Row():
                compare_images = gr.Slider(1, limits.MOST_IMAGES, 4, step=1, label="Images")
                compare_steps = optional_number("Sampling steps", "1 to 50", "sampling-steps")
                compare_guidance = optional_number("Guidance scale", "0 to 20", "guidance")
            with gr.Row():
                compare_button = gr.Button("Draw", variant="primary", elem_id="compare-button", min_width=120)
                attack_button = gr.Button("Attack", elem_id="attack-button", min_width=120)
            compare_status = gr.HTML(
                render.note("Erase a concept first; then both models wait here."), elem_id="compare-status"
            )
            compare_pictures = gr.HTML(elem_id="compare-pictures")
            compare_table = gr.HTML(elem_id="compare-table")
            compare_files = gr.Gallery(visible=False, format="png", label="Pictures")  # for the API

        with gr.Tab("Classifier", id="classifier"):
            gr.Markdown(
                "The trainer's door: a small image classifier forgets one of its ten classes. The goal is not the most "
                "forgetting, but to behave like a model that was **retrained without the class**."
            )
            with gr.Row():
                with gr.Column(scale=3, min_width=200):
                    class_name = gr.Dropdown(
                        class_names(), value="dress", label="Class to forget", allow_custom_value=True, elem_id="class-name"
                    )
                with gr.Column(scale=1, min_width=120):
                    class_seed = gr.Number(0, label="Seed", precision=0)
            with gr.Row():
                class_button = gr.Button("Forget it", variant="primary", elem_id="class-button", min_width=120)
                class_cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="class-cancel", min_width=120)
            class_status = gr.HTML(
                render.note("Takes some seconds: it is measured, cut where the class sits, and repaired on the other nine."),
                elem_id="class-status",
            )
            with gr.Column(visible=False) as class_results:
                class_table = gr.HTML(elem_id="class-table")
                with gr.Row():
                    class_before = gr.HTML(elem_id="class-before", min_width=300)
                    class_after = gr.HTML(elem_id="class-after", min_width=300)
                class_cut = gr.HTML()
                with gr.Accordion("The whole report as JSON", open=False):
                    class_report = gr.JSON(label="unlearning_report.json")

        with gr.Tab("Publish", id="publish"), gr.Row():
            with gr.Column(scale=2, min_width=300):
                if ON_SPACE:
                    gr.LoginButton(elem_id="login")
                else:
                    gr.Markdown(render.OWN_COMPUTER)
                repository = gr.Textbox(
                    label="Repository", placeholder="no-dress", info="A name in your account, or owner/name.", max_length=200,
                    elem_id="repository",
                )  # fmt: skip
                visibility = gr.Radio(["private", "public"], value="private", label="Visibility", elem_id="visibility")
                disclosure = gr.Radio(
                    list(DISCLOSURES),
                    value=next(iter(DISCLOSURES)),
                    label="The card tells what was erased",
                    elem_id="disclosure",
                )
                license = gr.Textbox(
                    label="Licence (optional)", placeholder="mit", max_length=50, elem_id="license",
                    info="Identifier on the Hub; the base model's where left empty.",
                )  # fmt: skip
                with gr.Row():
                    card_button = gr.Button("Preview the card", elem_id="card-button", min_width=120)
                    push_button = gr.Button("Push", variant="primary", elem_id="push-button", min_width=120)
                zip_button = gr.Button("Make a zip to download", elem_id="zip-button")
                with gr.Column(visible=False) as zip_area:
                    zip_file = gr.File(label="Your model", interactive=False, elem_id="zip-file")
            with gr.Column(scale=3, min_width=300):
                publish_status = gr.HTML(render.note(render.PUBLISH), elem_id="publish-status")
                card_preview = gr.Markdown(elem_id="card-preview")
                with gr.Accordion("The card as text", open=False):
                    card_text = gr.Code(language="markdown", label="README.md", interactive=False, elem_id="card-text")

    # ---- Which event calls what ----

    model.change(lambda chosen: gr.update(visible=chosen == FROM_HUB), model, hub_id, queue=False, **HIDDEN)
    gr.on(
        [erase_button.click, concept.submit], on_wait, None, [erase_status, erase_cancel, erase_button], queue=False, **HIDDEN
    ).then(
        on_erase,
        [model, hub_id, concept, anchor, keep, recipe, trim_ratio, forget_weight, steps, scope, projection, images, seed],
        [
            erase_status, erase_samples, erase_results, concept_pictures, kept_pictures, erase_scores, erase_cut,
            erase_settings, erase_report, erase_files,
        ],
        api_name="erase", show_progress_on=erase_status, **WORK,
    ).then(on_end, None, [erase_cancel, erase_button], queue=False, **HIDDEN).then(
        on_made, None, handle, queue=False, **HIDDEN
    )  # fmt: skip
    erase_cancel.click(on_cancel, None, erase_status, api_name="cancel", queue=False, show_progress="hidden")
    compare_outputs = [compare_status, compare_pictures, compare_table, compare_files]
    gr.on(
        [compare_button.click, prompt.submit], on_compare,
        [prompt, compare_seed, compare_images, compare_steps, compare_guidance], compare_outputs,
        api_name="compare", show_progress_on=compare_status, **WORK,
    )  # fmt: skip
    attack_button.click(on_attack, compare_seed, compare_outputs, api_name="attack", show_progress_on=compare_status, **WORK)
    class_button.click(on_wait, None, [class_status, class_cancel, class_button], queue=False, **HIDDEN).then(
        on_forget_class, [class_name, class_seed],
        [class_status, class_results, class_table, class_before, class_after, class_cut, class_report],
        api_name="forget_class", show_progress_on=class_status, **WORK,
    ).then(on_end, None, [class_cancel, class_button], queue=False, **HIDDEN)  # fmt: skip
    class_cancel.click(on_cancel, None, class_status, queue=False, **HIDDEN)
    card_button.click(
        on_card, [repository, disclosure, license], [publish_status, card_text, card_preview],
        api_name="card", show_progress_on=publish_status, **UPLOAD,
    )  # fmt: skip
    zip_button.click(
        on_zip,
        [disclosure, license],
        [publish_status, zip_area, zip_file],
        api_name="zip",
        show_progress_on=publish_status,
        **WORK,
    )
    push_button.click(
        on_push, [repository, visibility, disclosure, license], publish_status,
        api_name="push", show_progress_on=publish_status, **UPLOAD,
    )  # fmt: skip
    demo.load(on_return, handle, [publish_status, compare_status], concurrency_limit=None, **HIDDEN)
    demo.load(on_load, None, recipe, concurrency_limit=None, **HIDDEN)
    demo.unload(on_leave)

demo.queue(max_size=MOST_WAITING)


def launch(**options: Any) -> Any:
    """Serve the pages; options are those of ``Blocks.launch``."""
    # After the first view is out: importing takes seconds of a core.
    warm_up = threading.Timer(1.0, import_libraries)
    warm_up.daemon = True
    warm_up.start()
    return demo.launch(theme=THEME, css_paths=HERE / "style.css", ssr_mode=False, footer_links=["api"], **options)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # how servers are stopped; visitors' files must go then, too
    try:
        launch()
    finally:
        bench.close()
