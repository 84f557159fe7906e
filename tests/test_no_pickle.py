"""Nothing in the code runs what a file says: every way to do so that Python and our libraries have is looked for."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("src", "benchmarks", "docs", "configs") for path in (ROOT / folder).rglob("*.py"))

# Modules that have no use here but to run what they read.
MODULES = {"_pickle", "cloudpickle", "dill", "joblib", "marshal", "pickle5", "shelve", "runpy", "code", "codeop"}
BUILTINS = {"eval", "exec", "compile", "__import__", "breakpoint"}
CALLS = {
    "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler", "pickle._Unpickler",
    "numpy.lib.format.read_array", "pandas.read_pickle", "torch.jit.load", "torch.hub.load", "torch.package",
    "torch.export.load", "torch.storage._load_from_bytes", "subprocess.getoutput",
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.Loader", "yaml.UnsafeLoader",
    "yaml.FullLoader", "yaml.CLoader", "shutil.unpack_archive", "multiprocessing.reduction",
    "timm.data.readers.reader_image_in_tar.ReaderImageInTar",  # keeps its index as a pickle beside the data
}  # fmt: skip
METHODS = {"extractall", "extract", "load_from_checkpoint", "unsafe_load", "read_pickle"}


def dangers(tree):
    """Calls and imports by which a file could have its code run, or be unpacked to where it wants."""
    names = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (name for name in modules if name.split(".")[0] in MODULES)
        elif isinstance(node, (ast.Attribute, ast.Name)):
            path = full_name(node, names)
            if path in CALLS or (path in BUILTINS and isinstance(node, ast.Name)):
                yield path
        if isinstance(node, ast.Call):
            yield from dangerous_call(node, full_name(node.func, names))


def dangerous_call(node, path):
    keywords = {item.arg: item.value for item in node.keywords}
    if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
        yield node.func.attr
    if path in ("torch.load", "torch.hub.load_state_dict_from_url") and not is_constant(keywords, "weights_only", True):
        yield f"{path} without weights_only=True"
    if "ckpt_path" in keywords and not is_constant(keywords, "weights_only", True):
        yield "a Trainer that goes on from a file without weights_only=True"
    for name in ("shell", "allow_pickle", "trust_remote_code"):
        if name in keywords and not is_constant(keywords, name, False):
            yield name
    if path == "numpy.load" and len(node.args) > 2:
        yield "allow_pickle by position"
    if path in ("yaml.parse", "yaml.compose") and [full_name(a, {}) for a in node.args[1:]] != ["yaml.BaseLoader"]:
        yield f"{path} without yaml.BaseLoader"


def is_constant(keywords, name, value):
    return isinstance(keywords.get(name), ast.Constant) and keywords[name].value is value


def imported(tree):
    """What a file calls modules and functions -> their full names."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def full_name(node, names):
    """The node of `np.load` -> "numpy.load"; None for what is no plain name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (start := full_name(node.value, names)) is not None:
        return f"{start}.{node.attr}"
    return None


# What is found and is meant.
MEANT = {
    "benchmarks/tutorials.py": ["exec", "compile"],  # runs the pages of docs/tutorials
    "src/attnorm/deploy/pt2_file.py": ["torch.export.load"] * 2,  # of what was just written, to check it
}


def test_the_code_runs_no_file(tally):
    found = {}
    for path in SOURCES:
        if names := list(dangers(ast.parse(path.read_text()))):
            found[str(path.relative_to(ROOT))] = names
        tally["files"] += 1
    assert found == MEANT
    assert tally["files"] > 150


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.load(f)",
        "import torch as t\nt.load(f, weights_only=False)",
        "from torch import load\nload(f, weights_only=flag)",
        "import pickle\npickle.loads(b)",
        "from pickle import Unpickler as U\nclass A(U): pass",
        "import pickle\nclass A(pickle.Unpickler): pass",
        "import pickle\nread = pickle.load",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "import numpy as np\nnp.load(f, None, True)",
        "import yaml\nyaml.load(f, Loader=yaml.Loader)",
        "import yaml\nyaml.compose(f)",
        "from yaml import unsafe_load\nunsafe_load(f)",
        "import joblib",
        "from dill import load",
        "import shelve as s",
        "eval(text)",
        "list(map(exec, texts))",
        "import subprocess\nsubprocess.run(x, shell=True)",
        "import os\nos.system(x)",
        "import tarfile\ntarfile.open(f).extractall(p)",
        "import zipfile\nzipfile.ZipFile(f).extract(n)",
        "trainer.fit(module, ckpt_path=p)",
        "import torch\ntorch.hub.load_state_dict_from_url(u)",
        "torch.jit.load(f)",
    ],
)
def test_each_of_them_would_be_found(code):
    assert list(dangers(ast.parse(code))) != []


def test_harmless_code_is_not_found():
    code = (
        "import torch, numpy as np\nmodel.eval()\nnp.load(f)\nre.compile(x)\ntorch.load(f, weights_only=True)\nf.load()"
    )
    assert list(dangers(ast.parse(code))) == []
