"""The pages of the Space: layout and events. What they do is in logic.py; how pieces of them look, in render.py.

make space                       # or: python spaces_demo/app.py
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator
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
from spaces_demo.logic import Workbench, explain, recipe_names  # noqa: E402
from spaces_demo.models import SHIPPED_FOLDER, SHIPPED_NAME, class_names  # noqa: E402

FROM_HUB = "A model from the Hub"
WORK = {"concurrency_limit": 1, "concurrency_id": "work"}  # one worker: see jobs.py
MOST_WAITING = 32
PICTURE_SIZE = 128
Updates = dict[Any, Any]

bench = Workbench()

HEADER = """
<div class="sh-head">
<h1>Make an image model forget</h1>
<p>Name something the model can draw. <b>Scissorhands</b> finds the weights that it hangs on, cuts them, and repairs the rest,
so that the concept is gone and everything else stays. Then look at the proof: the same prompts and seeds, before and after.</p>
<ol><li><b>Erase</b> a concept</li><li><b>Compare</b> and attack the result</li>
<li><b>Publish</b> it with a measured card</li></ol>
</div>
"""
START = (
    "The shipped model is a small Stable Diffusion pipeline that draws ten garments in six colours. Here is what it draws now; "
    "press Erase to make it forget a dress."
)
THEME = gr.themes.Soft(
    primary_hue="teal",
    neutral_hue="slate",
    radius_size="md",
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


def enlarged(images: list[Any], caption: str = "") -> list[Any]:
    """Pictures for a gallery; tiny ones enlarged, as browsers blur them otherwise."""
    from PIL import Image

    shown = []
    for image in images:
        if image.width < PICTURE_SIZE:
            image = image.resize((PICTURE_SIZE, PICTURE_SIZE * image.height // image.width), Image.Resampling.BICUBIC)
        shown.append((image, caption) if caption else image)
    return shown


def page_of(request: gr.Request) -> str:
    """The key of the visitor's session."""
    return request.session_hash or "no-page"


# ---- Events ----


def on_erase(
    model: str, hub_id: str, concept: str, anchor: str, keep: str, recipe: str, trim_ratio: float, forget_weight: float,
    steps: float, scope: str, projection: str, images: float, seed: float, request: gr.Request,
) -> Iterator[Updates]:  # fmt: skip
    """Erase concepts from your own copy of a model, and show what that did."""
    yield {
        erase_status: render.note("Starting …"),
        erase_cancel: gr.update(visible=True),
        erase_results: gr.update(visible=False),
    }
    try:
        for status in bench.erase(
            page_of(request), concept, anchor, keep,
            model=model if model != FROM_HUB else None, hub_id=hub_id if model == FROM_HUB else None,
            recipe=None if recipe in (None, "", DEFAULT) else recipe, trim_ratio=trim_ratio, forget_weight=forget_weight,
            steps=steps, scope=scope, projection={"on": True, "off": False}.get(projection), images=images, seed=seed,
        ):  # fmt: skip
            if not status.finished:
                yield {erase_status: render.progress(status) + render.losses(status.losses)}
                continue
            report = status.result.report
            yield {
                erase_status: render.progress(status) + render.verdict(report) + render.losses(status.losses),
                erase_cancel: gr.update(visible=False),
                erase_samples: gr.update(visible=False),
                erase_results: gr.update(visible=True),
                **erase_pictures(report),
                erase_scores: render.scores(report.prompts),
                erase_cut: render.cut_per_layer(report.trim.get("per_module", {})),
                erase_settings: render.settings_table(report.settings, report.seconds, report.measure),
                erase_report: report.to_dict(),
            }
    except Exception as error:  # every failure ends in a message on the page; explain() logs what is not the visitor's
        yield {erase_status: failure(error), erase_cancel: gr.update(visible=False)}


def failure(error: BaseException) -> str:
    return render.note(explain(error), "warning" if isinstance(error, limits.CancelledError) else "error")


def erase_pictures(report: Any) -> Updates:
    """The four galleries: of the concept and of what is kept, before and after, in the same order."""
    groups = {score.prompt: score.group for score in report.prompts}
    updates = {}
    for kinds, most, galleries in (
        (("concept", "paraphrase"), 4, (concept_before, concept_after)),
        (("kept", "neighbour"), 2, (kept_before, kept_after)),
    ):
        prompts = [prompt for prompt in report.pictures if groups.get(prompt) in kinds]
        for gallery, model in zip(galleries, ("original", "unlearned"), strict=True):
            updates[gallery] = [item for p in prompts for item in enlarged(report.pictures[p][model][:most], p)]
    return updates


def on_cancel(request: gr.Request) -> str:
    """Stop what you started; the model stays as it was."""
    stopped = bench.cancel(page_of(request))
    return render.note("Cancelling: it stops at the next step." if stopped else "Nothing of yours is running.", "warning")


def on_compare(
    prompt: str, seed: float, images: float, steps: float, guidance: float, request: gr.Request
) -> Iterator[Updates]:
    """Draw a prompt with the original and with your unlearned model, at the same seeds."""
    try:
        for status in bench.compare(page_of(request), prompt, seed, images, steps, guidance):
            if not status.finished:
                yield {compare_status: render.progress(status)}
                continue
            result = status.result
            moved = f" They moved by {result.score.change:.2f} (0: the same pictures, about 1: others)." if result.score else ""
            yield {
                compare_status: render.note(f"“{result.prompt}” by both models, equal places have equal seeds.{moved}", "done"),
                compare_before: enlarged(result.original),
                compare_after: enlarged(result.unlearned),
            }
    except Exception as error:  # as in on_erase
        yield {compare_status: failure(error)}


def on_attack(seed: float, request: gr.Request) -> Iterator[Updates]:
    """Try to get the concept back with other words, and show the wording that does it best."""
    try:
        for status in bench.attack(page_of(request), seed):
            if not status.finished:
                yield {compare_status: render.progress(status)}
                continue
            attack, worst = status.result, status.result.worst
            if attack.judged:
                before, after = worst.score.original, worst.score.unlearned
                text = f"it shows the concept in {after:.0f} % of the pictures ({before:.0f} % before)."
            else:
                text = f"its pictures moved least, by {worst.score.change:.2f} (0: the same, about 1: others)."
            yield {
                compare_status: render.note(
                    f"{len(attack.scores)} wordings tried. The worst is “{worst.prompt}”: {text}", "done"
                ),
                compare_before: enlarged(worst.original),
                compare_after: enlarged(worst.unlearned),
                compare_table: render.attack_table(attack.scores, attack.judged),
            }
    except Exception as error:  # as in on_erase
        yield {compare_status: failure(error)}


def on_forget_class(name: str, seed: float, request: gr.Request) -> Iterator[Updates]:
    """Make the image classifier forget a class, and measure it against one that never saw the class."""
    yield {class_status: render.note("Starting …"), class_cancel: gr.update(visible=True)}
    try:
        for status in bench.forget_class(page_of(request), name, seed):
            if not status.finished:
                yield {class_status: render.progress(status)}
                continue
            result = status.result
            report, gaps = result.report, result.report.average_gaps()
            text = (
                f"Forgot “{result.name}” in {render.clock(report.seconds['train'])} of training; retraining without it took "
                f"{render.clock(report.seconds['retrained'])} when that was measured. Average gap to the retrained model: "
                f"{gaps['unlearned']:.1f} points, before {gaps['original']:.1f}."
            )
            yield {
                class_status: render.progress(status) + render.note(text, "done", report.notes),
                class_cancel: gr.update(visible=False),
                class_before: render.confusion(result.confusion["original"], result.classes, "Before", result.name),
                class_after: render.confusion(result.confusion["unlearned"], result.classes, "After", result.name),
                class_table: render.metrics_table(report.metrics, gaps),
                class_cut: render.cut_per_layer(report.trim.get("per_module", {})),
                class_report: report.to_dict(),
            }
    except Exception as error:  # as in on_erase
        yield {class_status: failure(error), class_cancel: gr.update(visible=False)}


def on_load() -> Any:
    """Recipes can be named once the package is imported, which the first view does not wait for."""
    return gr.update(choices=[DEFAULT, *recipe_names()])


def on_leave(request: gr.Request) -> None:
    bench.sessions.leave(page_of(request))


# ---- Layout ----

DEFAULT = "default"

with gr.Blocks(title="Scissorhands: make an image model forget", analytics_enabled=False, delete_cache=(600, 3600)) as demo:
    gr.HTML(HEADER)
    with gr.Tabs():
        with gr.Tab("Erase", id="erase"):
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    concept = gr.Textbox(
                        "dress", label="What should it forget?", info="A thing, a style, a colour; commas between several.",
                        max_length=4 * limits.LONGEST_TEXT, elem_id="concept",
                    )  # fmt: skip
                    gr.Examples([["dress"], ["sneaker"], ["red"], ["bag, purple"]], [concept], label="Click one")
                    anchor = gr.Textbox(
                        label="Anchor (optional)", info="What to draw in its place; left empty, it just goes.",
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
                            trim_ratio = gr.Number(label="Trim ratio", info="Share of weights cut, 0.0001 to 0.5", value=None)
                            forget_weight = gr.Number(label="λ", info="Weight of forgetting", value=None)
                            steps = gr.Number(label="Steps", info="Of repair, up to 600", value=None, precision=0)
                        scope = gr.Textbox(
                            label="Scope", info="Which weights may be cut: patterns on their names, commas between.",
                            placeholder="*attn2*", max_length=2000,
                        )  # fmt: skip
                        projection = gr.Radio(
                            [DEFAULT, "on", "off"],
                            value=DEFAULT,
                            label="Projection",
                            info="Of gradients off the gradient memory",
                        )
                        with gr.Row():
                            images = gr.Slider(2, limits.MOST_IMAGES, 4, step=1, label="Images per prompt")
                            seed = gr.Number(0, label="Seed", precision=0)
                    with gr.Row():
                        erase_button = gr.Button("Erase", variant="primary", elem_id="erase-button")
                        erase_cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="erase-cancel")
                with gr.Column(scale=3, min_width=300):
                    erase_status = gr.HTML(render.note(START), elem_id="erase-status")
                    erase_samples = gr.Image(
                        SHIPPED_FOLDER / "samples.png", show_label=False, interactive=False, buttons=[], elem_id="erase-samples"
                    )  # fmt: skip
            with gr.Column(visible=False, elem_id="erase-results") as erase_results:
                gr.Markdown("### Asked for the concept, at the same seeds")
                with gr.Row():
                    concept_before = gr.Gallery(label="Before", columns=4, height="auto", elem_id="concept-before")
                    concept_after = gr.Gallery(label="After", columns=4, height="auto", elem_id="concept-after")
                gr.Markdown("### Asked for what is kept, at the same seeds")
                with gr.Row():
                    kept_before = gr.Gallery(label="Before", columns=4, height="auto", elem_id="kept-before")
                    kept_after = gr.Gallery(label="After", columns=4, height="auto", elem_id="kept-after")
                with gr.Row():
                    erase_scores = gr.HTML(elem_id="erase-scores")
                    erase_cut = gr.HTML(elem_id="erase-cut")
                with gr.Accordion("Settings, seconds, measure", open=False):
                    erase_settings = gr.HTML()
                with gr.Accordion("The whole report as JSON", open=False):
                    erase_report = gr.JSON(label="unlearning_report.json")

        with gr.Tab("Compare", id="compare"):
            gr.Markdown(
                "Ask both models for anything, at the same seeds; or **attack**: try other words to get the concept back."
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
                compare_steps = gr.Number(label="Sampling steps", info="1 to 50", value=None, precision=0)
                compare_guidance = gr.Number(label="Guidance scale", info="0 to 20", value=None)
            with gr.Row():
                compare_button = gr.Button("Draw", variant="primary", elem_id="compare-button")
                attack_button = gr.Button("Attack", elem_id="attack-button")
            compare_status = gr.HTML(
                render.note("Erase a concept first; then both models wait here."), elem_id="compare-status"
            )
            with gr.Row():
                compare_before = gr.Gallery(label="Original", columns=4, height="auto", elem_id="compare-before")
                compare_after = gr.Gallery(label="Unlearned", columns=4, height="auto", elem_id="compare-after")
            compare_table = gr.HTML(elem_id="compare-table")

        with gr.Tab("Classifier", id="classifier"):
            gr.Markdown(
                "The trainer's door: a small image classifier forgets one of its ten classes. The goal is not the most "
                "forgetting, but to behave like a model that was **retrained without the class**."
            )
            with gr.Row():
                with gr.Column(scale=3, min_width=200):
                    class_name = gr.Dropdown(class_names(), value="dress", label="Class to forget", elem_id="class-name")
                with gr.Column(scale=1, min_width=120):
                    class_seed = gr.Number(0, label="Seed", precision=0)
            with gr.Row():
                class_button = gr.Button("Forget it", variant="primary", elem_id="class-button")
                class_cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="class-cancel")
            class_status = gr.HTML(
                render.note("Takes some seconds: it is measured, cut where the class sits, and repaired on the other nine."),
                elem_id="class-status",
            )
            class_table = gr.HTML(elem_id="class-table")
            with gr.Row():
                class_before = gr.HTML(elem_id="class-before")
                class_after = gr.HTML(elem_id="class-after")
            class_cut = gr.HTML()
            with gr.Accordion("The whole report as JSON", open=False):
                class_report = gr.JSON(label="unlearning_report.json")

    # ---- Wiring: which event calls what ----

    model.change(lambda chosen: gr.update(visible=chosen == FROM_HUB), model, hub_id, api_visibility="private", queue=False)
    erase_inputs = [
        model, hub_id, concept, anchor, keep, recipe, trim_ratio, forget_weight, steps, scope, projection, images, seed,
    ]  # fmt: skip
    erase_outputs = [
        erase_status, erase_cancel, erase_samples, erase_results, concept_before, concept_after, kept_before,
        kept_after, erase_scores, erase_cut, erase_settings, erase_report,
    ]  # fmt: skip
    gr.on(
        [erase_button.click, concept.submit], on_erase, erase_inputs, erase_outputs,
        api_name="erase", show_progress="minimal", show_progress_on=erase_status, **WORK,
    )  # fmt: skip
    erase_cancel.click(on_cancel, None, erase_status, api_name="cancel", queue=False, show_progress="hidden")
    gr.on(
        [compare_button.click, prompt.submit], on_compare,
        [prompt, compare_seed, compare_images, compare_steps, compare_guidance],
        [compare_status, compare_before, compare_after],
        api_name="compare", show_progress="minimal", show_progress_on=compare_status, **WORK,
    )  # fmt: skip
    attack_button.click(
        on_attack, compare_seed, [compare_status, compare_before, compare_after, compare_table],
        api_name="attack", show_progress="minimal", show_progress_on=compare_status, **WORK,
    )  # fmt: skip
    class_button.click(
        on_forget_class, [class_name, class_seed],
        [class_status, class_cancel, class_table, class_before, class_after, class_cut, class_report],
        api_name="forget_class", show_progress="minimal", show_progress_on=class_status, **WORK,
    )  # fmt: skip
    class_cancel.click(on_cancel, None, class_status, api_visibility="private", queue=False, show_progress="hidden")
    demo.load(on_load, None, recipe, api_visibility="private", show_progress="hidden", concurrency_limit=None)
    demo.unload(on_leave)

demo.queue(max_size=MOST_WAITING)


def launch(**options: Any) -> Any:
    """Serve the pages; options are those of ``Blocks.launch``."""
    # After the first view is out: importing takes seconds of a core.
    warm_up = threading.Timer(1.0, bench.warm_up)
    warm_up.daemon = True
    warm_up.start()
    return demo.launch(theme=THEME, css_paths=HERE / "style.css", ssr_mode=False, footer_links=["api"], **options)


if __name__ == "__main__":
    try:
        launch()
    finally:
        bench.close()
