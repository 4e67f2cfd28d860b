"""The Publish tab: the card as it will stand on the Hub, a zip to take along, and the push in the visitor's own name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import gradio as gr

from spaces_demo import render
from spaces_demo.events import UPLOAD, WORK, Updates, failure, follow, page_of
from spaces_demo.logic import LANGUAGE_MODEL, PIPELINE, Workbench
from spaces_demo.publish import DISCLOSURES


WHICH = {"What I made last": None, "The pipeline": PIPELINE, "The language model": LANGUAGE_MODEL}
ON_SPACE = "SPACE_ID" in os.environ


class PublishTab:
    """
    Layout and events of the tab; made inside of `gr.Tabs`.

    Args:
        bench: what the events call.
    """

    def __init__(self, bench: Workbench):
        self.bench = bench
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
                which = gr.Radio(list(WHICH), value=next(iter(WHICH)), label="Which model", elem_id="which-model")
                license = gr.Textbox(
                    label="Licence (optional)", placeholder="mit", max_length=50, elem_id="license",
                    info="Identifier on the Hub; the base model's where left empty.",
                )  # fmt: skip
                with gr.Row():
                    card_button = gr.Button("Preview the card", elem_id="card-button", min_width=120)
                    push_button = gr.Button("Push", variant="primary", elem_id="push-button", min_width=120)
                zip_button = gr.Button("Make a zip to download", elem_id="zip-button")
                with gr.Column(visible=False) as self.zip_area:
                    self.zip_file = gr.File(label="Your model", interactive=False, elem_id="zip-file")
            with gr.Column(scale=3, min_width=300):
                self.status = gr.HTML(render.note(render.PUBLISH), elem_id="publish-status")
                self.preview = gr.Markdown(elem_id="card-preview")
                with gr.Accordion("The card as text", open=False):
                    self.text = gr.Code(language="markdown", label="README.md", interactive=False, elem_id="card-text")
        shown = {"show_progress_on": self.status}
        card_button.click(
            self.on_card, [repository, disclosure, license, which], [self.status, self.text, self.preview],
            api_name="card", **shown, **UPLOAD,
        )  # fmt: skip
        zip_button.click(
            self.on_zip,
            [disclosure, license, which],
            [self.status, self.zip_area, self.zip_file],
            api_name="zip",
            **shown,
            **WORK,
        )
        push_button.click(
            self.on_push, [repository, visibility, disclosure, license, which], self.status, api_name="push", **shown, **UPLOAD
        )

    # ---- Events ----

    def on_card(self, repository: str, disclosure: str, license: str, which: str, request: gr.Request) -> Updates:
        """The card of your model, as it would be pushed."""
        try:
            text, preview = self.bench.card(page_of(request), repository, disclosure, {"license": license}, WHICH.get(which))
        except Exception as error:  # as in follow()
            return {self.status: failure(error)}
        message = render.note("This is what would be pushed. Nothing has left this machine.", "done")
        return {self.status: message, self.text: text, self.preview: render.card_body(preview)}

    def on_zip(self, disclosure: str, license: str, which: str, request: gr.Request) -> Iterator[Updates]:
        """Your model's folder with its card, as a zip."""

        def done(status: Any) -> Updates:
            ready = render.note("The zip is ready.", "done")
            return {self.status: ready, self.zip_area: gr.update(visible=True), self.zip_file: str(status.result)}

        yield from follow(
            lambda: self.bench.zip(page_of(request), disclosure, {"license": license}, WHICH.get(which)), self.status, done
        )

    def on_push(
        self, repository: str, visibility: str, disclosure: str, license: str, which: str, request: gr.Request,
        token: gr.OAuthToken | None = None,
    ) -> Iterator[Updates]:  # fmt: skip
        """Push your model with its card, in your own name."""
        secret = token.token if token is not None else own_token(request)
        yield from follow(
            lambda: self.bench.push(
                page_of(request), repository, visibility, disclosure, {"license": license}, secret, WHICH.get(which)
            ),
            self.status,
            lambda status: {self.status: render.pushed(status.result)},
        )


def own_token(request: gr.Request) -> str | None:
    """On a computer of one's own, what `hf auth login` stored there; on a Space, or for visitors over a network, nothing."""
    if ON_SPACE or request.client is None or request.client.host not in ("127.0.0.1", "::1"):
        return None
    from huggingface_hub import get_token

    return get_token()
