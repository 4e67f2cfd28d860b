"""The Space: its tabs in one page. Each tab is a file; what they do is in logic.py, and how pieces of them look in render.py.

make space                       # or: python spaces_demo/app.py
"""

from __future__ import annotations

import signal
import sys
import threading
import types
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

from spaces_demo import render  # noqa: E402
from spaces_demo.events import HIDDEN, Updates, page_of  # noqa: E402
from spaces_demo.logic import Workbench  # noqa: E402
from spaces_demo.tab_classifier import ClassifierTab  # noqa: E402
from spaces_demo.tab_compare import CompareTab  # noqa: E402
from spaces_demo.tab_erase import EraseTab  # noqa: E402
from spaces_demo.tab_language import LanguageTab  # noqa: E402
from spaces_demo.tab_publish import PublishTab  # noqa: E402
from spaces_demo.tasks import import_libraries  # noqa: E402


MOST_WAITING = 32
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

bench = Workbench()


def on_return(handle: str | None, request: gr.Request) -> Updates:
    """Signing in loads the page anew: give the visitor the model back that was made before."""
    concepts = bench.come_back(page_of(request), handle)
    if concepts is None:
        return {publish.status: gr.skip()}
    text = f"Welcome back: your model without “{', '.join(concepts)}” is still here."
    return {publish.status: render.note(text, "done"), compare.status: render.note(text, "done")}


def on_leave(request: gr.Request) -> None:
    bench.sessions.leave(page_of(request))


with gr.Blocks(title="Scissorhands: make a model forget", analytics_enabled=False, delete_cache=(600, 3600)) as demo:
    gr.HTML(render.HEADER)
    handle = gr.BrowserState(None, storage_key="scissorhands")
    with gr.Tabs(overflow_behavior="wrap"):
        erase = EraseTab(bench, handle)
        compare = CompareTab(bench)
        ClassifierTab(bench)
        LanguageTab(bench, handle)
        publish = PublishTab(bench)
    demo.load(on_return, handle, [publish.status, compare.status], concurrency_limit=None, **HIDDEN)
    demo.load(erase.on_load, None, erase.recipe, concurrency_limit=None, **HIDDEN)
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
