"""The project as a whole: arrows between packages, light imports, and what a wheel holds."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("backbones", "heads", "tools")


def imported_packages(path: Path) -> set[str]:
    """Return which of our packages a module imports, relatively or as `vertebra.…`."""
    depth = len(path.relative_to(ROOT).parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:  # from the root: `from ..heads import x`
            names = [node.module] if node.module else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.startswith("vertebra"):
            names = [node.module.removeprefix("vertebra").lstrip(".")] if node.module != "vertebra" else ["*"]
        elif isinstance(node, ast.Import):
            names = [a.name.removeprefix("vertebra.") for a in node.names if a.name.split(".")[0] == "vertebra"]
        else:
            continue
        found |= {name.split(".")[0] for name in names}
    return found & {*PACKAGES, "*"}


@pytest.mark.parametrize(("package", "allowed"), [("backbones", ()), ("heads", ("backbones",)), ("tools", PACKAGES)])
def test_imports_point_one_way(package: str, allowed: tuple[str, ...]) -> None:
    modules = sorted((ROOT / package).rglob("*.py"))
    assert modules
    for path in modules:
        assert imported_packages(path) <= {package, *allowed}, path


def test_arrow_check_sees_an_import_against_the_arrow() -> None:
    assert imported_packages(ROOT / "heads" / "rcnn.py") == {"backbones"}
    assert imported_packages(ROOT / "tools" / "session.py") >= {"backbones"}


def test_no_tool_hides_a_module_of_the_standard_library() -> None:
    """`python tools/train.py` puts tools/ first on the path."""
    names = {path.stem for path in (ROOT / "tools").iterdir()}
    assert not names & set(sys.stdlib_module_names)


def python(code: str, cwd: Path = ROOT.parent) -> subprocess.CompletedProcess[str]:
    setup = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import conftest\n"
    return subprocess.run([sys.executable, "-c", setup + code], capture_output=True, text=True, cwd=cwd, check=False)


def test_import_is_light() -> None:
    code = """
import vertebra
assert vertebra.__version__ and "torch" not in sys.modules
vertebra.create_model("faster_rcnn", backbone="resnet18", num_classes=2)
heavy = {"cv2", "albumentations", "timm", "matplotlib", "pycocotools", "tensorboard"} & set(sys.modules)
assert not heavy, heavy
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


HEAVY = {"torch", "torchvision", "timm", "cv2", "albumentations", "matplotlib", "numpy", "pycocotools", "omegaconf"}


def loaded_by(code: str) -> set[str]:
    """Return which heavy libraries a fresh process has loaded at its end, which may be an error of the user's."""
    tell = f"import atexit, sys\natexit.register(lambda: print('loaded', *({HEAVY} & sys.modules.keys())))"
    code = f"{tell}\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=False)
    assert done.returncode in (0, 2), done.stderr
    *_, line = done.stdout.splitlines()
    assert line.startswith("loaded"), done.stdout
    return set(line.split()[1:])


def command(*arguments: str) -> str:
    return f"sys.argv = {['vertebra', *arguments]}\nfrom vertebra.tools.cli import main\nmain()"


@pytest.mark.parametrize(
    "code",
    [
        "import vertebra.backbones\nfrom vertebra import InputError",
        command("--help"),
        command("train", "--help"),
        command("evaluate", "--help"),
        command("backbones", "list", "resnet*"),
        command("backbones", "list", "no_such_name"),
    ],
    ids=["errors", "help", "train help", "evaluate help", "list", "list of none"],
)
def test_what_needs_no_torch_loads_none(code: str) -> None:
    assert loaded_by(code) == set()


def test_a_model_loads_torch_and_torchvision_alone() -> None:
    loaded = loaded_by("import vertebra\nvertebra.create_backbone('resnet18')")
    assert loaded - {"numpy"} == {"torch", "torchvision"}  # torch takes numpy along where it is installed


def test_every_public_name_is_there() -> None:
    done = python(
        "import vertebra, vertebra.backbones as b; [getattr(m, name) for m in (vertebra, b) for name in m.__all__]"
    )
    assert done.returncode == 0, done.stderr


def test_a_bare_import_of_backbones_says_what_to_do() -> None:
    done = python(f"sys.path.insert(0, {str(ROOT)!r}); import backbones")
    assert "import vertebra.backbones" in done.stderr


def test_wheel_holds_only_the_package(tmp_path: Path) -> None:
    """Built from a copy: a build leaves its own files beside setup.py."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    source = tmp_path / "source"
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    options = ["-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "."], cwd=source, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"vertebra"}
    for expected in ("py.typed", "backbones/residual.py", "tools/data/coco.py", "configs/runs/quickstart.yaml"):
        assert f"vertebra/{expected}" in names
    assert not [name for name in names if name.startswith(("vertebra/tests", "vertebra/setup"))]
