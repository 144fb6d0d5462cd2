"""Shared by the tests of the demo page: tiny runs, requests good and bad, and a client that sends them as they are."""

import base64
import http.client
import io
import json
import re
import secrets
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from distillkac import distill, train
from distillkac.runs.run import open_run
from distillkac.runs.sampling import SamplerConfig, class_labels, generate
from tests.toys import TINY_OPTIONS

CPU = torch.device("cpu")
TINY = [*TINY_OPTIONS, "--preview", "0", "--optim.batch-size", "16"]


def tiny_runs(folder: Path) -> tuple[Path, Path]:
    """A telegraph teacher with a student of 2 steps, and a planar teacher."""
    runs = folder / "telegraph", folder / "planar"
    for run in runs:
        assert train.main(["--run", str(run), "--process", run.name, "--steps", "6", *TINY]) == 0
    assert distill.main([str(runs[0]), "--stages", "4,2", "--steps", "3", "--optim.batch-size", "16"]) == 0
    return runs


MISTAKES = [
    ({"run": "gaussian"}, "run must be one of telegraph, planar, got 'gaussian'"),
    ({"run": "../planar"}, "run must be one of"),
    ({"run": ["planar"]}, "run must be one of"),
    ({"steps": []}, "choose at least one number of steps"),
    ({"steps": [3]}, "steps must be some of 1, 2, 4, 20, 100, got 3"),
    ({"steps": [1, 10**9]}, "steps must be some of"),
    ({"steps": ["1"]}, "steps must be some of"),
    ({"steps": None}, "choose at least one"),
    ({"w": "much"}, "guidance w must be a number from 0 to 16, got 'much'"),
    ({"w": "nan"}, "guidance w must be a number"),
    ({"w": -1}, "guidance w must be a number"),
    ({"w": "16.1"}, "guidance w must be a number"),
    ({"w": [1]}, "guidance w must be a number"),
    ({"classes": ["cat"]}, "class 'cat' is unknown; the 10 classes are 0, 1"),
    ({"classes": ["0"] * 11}, "classes must be a list of names"),
    ({"classes": "0"}, "classes must be a list of names"),
    ({"num": 0}, "the number of images must be a whole number from 1 to 64, got 0"),
    ({"num": 65}, "the number of images must be"),
    ({"num": 2.5}, "the number of images must be"),
    ({"num": True}, "the number of images must be"),
    ({"num": "1e1"}, "the number of images must be"),
    ({"seed": "zero"}, "seed must be a whole number from 0 to 4294967295, got 'zero'"),
    ({"seed": ""}, "seed must be a whole number"),
    ({"seed": -1}, "seed must be a whole number"),
    ({"seed": "9" * 5000}, "seed must be a whole number"),
    ({"seed": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}}, "seed must be a whole number"),
    ({"model": "best"}, "network must be one of auto, teacher, student, got 'best'"),
    ({"model": {}}, "network must be one of"),
]
GOOD = {"run": "telegraph", "steps": [1], "w": None, "classes": [], "num": 1, "seed": 0, "model": "auto"}


def direct(folder, steps, num, seed, classes=(), **options):
    run = open_run(folder, CPU)
    return generate(run, class_labels(run.config, num, classes), SamplerConfig(steps, **options), seed, path=True)


def pictures_of(page):
    """The frames of each card of an answer, as arrays."""
    cards = re.findall(r"<figure.*?</figure>", page)
    found = [re.findall(r'src="data:image/png;base64,([^"]+)"', card) for card in cards]
    return [[np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in card] for card in found]


def fetch(page, method, address, body=None, **headers):
    """One request, its address sent as it is."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", page if isinstance(page, int) else page.server_port, timeout=60
    )
    try:
        connection.request(method, address, body, {"Content-Type": "application/json"} | headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def join(page, session, **change):
    body = {"data": list((GOOD | change).values()), "fn_index": 0, "session_hash": session}
    return fetch(page, "POST", "/gradio_api/queue/join", json.dumps(body))[0]


def ask(port, **change):
    """A whole request as a browser makes it: "picture", "sentence", or what else came."""
    session = secrets.token_hex(8)
    if (status := join(port, session, **change)) != 200:
        return f"status {status}"
    answer = fetch(port, "GET", f"/gradio_api/queue/data?session_hash={session}")[1].decode()
    messages = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: ")]
    done = [message for message in messages if message["msg"] == "process_completed"]
    if len(done) != 1 or not done[0]["success"]:
        return answer
    page = done[0]["output"]["data"][0]
    return "sentence" if 'role="alert"' in page else "picture" if pictures_of(page)[0] else page
