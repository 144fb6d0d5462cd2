"""The demo: its images are the sampler's, its limits hold for every request, and its server gives away nothing else."""

import base64
import http.client
import io
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from distillkac import checkpoints, demo, distill, plots, train
from distillkac.demo import Demo
from distillkac.sampling import SamplerConfig, class_labels, generate, open_run

TINY = ["--network.channels", "8", "--network.head-dim", "8", "--optim.batch-size", "16"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A telegraph teacher with a student of 2 steps, and a planar teacher."""
    folders = tuple(tmp_path_factory.mktemp("runs") / process for process in ("telegraph", "planar"))
    for folder in folders:
        assert train.main(["--run", str(folder), "--process", folder.name, "--steps", "6", *TINY]) == 0
    assert distill.main([str(folders[0]), "--stages", "4,2", "--steps", "3", "--optim.batch-size", "16"]) == 0
    return folders


@pytest.fixture(scope="module")
def served(runs, tmp_path_factory):
    """A running page and the folder into which gradio would write files."""
    pytest.importorskip("gradio")
    from distillkac import demo_page

    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(cache))
        page = demo_page.serve(Demo(runs, CPU))
        yield page, cache
        page.close(verbose=False)


@pytest.fixture
def client(served):
    return pytest.importorskip("gradio_client").Client(served[0].local_url, verbose=False)


def direct(folder, steps, num, seed, classes=(), **options):
    run = open_run(folder, CPU)
    return generate(run, class_labels(run.config, num, classes), SamplerConfig(steps, **options), seed, path=True)


def pictures(page):
    """The frames of each card of an answer, as arrays."""
    cards = re.findall(r"<figure.*?</figure>", page)
    found = [re.findall(r'src="data:image/png;base64,([^"]+)"', card) for card in cards]
    return [[np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in card] for card in found]


def test_choices_are_what_the_sampler_gives(runs):
    answers = Demo(runs, CPU).generate("telegraph", [100, 2, 4], classes=["3", "7"], num=5, seed="8")
    expected = [(2, "student-2", 2, 3), (4, "teacher", 4, 5), (100, "teacher", 100, 21)]
    assert [(a.steps, a.network, a.nfe, len(a.frames)) for a in answers] == expected
    for answer in answers:
        folder = runs[0] / "student-2" if answer.steps == 2 else runs[0]
        samples = direct(folder, answer.steps, 5, 8, ("3", "7"))
        assert answer.frames[0] == plots.grid_image(samples.path[0], 3)
        assert answer.frames[-1] == plots.grid_image(samples.images, 3)
        assert answer.times[0] == 1
        assert answer.times[-1] == 0
        assert answer.seconds > 0
    assert answers[2].frames[1] == plots.grid_image(samples.path[5], 3)  # every fifth of a hundred


def test_a_choice_that_cannot_be_says_so_and_the_others_are_made(runs):
    student, teacher = Demo(runs, CPU).generate("telegraph", [2, 4], w="2")
    assert student.error.startswith("telegraph/student-2 was distilled with w = 0.0 folded in")
    assert (student.frames, teacher.nfe, teacher.error) == ((), 8, "")
    missing = Demo(runs, CPU).generate("planar", [2], model="student")[0].error
    assert missing.startswith("planar has no student for 2 steps")
    assert str(runs[1].parent) not in student.error + missing


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


def test_mistakes_are_told_in_a_sentence(runs):
    made = Demo(runs, CPU)
    for change, sentence in MISTAKES:
        with pytest.raises(ValueError, match=re.escape(sentence)) as told:
            made.generate(**GOOD | change)
        assert len(str(told.value)) < 200


def test_mistakes_are_told_by_the_server(client, capfd):
    from html import unescape

    for change, sentence in MISTAKES:
        if any(isinstance(value, dict) for value in change.values()):
            continue  # refused earlier: test_a_file_or_address_named_in_a_request_is_left_alone
        page, _ = client.predict(*(GOOD | change).values(), api_name="/generate")
        assert sentence in unescape(page)
        assert 'role="alert"' in page
    assert "Traceback" not in capfd.readouterr().err


def test_large_images_are_fewer_with_fewer_frames(runs, monkeypatch):
    monkeypatch.setattr(demo, "MAX_VALUES", 64 * 9)
    monkeypatch.setattr(demo, "FRAME_VALUES", 64 * 9 * 2 * 7)
    made = Demo(runs, CPU)
    assert made.max_images("planar") == 9
    assert [len(a.frames) for a in made.generate("planar", [4, 20], num=9)] == [5, 7]
    with pytest.raises(ValueError, match="from 1 to 9"):
        made.generate("planar", [1], num=10)


def test_runs_of_one_process_are_told_apart(runs):
    assert list(Demo((runs[0], runs[0] / "student-2"), CPU).runs) == ["telegraph (telegraph)", "telegraph (student-2)"]
    assert len(Demo((runs[0], runs[0]), CPU).runs) == 2


def test_networks_are_loaded_once(runs, monkeypatch):
    opened = []
    monkeypatch.setattr(demo, "open_run", lambda folder, device: opened.append(folder) or open_run(folder, device))
    made = Demo(runs, CPU)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: made.generate("telegraph", [1, 2], num=1, seed=seed), range(8)))
    assert sorted(opened) == sorted([*runs, runs[0] / "student-2"])


def test_two_users_get_their_own_images(served, runs):
    """At the same time, several times; to the bit those of a direct call."""
    Client = pytest.importorskip("gradio_client").Client
    start = threading.Barrier(2)

    def user(first):
        mine = Client(served[0].local_url, verbose=False)
        start.wait()
        return [
            mine.predict(*(GOOD | {"steps": [2, 4], "num": 4, "seed": seed}).values(), api_name="/generate")[0]
            for seed in range(first, first + 10, 2)
        ]

    with ThreadPoolExecutor(2) as pool:
        users = list(pool.map(user, (0, 1)))
    for first, answers in enumerate(users):
        for seed, page in zip(range(first, first + 10, 2), answers, strict=True):
            student, teacher = pictures(page)
            expected = [direct(runs[0] / "student-2", 2, 4, seed).path, direct(runs[0], 4, 4, seed).path]
            for frames, path in zip((student, teacher), expected, strict=True):
                assert len(frames) == len(path)
                assert all((a == np.asarray(plots.grid_image(b, 2))).all() for a, b in zip(frames, path, strict=True))
    assert users[0] != users[1]


def test_nothing_is_written_and_the_page_knows_no_path(served, client, runs):
    page, cache = served
    client.predict(*GOOD.values(), api_name="/generate")
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    for address in ("/", "/config", "/gradio_api/info"):
        status, body = fetch(page, "GET", address)
        assert status == 200
        assert str(runs[0].parent).encode() not in body


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


def test_no_file_can_be_reached(served, runs):
    weights = runs[0] / checkpoints.EMA
    relative = os.path.relpath(weights)
    up = "../" * 12
    for target in (
        weights,
        relative,
        "/etc/passwd",
        f"{up}etc/passwd",
        "pyproject.toml",
        up.replace("/", "%2f") + "etc%2fpasswd",
    ):
        for prefix in ("file=", "file/", "static/", "assets/", "svelte/", "custom_component/", "proxy=", "stream/"):
            for root in ("/", "/gradio_api/", "//", "/gradio_api//", "/gradio_api/gradio_api/"):
                status, body = fetch(served[0], "GET", f"{root}{prefix}{target}")
                assert status >= 400, (root, prefix, target)
                assert b"root:" not in body
                assert len(body) < 1000
    for address in ("upload", "component_server", "stream/x", "run-history/connect", "run/generate", "call/generate"):
        assert fetch(served[0], "POST", f"/gradio_api/{address}", json.dumps({"data": []}))[0] == 404
    for address in ("/monitoring", "/monitoring/summary", "/gradio_api/run-history/buckets", "/gradio_api/dev/reload"):
        assert fetch(served[0], "GET", address)[0] == 404


def test_bodies_and_hosts_are_limited(served):
    join = "/gradio_api/queue/join"
    assert fetch(served[0], "POST", join, json.dumps({"data": "x" * 70_000}))[0] == 413
    chunks = (b"1" * 1000 for _ in range(100))
    assert fetch(served[0], "POST", join, chunks)[0] == 413
    for body in ("", "{", "[]", '{"data": []}', "[" * 60_000, '{"data": 1, "fn_index": 0, "session_hash": "x"}'):
        assert fetch(served[0], "POST", join, body)[0] == 400
    for index in (99, -1):
        assert (
            fetch(served[0], "POST", join, json.dumps({"data": [], "fn_index": index, "session_hash": "x"}))[0] >= 400
        )
    assert fetch(served[0], "GET", "/config", Host="elsewhere.example")[0] == 400


def test_only_this_machine_is_served(served):
    """127.0.0.2 is this machine too, but not the address that was bound: all of them would answer to 0.0.0.0."""
    socket.create_connection(("127.0.0.1", served[0].server_port), timeout=10).close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", served[0].server_port), timeout=10)


def join(page, session, **change):
    body = {"data": list((GOOD | change).values()), "fn_index": 0, "session_hash": session}
    return fetch(page, "POST", "/gradio_api/queue/join", json.dumps(body))[0]


def test_queue_and_unread_answers_are_bounded(runs):
    pytest.importorskip("gradio")
    from distillkac import demo_page

    go = threading.Event()

    class Held(Demo):
        def generate(self, *request):
            assert go.wait(60)
            return super().generate(*request)

    page = demo_page.serve(Held(runs, CPU))
    try:
        statuses = [join(page, f"user-{i}") for i in range(demo_page.WAITING + 10)]
        taken = statuses.count(200)
        assert demo_page.WAITING <= taken <= demo_page.WAITING + 2  # one or two were begun at once
        assert set(statuses[taken:]) == {503}
        go.set()
        for i in range(3 * demo_page.UNREAD):  # nobody fetches these
            while join(page, f"gone-{i}", seed="none") == 503:
                time.sleep(0.01)
        assert len(page._queue.pending_messages_per_session) <= demo_page.UNREAD
    finally:
        go.set()
        page.close(verbose=False)


def test_a_file_or_address_named_in_a_request_is_left_alone(served, runs):
    """gradio would copy the file, or fetch the address, before any widget's check."""
    page, cache = served
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.1)
        address = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/x.png"
        for path in ("/etc/passwd", str(runs[0] / checkpoints.EMA), "pyproject.toml", address):
            file = {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}
            for change in (
                {"seed": file},
                {"classes": [file]},
                {"classes": [[file]]},
                {"run": file},
                {"steps": [file]},
            ):
                assert join(page, "files", **change) == 400
        with pytest.raises(TimeoutError):
            elsewhere.accept()
    twice = b'{"fn_index": 0, "session_hash": "x", "data": ["telegraph"], "data": [{"path": "/etc/passwd"}]}'
    assert fetch(page, "POST", "/gradio_api/queue/join", twice)[0] == 400
    assert [path for path in cache.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "name at least one run folder"),
        (["TMP"], "is no run folder"),
        (["RUN", "TMP"], "is no run folder"),
        (["RUN", "--port", "0"], "--port must lie in 1 .. 65535, got 0"),
        (["RUN", "--share"], "--share"),
    ],
)
def test_mistakes_on_the_command_line(runs, tmp_path, capsys, argv, sentence):
    argv = [word.replace("RUN", str(runs[0])).replace("TMP", str(tmp_path)) for word in argv]
    try:
        code = demo.main(argv)
    except SystemExit as stop:
        code = stop.code
    streams = capsys.readouterr()
    assert code not in (0, None)
    assert sentence in streams.err + streams.out
    assert "Traceback" not in streams.err


def test_without_gradio_the_extra_is_named(runs, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert demo.main([str(runs[0])]) == 1
    assert capsys.readouterr().err == "error: the demo page needs gradio: pip install 'distillkac[demo]'\n"


def test_a_taken_port_is_named(runs, served, capsys):
    assert demo.main([str(runs[0]), "--port", str(served[0].server_port)]) == 1
    error = capsys.readouterr().err
    assert str(served[0].server_port) in error
    assert "Traceback" not in error


SERVER = """
import socket, sys
from distillkac import demo

connect = socket.socket.connect
def watched(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1"):
        print("NETWORK", address, flush=True)
    return connect(self, address)
look_up = socket.getaddrinfo
def watched_look_up(host, *rest, **more):
    if host not in ("127.0.0.1", "localhost"):
        print("NETWORK", host, flush=True)
    return look_up(host, *rest, **more)
socket.socket.connect, socket.getaddrinfo = watched, watched_look_up
sys.exit(demo.main(sys.argv[1:]))
"""


@pytest.fixture
def command(runs):
    """The command in a process of its own, which tells of every connection it opens: (process, port)."""
    pytest.importorskip("gradio")
    argv = [sys.executable, "-c", textwrap.dedent(SERVER), *map(str, runs)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    line = process.stdout.readline()
    found = re.fullmatch(r"telegraph, planar: http://127\.0\.0\.1:(\d+)/ \(Ctrl-C stops it\)\n", line)
    try:
        assert found, line + process.stdout.read()
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()


def test_the_command_serves_until_ctrl_c_and_calls_nobody(command):
    process, port = command
    assert b"distillkac" in fetch(port, "GET", "/")[1]
    assert ask(port, seed=3) == "picture"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "NETWORK" not in out
    assert "Traceback" not in out


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
    return "sentence" if 'role="alert"' in page else "picture" if pictures(page)[0] else page


def resident_mb(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads memory from /proc")
def test_ten_thousand_requests(command):
    """From four clients at once, one in five of them a mistake, and now and then one who never fetches the answer."""
    process, port = command

    def one(i):
        if i % 50 == 7:
            return "abandoned" if join(port, secrets.token_hex(8), seed=i) == 200 else "refused"
        if i % 5 == 0:
            change, _ = MISTAKES[i // 5 % len(MISTAKES)]
            return ask(port, **change)
        return ask(port, seed=i, num=1 + i % 16, run=("telegraph", "planar")[i % 2], steps=[1 + i % 2])

    memory, outcomes = [], []
    with ThreadPoolExecutor(4) as pool:
        for first in range(0, 10_000, 1000):
            outcomes += pool.map(one, range(first, first + 1000))
            memory.append(resident_mb(process.pid))
    print("resident MB after each thousand:", *(f"{mb:.0f}" for mb in memory))
    counts = {outcome: outcomes.count(outcome) for outcome in set(outcomes)}
    assert counts == {"picture": 7800, "sentence": 2000, "abandoned": 200}
    assert memory[-1] - memory[0] < 60
    assert process.poll() is None
