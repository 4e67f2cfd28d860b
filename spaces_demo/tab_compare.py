"""The Compare and attack tab: both pipelines at the same seeds, the concept in other words, and probes of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from spaces_demo import limits, render, render_probes
from spaces_demo.events import HIDDEN, WORK, Runs, Updates, follow, optional_number, page_of
from spaces_demo.logic import Workbench


NAMES = ("Original", "Unlearned")
PROBING = """
A few pictures of each, by the erased pipeline, the original, and for “dress”, “sneaker” and “red” a shipped pipeline that never
saw one. The attacker has the weights, and as many pictures of the concept as a share has, drawn by the original.

- **words**: its own words. **empty**: no words at all.
- **token**: a new word of one or four vectors, learned from the attacker's pictures in 150 steps; no weight is changed.
- **img2img**: a picture of it, noised by 40, 60 and 80 %, and denoised with the empty prompt.

Takes some minutes. A cancelled run ends with the probe that is at work. The card shows what was found.
"""


class CompareTab:
    """
    Layout and events of the tab; made inside of `gr.Tabs`.

    Args:
        bench: what the events call.
    """

    def __init__(self, bench: Workbench):
        self.bench = bench
        with gr.Tab("Compare and attack", id="compare"):
            gr.Markdown(
                "Ask both models for anything, at the same seeds. Or **attack**: look for words that bring the concept back, "
                "or **probe** the weights, to see whether it is gone from them or its words only lead elsewhere."
            )
            with gr.Row():
                with gr.Column(scale=3, min_width=280):
                    prompt = gr.Textbox(
                        "a photo of a red dress", label="Prompt", max_length=limits.LONGEST_TEXT, elem_id="prompt"
                    )
                with gr.Column(scale=1, min_width=120):
                    seed = gr.Number(0, label="Seed", precision=0, elem_id="compare-seed")
            gr.Examples(
                [["a photo of a red dress"], ["a blue sneaker"], ["look at this bag"], ["clothing"]],
                [prompt],
                label="Click one",
            )
            with gr.Accordion("Advanced", open=False), gr.Row():
                images = gr.Slider(1, limits.MOST_IMAGES, 4, step=1, label="Images")
                steps = optional_number("Sampling steps", "1 to 50", "sampling-steps")
                guidance = optional_number("Guidance scale", "0 to 20", "guidance")
            with gr.Row():
                draw_button = gr.Button("Draw", variant="primary", elem_id="compare-button", min_width=120)
                attack_button = gr.Button("Attack", elem_id="attack-button", min_width=120)
                probe_button = gr.Button("Probe", elem_id="probe-button", min_width=120)
                probe_cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="probe-cancel", min_width=120)
            with gr.Accordion("What Probe does", open=False):
                gr.Markdown(PROBING)
                with gr.Row():
                    concept = gr.Textbox(
                        label="Concept", info="One of those erased; the first where left empty.", min_width=140,
                        max_length=limits.LONGEST_TEXT, elem_id="probe-concept",
                    )  # fmt: skip
                    count = gr.Slider(
                        *limits.PROBE_PICTURES, 16, step=1, label="Pictures a share", min_width=140, elem_id="probe-pictures"
                    )
            self.status = gr.HTML(render.note("Erase a concept first; then both models wait here."), elem_id="compare-status")
            self.pictures = gr.HTML(elem_id="compare-pictures")
            self.table = gr.HTML(elem_id="compare-table")
            with gr.Column(visible=False, elem_id="probe-results") as self.probed:
                with gr.Row():
                    with gr.Column(min_width=300):
                        self.shares = gr.HTML(elem_id="probe-shares")
                    with gr.Column(min_width=300):
                        self.plot = gr.HTML(elem_id="probe-plot")
                self.probe_pictures = gr.HTML(elem_id="probe-shown")
                with gr.Accordion("The whole report as JSON", open=False):
                    self.report = gr.JSON(label="probe_report.json")
            self.files = gr.Gallery(visible=False, format="png", label="Pictures")  # for the API
        outputs = [self.status, self.pictures, self.table, self.files]
        gr.on(
            [draw_button.click, prompt.submit], self.on_compare, [prompt, seed, images, steps, guidance], outputs,
            api_name="compare", show_progress_on=self.status, **WORK,
        )  # fmt: skip
        attack_button.click(self.on_attack, seed, outputs, api_name="attack", show_progress_on=self.status, **WORK)
        runs = Runs(bench, self.status, [probe_button], probe_cancel)
        runs.on(
            [probe_button.click], self.on_probe, [concept, count, seed],
            [self.status, self.probed, self.shares, self.plot, self.probe_pictures, self.report], api_name="probe",
        )  # fmt: skip
        runs.cancel_by(**HIDDEN)

    # ---- Events ----

    def on_compare(
        self, prompt: str, seed: float, images: float, steps: str, guidance: str, request: gr.Request
    ) -> Iterator[Updates]:
        """Draw a prompt with the original and with your unlearned model, at the same seeds."""

        def done(status: Any) -> Updates:
            result = status.result
            moved = f" They moved by {result.score.change:.2f} (0: the same pictures, about 1: others)." if result.score else ""
            return {
                self.status: render.note(f"“{result.prompt}” by both models; equal places have equal seeds.{moved}", "done"),
                **self._both(result),
                self.table: "",
            }

        yield from follow(
            lambda: self.bench.compare(page_of(request), prompt, seed, images, steps, guidance), self.status, done
        )

    def on_attack(self, seed: float, request: gr.Request) -> Iterator[Updates]:
        """Try to get the concept back with other words, and show the wording that does it best."""

        def done(status: Any) -> Updates:
            attack, score = status.result, status.result.worst.score
            if attack.judged:
                text = f"shows the concept in {score.unlearned:.0f} % of the pictures ({score.original:.0f} % before)."
            else:
                text = f"moved its pictures least, by {score.change:.2f} (0: the same, about 1: others)."
            return {
                self.status: render.note(f"{len(attack.scores)} wordings tried. The worst, “{score.prompt}”, {text}", "done"),
                **self._both(attack.worst),
                self.table: render.attack_table(attack.scores, attack.judged),
            }

        yield from follow(lambda: self.bench.attack(page_of(request), seed), self.status, done)

    def on_probe(self, concept: str, pictures: float, seed: float, request: gr.Request) -> Iterator[Updates]:
        """Attack the weights: is the concept gone from them, or do its words only lead elsewhere?"""

        def done(status: Any) -> Updates:
            result = status.result
            head = f"Pictures that show “{result.report.concept}”:"
            return {
                self.status: render.progress(status) + render.note(head, "done", render_probes.outcome(result)),
                self.probed: gr.update(visible=True),
                self.shares: render_probes.shares(result.report),
                self.plot: render_probes.plot(result),
                self.probe_pictures: render_probes.pictures(result.report),
                self.report: result.report.to_dict(),
            }

        yield from follow(lambda: self.bench.probe(page_of(request), concept, pictures, seed), self.status, done)

    def _both(self, result: Any) -> Updates:
        """The pictures of a comparison, for the page and as files."""
        files = [
            (image, name) for name, images in zip(NAMES, (result.original, result.unlearned), strict=True) for image in images
        ]
        return {self.pictures: render.pictures([(result.prompt, result.original, result.unlearned)], NAMES), self.files: files}
