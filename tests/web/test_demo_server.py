"""The demo's server: limits hold for every request, users do not meet, and nothing but the page is given away."""

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
from html import unescape

import numpy as np
import pytest

from distillkac import demo
from distillkac.runs import checkpoints, pictures
from distillkac.web.engine import Demo
from tests.web.demo_tools import CPU, GOOD, MISTAKES, ask, direct, fetch, join, pictures_of

pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def served(runs, tmp_path_factory):
    """A running page and the folder into which gradio would write files."""
    from distillkac.web import page as demo_page

    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(cache))
        page = demo_page.serve(Demo(runs, CPU))
        yield page, cache
        page.close(verbose=False)


@pytest.fixture
def client(served):
    return pytest.importorskip("gradio_client").Client(served[0].local_url, verbose=False)


def test_mistakes_are_told_by_the_server(client, capfd):
    for change, sentence in MISTAKES:
        if any(isinstance(value, dict) for value in change.values()):
            continue  # refused earlier: test_a_file_or_address_named_in_a_request_is_left_alone
        page, _ = client.predict(*(GOOD | change).values(), api_name="/generate")
        assert sentence in unescape(page)
        assert 'role="alert"' in page
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.one_alignment
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
            student, teacher = pictures_of(page)
            expected = [direct(runs[0] / "student-2", 2, 4, seed).path, direct(runs[0], 4, 4, seed).path]
            for frames, path in zip((student, teacher), expected, strict=True):
                assert len(frames) == len(path)
                assert all(
                    (a == np.asarray(pictures.grid_image(b, 2))).all() for a, b in zip(frames, path, strict=True)
                )
    assert users[0] != users[1]


def test_nothing_is_written_and_the_page_knows_no_path(served, client, runs):
    page, cache = served
    client.predict(*GOOD.values(), api_name="/generate")
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    for address in ("/", "/config", "/gradio_api/info"):
        status, body = fetch(page, "GET", address)
        assert status == 200
        assert str(runs[0].parent).encode() not in body


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


def test_queue_and_unread_answers_are_bounded(runs):
    from distillkac.web import page as demo_page

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
        assert len(page._queue.pending_event_ids_session) >= demo_page.UNREAD, "sessions that still wait were dropped"
        # Sessions that have their answers leave nothing behind.
        for waiting in page._queue.pending_event_ids_session.values():
            waiting.clear()
        for i in range(2 * demo_page.UNREAD):
            page._queue.pending_event_ids_session[f"done-{i}"] = set()
        assert len(page._queue.pending_event_ids_session) <= demo_page.UNREAD
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


def test_a_taken_port_is_named(runs, served, capsys):
    assert demo.main([str(runs[0]), "--port", str(served[0].server_port)]) == 1
    error = capsys.readouterr().err
    assert str(served[0].server_port) in error
    assert "Traceback" not in error


SERVER = """
import signal, socket, sys
from distillkac import demo

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
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


def resident_mb(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
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
            print(f"{first + 1000} requests: {memory[-1]:.0f} MB resident", flush=True)
    counts = {outcome: outcomes.count(outcome) for outcome in set(outcomes)}
    objects = [any(isinstance(value, dict) for value in change.values()) for change, _ in MISTAKES]
    refused = sum(objects[i % len(objects)] for i in range(2000))  # by the gate, before anything reads them
    assert counts == {"picture": 7800, "sentence": 2000 - refused, "status 400": refused, "abandoned": 200}
    assert memory[-1] - memory[0] < 10
    assert process.poll() is None
