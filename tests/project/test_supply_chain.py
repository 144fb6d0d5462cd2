"""Nothing of the package runs code that it reads from a file, and importing it opens no connection."""

import ast
import subprocess
import sys

import pytest

from tests.places import PACKAGE

FORBIDDEN = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "dill.load",
    "dill.loads",
    "joblib.load",
    "marshal.loads",
    "yaml.load",
    "yaml.unsafe_load",
    "torch.hub.load",
}
RESTRICTED = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}


def findings(source: str) -> list[str]:
    """Calls in Python source that can run code from data: by name, with the line."""
    found, tree = [], ast.parse(source)
    origins = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            origins |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            origins |= {alias.asname: alias.name for alias in node.names if alias.asname}
    origins |= {name: "np" for name, origin in origins.items() if origin == "numpy"}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        head, dot, rest = ast.unparse(node.func).partition(".")
        name = origins.get(head, head) + dot + rest
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if name in FORBIDDEN:
            found.append(f"line {node.lineno}: {name}")
        if name in RESTRICTED:
            keyword, wanted = RESTRICTED[name]
            value = given.get(keyword)
            if not (isinstance(value, ast.Constant) and value.value is wanted):
                found.append(f"line {node.lineno}: {name} without {keyword}={wanted}")
        if "shell" in given and not (isinstance(given["shell"], ast.Constant) and given["shell"].value is False):
            found.append(f"line {node.lineno}: {name} with shell")
        if "trust_remote_code" in given:
            found.append(f"line {node.lineno}: {name} with trust_remote_code")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_code_runs_on_load(path):
    assert findings(path.read_text(encoding="utf-8")) == []


def test_pickles_are_read_by_a_restricted_unpickler_only():
    """Whoever derives from Unpickler says which names it may look up; nobody uses the plain one."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any("Unpickler" in ast.unparse(base) for base in node.bases):
                assert "find_class" in [item.name for item in node.body if isinstance(item, ast.FunctionDef)], path
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) != "pickle.Unpickler", path


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(f)",
        "from pickle import loads as read\nread(b)",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import numpy as np\nnp.load(path)",
        "import numpy\nnumpy.load(path, allow_pickle=True)",
        "eval(text)",
        "import os\nos.system('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "load_dataset(name, trust_remote_code=True)",
    ],
)
def test_the_search_finds(source):
    assert len(findings(source)) == 1


def test_importing_everything_opens_no_connection():
    """Every module of the package, with a socket module that refuses to connect or to look up a name."""
    modules = sorted(
        "distillkac." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if path.stem not in ("__init__", "__main__")
    )
    program = f"""
import socket, importlib
def refused(*a, **k):
    raise SystemExit(f"a connection was tried: {{a}}")
for name in ("connect", "connect_ex", "sendto", "listen"):
    setattr(socket.socket, name, refused)
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refused
for name in {modules!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:  # an extra that is not installed
        assert "distillkac" not in error.name, error
print("imported", len({modules!r}))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert result.stdout.strip() == f"imported {len(modules)}", result.stderr[-2000:]
    # And the refusal is no dummy: the same guard stops a connection.
    tried = program.split("for name in [")[0] + "socket.create_connection(('localhost', 1))"
    assert (
        "a connection was tried" in subprocess.run([sys.executable, "-c", tried], capture_output=True, text=True).stderr
    )
