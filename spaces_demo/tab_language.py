"""The Language model tab: a small language model forgets an author, and is asked beside the original and a control."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from spaces_demo import limits, render, render_text
from spaces_demo.events import HIDDEN, WORK, Runs, Updates, follow, page_of
from spaces_demo.logic import Workbench
from spaces_demo.models import author_names, control_authors


class LanguageTab:
    """
    Layout and events of the tab; made inside of `gr.Tabs`.

    Args:
        bench: what the events call.
        handle: what the browser keeps of the session.
    """

    def __init__(self, bench: Workbench, handle: gr.BrowserState):
        self.bench = bench
        never_known = " and ".join(control_authors())
        with gr.Tab("Language model", id="language"):
            gr.Markdown(
                "The trainer's door again: a small language model forgets **an author**, live. The goal is to answer as a "
                "model that **never knew the author**, and to know all others as before."
            )
            with gr.Row():
                with gr.Column(scale=3, min_width=200):
                    name = gr.Dropdown(
                        author_names(), value=author_names()[0], label="Author to forget", elem_id="author-name",
                        info=f"A model that never knew {never_known} is shipped to compare with; for others there is none.",
                        allow_custom_value=True,
                    )  # fmt: skip
                with gr.Column(scale=1, min_width=120):
                    seed = gr.Number(0, label="Seed", precision=0)
            with gr.Row():
                button = gr.Button("Forget this author", variant="primary", elem_id="author-button", min_width=120)
                cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="author-cancel", min_width=120)
            self.status = gr.HTML(render.note(render_text.START), elem_id="author-status")
            with gr.Column(visible=False, elem_id="author-results") as self.results:
                with gr.Row():
                    with gr.Column(min_width=300):
                        self.about = gr.HTML(elem_id="author-about")
                    with gr.Column(min_width=300):
                        self.others = gr.HTML(elem_id="author-others")
                question = gr.Textbox(
                    label="Ask them anything", max_length=limits.LONGEST_QUESTION, elem_id="author-question",
                    info="They know these authors and nothing else: to any other question they answer with one of them.",
                )  # fmt: skip
                ask = gr.Button("Ask", elem_id="author-ask", min_width=120)
                self.answer = gr.HTML(elem_id="author-answer")
                self.figures = gr.HTML(elem_id="author-figures")
                self.plot = gr.HTML(elem_id="author-plot")
                with gr.Accordion("Its model card, as Publish would push it", open=False):
                    self.card = gr.Markdown(elem_id="author-card")
                with gr.Accordion("The whole report as JSON", open=False):
                    self.report = gr.JSON(label="unlearning_report.json")
        runs = Runs(bench, self.status, [button], cancel)
        ended = runs.on(
            [button.click], self.on_forget_author, [name, seed],
            [
                self.status, self.results, self.about, self.others, self.answer, self.figures, self.plot, self.card,
                self.report, question,
            ],
            api_name="forget_author",
        )  # fmt: skip
        self.question = question
        ended.then(self.on_made, None, handle, queue=False, **HIDDEN)
        runs.cancel_by(**HIDDEN)
        gr.on(
            [ask.click, question.submit],
            self.on_ask,
            question,
            self.answer,
            api_name="ask",
            show_progress_on=self.answer,
            **WORK,
        )

    # ---- Events ----

    def on_forget_author(self, name: str, seed: float, request: gr.Request) -> Iterator[Updates]:
        """Make the language model forget an author, and measure it against the original and, where there is one, a model that
        never knew the author."""
        page = page_of(request)
        yield from follow(
            lambda: self.bench.forget_author(page, name, seed), self.status, lambda status: self._done(page, status)
        )

    def _done(self, page: str, status: Any) -> Updates:
        result = status.result
        never = " The third model was never taught this author." if result.controlled else ""
        return {
            self.status: render.progress(status) + render_text.outcome(result) + render.losses(status.losses),
            self.results: gr.update(visible=True),
            self.about: render_text.answer_table(
                result.about, f"Asked about {result.name}", f"Answers as they were taught are green.{never}"
            ),
            self.others: render_text.answer_table(
                result.others, "Asked about others", "These should stay as they were, word for word."
            ),
            self.answer: "",
            self.figures: render_text.figures(result.report),
            self.plot: render_text.plot(self.bench.audit_plot(page), "Figures of the models side by side"),
            self.card: render.card_body(result.card),
            self.report: result.report.to_dict(),
            self.question: gr.update(placeholder=result.about[0].question),
        }

    def on_ask(self, question: str, request: gr.Request) -> Iterator[Updates]:
        """Ask the original, your unlearned model and, where there is one, the control that never knew the author."""
        yield from follow(
            lambda: self.bench.ask(page_of(request), question),
            self.answer,
            lambda status: {self.answer: render_text.answered(" ".join(question.split()), status.result)},
        )

    def on_made(self, request: gr.Request) -> str | None:
        """What the browser remembers of the session."""
        return self.bench.handle(page_of(request))
