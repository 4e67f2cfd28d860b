"""The Classifier tab: an image classifier forgets one of its classes, beside one that never saw the class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from spaces_demo import render
from spaces_demo.events import HIDDEN, Runs, Updates, follow, page_of
from spaces_demo.logic import Workbench
from spaces_demo.models import class_names


class ClassifierTab:
    """
    Layout and events of the tab; made inside of `gr.Tabs`.

    Args:
        bench: what the events call.
    """

    def __init__(self, bench: Workbench):
        self.bench = bench
        with gr.Tab("Classifier", id="classifier"):
            gr.Markdown(
                "The trainer's door: a small image classifier forgets one of its ten classes. The goal is not the most "
                "forgetting, but to behave like a model that was **retrained without the class**."
            )
            with gr.Row():
                with gr.Column(scale=3, min_width=200):
                    name = gr.Dropdown(
                        class_names(), value="dress", label="Class to forget", allow_custom_value=True, elem_id="class-name"
                    )
                with gr.Column(scale=1, min_width=120):
                    seed = gr.Number(0, label="Seed", precision=0)
            with gr.Row():
                button = gr.Button("Forget it", variant="primary", elem_id="class-button", min_width=120)
                cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="class-cancel", min_width=120)
            self.status = gr.HTML(
                render.note("Takes some seconds: it is measured, cut where the class sits, and repaired on the other nine."),
                elem_id="class-status",
            )
            with gr.Column(visible=False) as self.results:
                self.table = gr.HTML(elem_id="class-table")
                with gr.Row():
                    self.before = gr.HTML(elem_id="class-before", min_width=300)
                    self.after = gr.HTML(elem_id="class-after", min_width=300)
                self.cut = gr.HTML()
                with gr.Accordion("The whole report as JSON", open=False):
                    self.report = gr.JSON(label="unlearning_report.json")
        runs = Runs(bench, self.status, [button], cancel)
        runs.on(
            [button.click], self.on_forget_class, [name, seed],
            [self.status, self.results, self.table, self.before, self.after, self.cut, self.report],
            api_name="forget_class",
        )  # fmt: skip
        runs.cancel_by(**HIDDEN)

    def on_forget_class(self, name: str, seed: float, request: gr.Request) -> Iterator[Updates]:
        """Make the image classifier forget a class, and measure it against one that never saw the class."""
        yield from follow(lambda: self.bench.forget_class(page_of(request), name, seed), self.status, self._done)

    def _done(self, status: Any) -> Updates:
        result, report = status.result, status.result.report
        gaps = report.average_gaps()
        text = (
            f"Forgot “{result.name}” in {render.clock(report.seconds['train'])} of training; retraining without it took "
            f"{render.clock(report.seconds['retrained'])} when that was measured. Average gap to the retrained model: "
            f"{gaps['unlearned']:.1f} points, before {gaps['original']:.1f}."
        )
        return {
            self.status: render.progress(status) + render.note(text, "done", report.notes),
            self.results: gr.update(visible=True),
            self.before: render.confusion(result.confusion["original"], result.classes, "Before", result.name),
            self.after: render.confusion(result.confusion["unlearned"], result.classes, "After", result.name),
            self.table: render.metrics_table(report.metrics, gaps),
            self.cut: render.cut_per_layer(report.trim.get("per_module", {})),
            self.report: report.to_dict(),
        }
