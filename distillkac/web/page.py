"""The page of demo.py: gradio's widgets in front of a `Demo`, and the checks of what the server answers.

Pictures travel inside the answers, so that no file is written or served; what a browser sends is checked by `Demo`
alone; every address the page does not need answers 404.
"""

import asyncio
import base64
import html
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from distillkac.base import optional
from distillkac.web.engine import MAX_W, MODELS, Choice, Demo

WAITING = 32  # requests in the queue; more are told to come later
UNREAD = 128  # sessions whose answers are kept until their browser fetches them
MAX_BODY = 64 * 1024  # bytes of a request: a filled-in form has about one thousand
# First parts of the addresses served: those of the page, and those of its requests. Not among them are gradio's file,
# upload, proxy, stream, call, component_server, monitoring and run-history.
PAGE = {"assets", "static", "svelte", "config", "theme.css", "favicon.ico", "robots.txt", "manifest.json"}
REQUESTS = {"queue", "info", "heartbeat", "startup-events", "login_check"}
CSS = """
.kac-cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 1rem }
.kac-card { margin: 0; padding: .8rem; border: 1px solid var(--border-color-primary); border-radius: 10px;
  background: var(--background-fill-primary) }
.kac-card { max-width: 26rem }
.kac-head { display: flex; justify-content: space-between; align-items: baseline; gap: .5rem }
.kac-head b { font-size: 1.1rem } .kac-card .kac-note { color: var(--body-text-color-subdued); font-size: .85rem }
.kac-note { display: flex; justify-content: space-between; font-variant-numeric: tabular-nums }
.kac-card img { width: 100%; image-rendering: pixelated; border-radius: 4px; margin: .5rem 0 }
.kac-error { color: var(--error-text-color); margin: .6rem 0 0 }
.kac-error[role]::first-letter { text-transform: uppercase }
.kac-empty { color: var(--body-text-color-subdued) }
"""
# In the browser: nothing is asked of the server.
SCRUB = """position => {
  for (const card of document.querySelectorAll('.kac-card')) {
    const frames = card.querySelectorAll('img'), shown = Math.round(position * (frames.length - 1));
    frames.forEach((frame, i) => { frame.hidden = i !== shown });
    if (frames.length) card.querySelector('.kac-time').textContent = frames[shown].alt;
  }
}"""
EMPTY = '<p class="kac-empty">Choose and press <b>Generate</b>: each number of steps gets a card here.</p>'


def _gradio():
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing is sent anywhere, not even while it is imported
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "100"  # it makes a table of all it remembers after each request
    return optional.load("gradio", "the demo page")


def build(demo: Demo):
    """The page as gradio Blocks, not yet served. Raises ValueError if gradio is not installed."""
    gr = _gradio()

    # One thread for all requests: each new one would keep memory, and a team of OpenMP threads, of its own.
    worker = ThreadPoolExecutor(1, thread_name_prefix="sample")

    def answer(request: tuple) -> tuple[str, float]:
        try:
            return cards(demo.generate(*request)), 1.0
        except ValueError as error:
            return f'<p class="kac-error" role="alert">{html.escape(str(error))}</p>', 1.0

    async def sample(*request):
        return await asyncio.get_running_loop().run_in_executor(worker, answer, request)

    with gr.Blocks(title="distillkac", analytics_enabled=False, fill_width=True) as page:
        gr.Markdown("# distillkac\nThe same noise carried to images in few steps and in many.")
        with gr.Row():
            with gr.Column(scale=1, min_width=380):
                inputs, button, typed = _form(gr, demo)
            with gr.Column(scale=3):
                results = gr.HTML(EMPTY, elem_id="results")
                scrubber = gr.Slider(
                    0, 1, 1, step=0.01, label="From noise (0) to image (1)", elem_id="scrubber", buttons=[]
                )
        # preprocess=False: gradio's own checks would stand in front of those of Demo, and look into file names.
        gr.on(
            [button.click, *(field.submit for field in typed), *([page.load] if demo.shipped else [])],
            sample,
            inputs,
            [results, scrubber],
            api_name="generate",
            preprocess=False,
            show_progress_on=[results],
            concurrency_limit=1,
        )
        scrubber.change(None, scrubber, None, js=SCRUB)
    page.queue(max_size=WAITING, api_open=False)
    unread = page._queue.pending_messages_per_session
    page._queue.pending_messages_per_session = type(unread)(UNREAD)  # gradio's 2000 could hold gigabytes
    page._queue.pending_event_ids_session = Pending()
    return page


def _form(gr, demo: Demo) -> tuple[list, Any, list]:
    """(the widgets in the order of `Demo.generate`'s arguments, the button, the fields that Enter sends off)."""
    titles = list(demo.runs)
    most = max(map(demo.max_images, titles))
    run = gr.Radio(titles, value=titles[0], label="Model" if demo.shipped else "Process")
    steps = gr.CheckboxGroup(list(demo.steps), value=[n for n in (1, 4, 20) if n in demo.steps], label="Steps")
    model = gr.Radio(
        list(MODELS), value="auto", label="Network", info="auto: the student of so many steps, or the teacher"
    )
    w = gr.Textbox(
        label="Guidance w",
        info=f"0 (none) to {MAX_W:g}",
        placeholder="what each network was made for",
        max_lines=1,
    )
    classes = gr.Dropdown(demo.class_names, multiselect=True, label="Classes", info="None chosen: all")
    num = gr.Slider(1, most, min(16, most), step=1, label="Images")
    seed = gr.Textbox("0", label="Seed", max_lines=1)
    button = gr.Button("Generate", variant="primary")
    return [run, steps, w, classes, num, seed, model], button, [seed, w]


class Pending(dict):
    """gradio's sets of unfinished events by session, of which it removes none: where there are many, the empty ones go."""

    def __setitem__(self, session: str, events: set[str]):
        if len(self) >= UNREAD:
            for idle in [key for key, waiting in self.items() if not waiting]:
                del self[idle]
        super().__setitem__(session, events)


def serve(demo: Demo, host: str = "127.0.0.1", port: int | None = None):
    """Starts serving in a thread of its own; returns gradio's Blocks, with `local_url`, `block_thread()`, `close()`.

    port: None takes the first free one from 7860. Raises ValueError if gradio is missing, OSError if no port is free.
    """
    page = build(demo)
    gr = _gradio()
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    gates = [Middleware(Gate)]
    if is_loopback(host):  # else a page elsewhere could point a name of its own at this machine and read the answers
        gates.append(Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"]))
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        theme=gr.themes.Default(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        css=CSS,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        num_workers=0,
        state_session_capacity=UNREAD,
        max_file_size=1,
        app_kwargs={"middleware": gates},
    )
    return page


def is_loopback(host: str) -> bool:
    return host in ("127.0.0.1", "localhost")


def cards(choices: list[Choice]) -> str:
    """The HTML of the answers: a card for each, its frames on top of each other with the last one shown."""
    return f'<div class="kac-cards">{"".join(map(_card, choices))}</div>'


def _card(choice: Choice) -> str:
    head = f"<b>{choice.steps} step{'s' if choice.steps > 1 else ''}</b><span>{html.escape(choice.network)}</span>"
    if choice.error:
        body = f'<p class="kac-error">{html.escape(choice.error)}</p>'
    else:
        last = len(choice.frames) - 1
        images = "".join(
            f'<img src="{_data_uri(frame)}" alt="t = {t:.2f}"{"" if i == last else " hidden"}>'
            for i, (frame, t) in enumerate(zip(choice.frames, choice.times, strict=True))
        )
        cost = f"<span>NFE {choice.nfe}, {choice.seconds:.3f} s</span>"
        body = f'{images}<div class="kac-note">{cost}<span class="kac-time">t = 0.00</span></div>'
    return f'<figure class="kac-card"><figcaption class="kac-head">{head}</figcaption>{body}</figure>'


def _data_uri(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


class Gate:
    """ASGI middleware: 404 for every address that is not of PAGE or REQUESTS, and plain values alone in a request."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"].removeprefix("/gradio_api")
        if scope["method"] == "POST" and path == "/queue/join":
            return await self.join(scope, receive, send)
        known = path == "/" or path.partition("/")[2].partition("/")[0] in PAGE | REQUESTS
        if not known or scope["method"] not in ("GET", "HEAD"):
            return await _refuse(404, "not served", scope, receive, send)
        return await self.app(scope, receive, send)

    async def join(self, scope, receive, send):
        """Passes on what was checked, written anew, so that no other reading of the body is possible."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > MAX_BODY:
                return await _refuse(413, f"a request has at most {MAX_BODY} bytes", scope, receive, send)
        try:
            checked = _checked(json.loads(body))
        except (ValueError, RecursionError):
            text = "a request holds data (texts, numbers and lists of them), fn_index and session_hash"
            return await _refuse(400, text, scope, receive, send)
        whole = iter([{"type": "http.request", "body": json.dumps(checked).encode(), "more_body": False}])

        async def replay():
            return next(whole, None) or await receive()

        return await self.app(scope, replay, send)


def _checked(request) -> dict:
    """What a page sends to have images made. Raises ValueError if anything else is in it.

    gradio looks for descriptions of files in the data and fetches the addresses they name, whatever the widget.
    """
    request = request if isinstance(request, dict) else {}
    data, index, session = (request.get(name) for name in ("data", "fn_index", "session_hash"))
    if not isinstance(data, list):
        raise ValueError("data")
    for value in data:
        if not all(isinstance(item, (str, int, float, type(None))) for item in _as_list(value)):
            raise ValueError("data")
    if not (isinstance(index, int) and isinstance(session, str) and len(session) <= 100):
        raise ValueError("fn_index or session_hash")
    return {"data": data, "fn_index": index, "session_hash": session}


def _as_list(value) -> list:
    return value if isinstance(value, list) else [value]


async def _refuse(status: int, text: str, scope, receive, send) -> None:
    from starlette.responses import PlainTextResponse

    await PlainTextResponse(text, status)(scope, receive, send)
