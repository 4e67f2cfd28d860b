"""The Erase tab: from a word to a pipeline without it, with pictures and figures of both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from spaces_demo import limits, render
from spaces_demo.events import DEFAULT, HIDDEN, Runs, Updates, follow, optional_number, page_of
from spaces_demo.logic import Workbench
from spaces_demo.models import SHIPPED_FOLDER, SHIPPED_NAME
from spaces_demo.tasks import recipe_names


FROM_HUB = "A model from the Hub"
# Ways to erase, with the recipe of each.
WAYS = {"Take it out of the weights": None, "Lead its words elsewhere (quick)": "concept"}
WAYS_INFO = (
    "The first teaches all of the model's weights to do without it: about two minutes, hard to bring back, and a neighbour "
    "(of a dress: shirts) may suffer. The second changes what its words mean to the model: quicker, but whoever has the "
    "weights can bring it back. With an anchor, of a look or several words, and of a large model, the second is done. Probe "
    "both under “Compare and attack”."
)


def recipe_of(way: str | None, recipe: str | None) -> str | None:
    """
    The recipe of a way to erase, unless one was chosen.

    Raises:
        RefusedError: they do not go together.
    """
    if way is not None and recipe not in (None, way):
        raise limits.RefusedError(f"The recipe {recipe[:60]!r} has its own way to erase; choose the first way, or no recipe.")
    return way or recipe


class EraseTab:
    """
    Layout and events of the tab; made inside of `gr.Tabs`.

    Args:
        bench: what the events call.
        handle: what the browser keeps of the session, see :meth:`on_made`.
    """

    def __init__(self, bench: Workbench, handle: gr.BrowserState):
        self.bench = bench
        with gr.Tab("Erase", id="erase"):
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    inputs = self._questions()
                with gr.Column(scale=3, min_width=300):
                    self.status = gr.HTML(render.note(render.START), elem_id="erase-status")
                    self.samples = gr.Image(
                        SHIPPED_FOLDER / "samples.png", show_label=False, interactive=False, buttons=[], elem_id="erase-samples"
                    )
            self._answers()
        self.runs = Runs(bench, self.status, [self.button], self.cancel)
        ended = self.runs.on(
            [self.button.click, self.concept.submit], self.on_erase, inputs,
            [
                self.status, self.samples, self.results, self.concept_pictures, self.kept_pictures, self.scores, self.cut,
                self.settings, self.report, self.files,
            ],
            api_name="erase",
        )  # fmt: skip
        ended.then(self.on_made, None, handle, queue=False, **HIDDEN)
        self.runs.cancel_by(api_name="cancel", show_progress="hidden")
        self.model.change(lambda chosen: gr.update(visible=chosen == FROM_HUB), self.model, self.hub_id, queue=False, **HIDDEN)

    def _questions(self) -> list[Any]:
        """What the visitor fills in, in the order of :meth:`on_erase`."""
        self.concept = gr.Textbox(
            "dress", label="What should it forget?", info="A thing, a style, a colour; commas between several.",
            max_length=4 * limits.LONGEST_TEXT, elem_id="concept",
        )  # fmt: skip
        gr.Examples([["dress"], ["sneaker"], ["red"], ["bag, purple"]], [self.concept], label="Click one")
        anchor = gr.Textbox(
            label="Anchor (optional)", info="What to draw in its place; left empty, another thing it knows.",
            placeholder="for example: shirt", max_length=limits.LONGEST_TEXT, elem_id="anchor",
        )  # fmt: skip
        way = gr.Radio(list(WAYS), value=next(iter(WAYS)), label="How", info=WAYS_INFO, elem_id="way")
        self.model = gr.Radio([SHIPPED_NAME, FROM_HUB], value=SHIPPED_NAME, label="Model", elem_id="model")
        self.hub_id = gr.Textbox(
            label="Hub id", placeholder="owner/name", visible=False, max_length=200, elem_id="hub-id",
            info="A public diffusers pipeline in safetensors that fits this machine.",
        )  # fmt: skip
        with gr.Accordion("Advanced", open=False):
            gr.Markdown("Empty fields take the recipe's or the package's own values.")
            keep = gr.Textbox(
                label="Keep", info="What must stay, with commas between.", placeholder="coat, shirt",
                elem_id="keep", max_length=4000,
            )  # fmt: skip
            self.recipe = gr.Dropdown(
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
                [DEFAULT, "on", "off"], value=DEFAULT, label="Projection", info="Of gradients, off the forget set's"
            )
            with gr.Row():
                images = gr.Slider(2, limits.MOST_IMAGES, 4, step=1, label="Images per prompt", min_width=140, elem_id="images")
                seed = gr.Number(0, label="Seed", precision=0, min_width=90)
        with gr.Row():
            self.button = gr.Button("Erase", variant="primary", elem_id="erase-button", min_width=120)
            self.cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="erase-cancel", min_width=120)
        return [
            self.model, self.hub_id, self.concept, anchor, keep, self.recipe, trim_ratio, forget_weight, steps, scope,
            projection, images, seed, way,
        ]  # fmt: skip

    def _answers(self) -> None:
        with gr.Column(visible=False, elem_id="erase-results") as self.results:
            gr.Markdown("### Asked for the concept, at the same seeds")
            self.concept_pictures = gr.HTML(elem_id="concept-pictures")
            gr.Markdown("### Asked for what is kept, at the same seeds")
            self.kept_pictures = gr.HTML(elem_id="kept-pictures")
            with gr.Row():
                self.scores = gr.HTML(elem_id="erase-scores")
                self.cut = gr.HTML(elem_id="erase-cut")
            with gr.Accordion("Settings, seconds, measure", open=False):
                self.settings = gr.HTML()
            with gr.Accordion("The whole report as JSON", open=False):
                self.report = gr.JSON(label="unlearning_report.json")
        self.files = gr.Gallery(visible=False, format="png", label="Pictures")  # for the API

    # ---- Events ----

    def on_erase(
        self, model: str, hub_id: str, concept: str, anchor: str, keep: str, recipe: str, trim_ratio: str, forget_weight: str,
        steps: str, scope: str, projection: str, images: float, seed: float, way: str, request: gr.Request,
    ) -> Iterator[Updates]:  # fmt: skip
        """Erase concepts from your own copy of a model, and show what that did."""
        yield from follow(
            lambda: self.bench.erase(
                page_of(request), concept, anchor, keep,
                model=None if model == FROM_HUB else model, hub_id=hub_id if model == FROM_HUB else None,
                recipe=recipe_of(WAYS[way], None if recipe in (None, "", DEFAULT) else recipe),
                trim_ratio=trim_ratio, forget_weight=forget_weight, steps=steps, scope=scope,
                projection={"on": True, "off": False}.get(projection), images=images, seed=seed,
            ),
            self.status, self._done,
        )  # fmt: skip

    def _done(self, status: Any) -> Updates:
        report = status.result.report
        groups = {score.prompt: score.group for score in report.prompts}
        rows = {kind: [] for kind in ("concept", "paraphrase", "neighbour", "kept")}
        for text, pair in report.pictures.items():
            rows[groups[text]].append((text, pair["original"], pair["unlearned"]))
        files = [(image, f"{text} ({name})") for text, pair in report.pictures.items() for name in pair for image in pair[name]]
        return {
            self.status: render.progress(status) + render.verdict(report) + render.losses(status.losses),
            self.samples: gr.update(visible=False),
            self.results: gr.update(visible=True),
            self.concept_pictures: render.pictures(rows["concept"] + rows["paraphrase"]),
            self.kept_pictures: render.pictures(rows["kept"] + rows["neighbour"]),
            self.scores: render.scores(report.prompts),
            self.cut: render.changes_per_layer(report),
            self.settings: render.settings_table(report.settings, report.seconds, report.measure),
            self.report: report.to_dict(),
            self.files: files,
        }

    def on_made(self, request: gr.Request) -> str | None:
        """What the browser remembers of the session, so that it finds it again when the page is loaded anew."""
        return self.bench.handle(page_of(request))

    def on_load(self) -> Any:
        """Recipes can be named once the package is imported, which the first view does not wait for."""
        return gr.update(choices=[DEFAULT, *recipe_names()])
