"""What is imported when, what works without the training libraries, and what a wheel holds."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fulgurite.artifact.network_files import network_files
from fulgurite.artifact.writer import write_artifact
from fulgurite.codecs import UniformCodec
from fulgurite.models import build_causal_lm, tied_names, unique_parameters

REPOSITORY = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "lightning", "transformers", "wandb", "matplotlib")
NOT_IN_THE_CORE = (
    "lightning",
    "pytorch_lightning",
    "wandb",
    "matplotlib",
    "datasets",
    "tensorboard",
    "jsonargparse",
)
CORE = (
    "fulgurite.transforms",
    "fulgurite.allocation",
    "fulgurite.coding",
    "fulgurite.codecs",
    "fulgurite.calibration",
    "fulgurite.artifact.loading",
    "fulgurite.artifact.reader",
    "fulgurite.artifact.writer",
    "fulgurite.models",
    "fulgurite.vocabulary",
    "fulgurite.students",
    "fulgurite.distillation",
    "fulgurite.threads",
    "fulgurite.evaluation",
    "fulgurite.reporting",
    "fulgurite.checkpoints",
    "fulgurite.testing",
)
# what stands there as None cannot be imported, and looks as if it were not installed to those who ask
BLOCK = "import sys; sys.modules.update(dict.fromkeys(BLOCKED))"


def python(code: str, *arguments: str) -> str:
    """Run code in a new interpreter, away from the checkout; its output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A tiny artefact, and the sum of the absolute values of a weight decoded from it."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = build_causal_lm({"model_type": "llama", "vocab_size": 32, **sizes})
    folder = tmp_path_factory.mktemp("layout") / "artifact"
    encoded = {
        name: UniformCodec().encode(weight.detach()) for name, weight in unique_parameters(network).items()
    }
    write_artifact(
        folder,
        encoded,
        model_class=type(network).__name__,
        aliases=tied_names(network),
        files=network_files(network),
    )
    return folder, float(UniformCodec.decode(encoded["model.embed_tokens.weight"]).abs().sum())


def test_importing_fulgurite_imports_nothing_heavy() -> None:
    shown = python("import json, sys, fulgurite; print(json.dumps(sorted(sys.modules)))")
    assert set(HEAVY) & set(json.loads(shown)) == set()


def test_inspect_does_without_torch(artifact: tuple[Path, float]) -> None:
    code = (
        "import sys; from fulgurite.cli.main import main\n"
        "assert main(['inspect', sys.argv[1], '--weights']) == 0\n"
        f"print('heavy:', sorted({set(HEAVY)!r} & set(sys.modules)))"
    )
    shown = python(code, str(artifact[0]))
    assert "checksums good" in shown
    assert shown.splitlines()[-1] == "heavy: []"


def test_help_does_without_torch() -> None:
    code = (
        "import sys; from fulgurite.cli.main import main; main(['--help'])\n"
        f"print(sorted({set(HEAVY)!r} & set(sys.modules)))"
    )
    assert python(code).splitlines()[-1] == "[]"


def test_the_core_imports_and_decodes_without_the_training_libraries(artifact: tuple[Path, float]) -> None:
    code = (
        f"BLOCKED = {NOT_IN_THE_CORE!r}\n{BLOCK}\n"
        "import importlib\n"
        f"for name in {CORE!r}: importlib.import_module(name)\n"
        "import fulgurite\n"
        "weight = fulgurite.Artifact(sys.argv[1]).decode('model.embed_tokens.weight')\n"
        "network = fulgurite.load(sys.argv[1])\n"
        "assert network.get_parameter('model.embed_tokens.weight').equal(weight)\n"
        "print(float(weight.abs().sum()))"
    )
    # another process may add up in another order: 512 terms in float32
    assert float(python(code, str(artifact[0]))) == pytest.approx(artifact[1], rel=1e-5)


def test_importing_the_core_does_not_import_transformers() -> None:
    code = (
        f"import importlib, sys\nfor name in {CORE!r}: importlib.import_module(name)\n"
        "print('transformers' in sys.modules)"
    )
    assert python(code).strip() == "False"


def test_our_plain_names_are_found_beside_the_core() -> None:
    from fulgurite.cli._layout import check_layout

    check_layout()


def test_another_package_of_our_name_is_called_out(tmp_path: Path) -> None:
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "__init__.py").write_text("")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from fulgurite.cli._layout import check_layout\n"
        "try: check_layout()\n"
        "except ImportError as error: print(error)"
    )
    shown = python(code, str(tmp_path))
    assert "expected package 'callbacks'" in shown
    assert str(tmp_path / "callbacks") in shown


@pytest.mark.slow
def test_a_wheel_holds_the_packages_their_data_and_the_configs(tmp_path: Path) -> None:
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        pytest.skip("no uv to build a wheel with: `make setup` brings it")
    subprocess.run([uv, "build", "--wheel", "--out-dir", str(tmp_path), str(REPOSITORY)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for package in ("fulgurite", "lightning_modules", "callbacks", "datamodules"):
        assert f"{package}/__init__.py" in names
        assert f"{package}/py.typed" in names
    assert "fulgurite/artifact/SPEC.md" in names
    assert "fulgurite/reporting/record.schema.json" in names
    configs = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "configs").rglob("*.yaml")}
    assert {f"share/fulgurite/{path}" for path in configs} <= {
        name.partition(".data/data/")[2] for name in names
    }
    assert [name for name in names if name.startswith(("tests/", "scripts/", "runs/"))] == []
