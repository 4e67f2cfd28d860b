"""What the tabs share: who asks, how a run is followed on the page, and how its buttons and queues behave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from spaces_demo import limits, render
from spaces_demo.logic import Workbench, explain


DEFAULT = "default"
WORK = {"concurrency_limit": 1, "concurrency_id": "work", "show_progress": "minimal"}  # one worker: see jobs.py
UPLOAD = {"concurrency_limit": 2, "concurrency_id": "upload", "show_progress": "minimal"}
HIDDEN = {"api_visibility": "private", "show_progress": "hidden"}
Updates = dict[Any, Any]


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


def failure(error: BaseException) -> str:
    return render.note(explain(error), "warning" if isinstance(error, limits.CancelledError) else "error")


def optional_number(label: str, info: str, elem_id: str) -> gr.Textbox:
    """A number that may be left out. Not a `gr.Number`: an empty one says 0 once the browser has shown it (gradio 6.31)."""
    return gr.Textbox(label=label, info=info, placeholder=DEFAULT, max_length=20, min_width=90, elem_id=elem_id)


class Runs:
    """
    Runs of a tab that wait for their turn, can be cancelled from the first moment on, and are not started twice.

    Args:
        bench: whose runs they are.
        status: where the tab says how far it is.
        buttons: those that start a run; none of them can be pressed while one is at work.
        cancel: the button that stops it; seen only then.
    """

    def __init__(self, bench: Workbench, status: gr.HTML, buttons: Sequence[gr.Button], cancel: gr.Button):
        self.bench, self.status, self.buttons, self.cancel = bench, status, list(buttons), cancel

    def on(self, triggers: Sequence[Any], function: Callable, inputs: Any, outputs: Any, api_name: str) -> Any:
        """Wire a run to what starts it; what is chained to the result comes after the run, however it ended."""
        waiting, controls = [self.status, self.cancel, *self.buttons], [self.cancel, *self.buttons]
        started = gr.on(triggers, self.on_wait, None, waiting, queue=False, **HIDDEN)
        done = started.then(function, inputs, outputs, api_name=api_name, show_progress_on=self.status, **WORK)
        return done.then(self.on_end, None, controls, queue=False, **HIDDEN)

    def on_wait(self, request: gr.Request) -> tuple[Any, ...]:
        """At once after a click, while the run waits for its turn."""
        self.bench.expect(page_of(request))
        resting = [gr.update(interactive=False) for _ in self.buttons]
        return render.note("Waiting for the worker …"), gr.update(visible=True), *resting

    def on_end(self) -> tuple[Any, ...]:
        """However the run ended."""
        return gr.update(visible=False), *[gr.update(interactive=True) for _ in self.buttons]

    def on_cancel(self, request: gr.Request) -> str:
        """Stop what you started; the model stays as it was."""
        stopped = self.bench.cancel(page_of(request))
        return render.note("Cancelling: it stops at the next step." if stopped else "Nothing of yours is running.", "warning")

    def cancel_by(self, **options: Any) -> None:
        """Wire the button that stops; options are those of the event."""
        self.cancel.click(self.on_cancel, None, self.status, queue=False, **options)
