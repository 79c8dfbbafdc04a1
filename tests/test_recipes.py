"""Every YAML under ``configs`` is what the real command takes; nothing is run."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from callbacks.cascade import Cascade
from fulgurite.cli.lightning_cli import FulguriteCLI, make_cli
from fulgurite.cli.main import VERBS, UsageError, main

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RECIPES = sorted((CONFIGS / "recipes").glob("*.yaml"))
FRAGMENTS = {kind: sorted((CONFIGS / kind).glob("*.yaml")) for kind in ("model", "data", "cascade")}
# which models read which data, by their classes
PICTURES = ("CaptionsDataModule", "ClassFolderDataModule", "ShapesDataModule", "WebShardsDataModule")
READERS = {
    "LanguageModel": ("TextDataModule",),
    "TextEncoder": ("SentencesDataModule",),
    "Clip": PICTURES,
    "Blip": PICTURES,
}
PAIRS = [
    (model, data)
    for reader, sources in READERS.items()
    for model in FRAGMENTS["model"]
    for data in FRAGMENTS["data"]
    if f"lightning_modules.{reader}\n" in model.read_text()
    and any(f"datamodules.{source}" in data.read_text() for source in sources)
]

Parse = Callable[..., FulguriteCLI]


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Parse:
    """Parse a command line and build its classes, all but the run itself."""
    monkeypatch.setattr(FulguriteCLI, "_run_subcommand", lambda self, verb: None)

    def parsed(*arguments: str) -> FulguriteCLI:
        return make_cli(arguments[0], [*arguments[1:], "--trainer.logger", "false"], tmp_path)

    return parsed


@pytest.fixture(autouse=True)
def _no_folder_of_another_run() -> Iterator[None]:
    os.environ.pop("FULGURITE_OUTPUT_DIR", None)
    yield
    os.environ.pop("FULGURITE_OUTPUT_DIR", None)


def cascade_of(cli: FulguriteCLI) -> Cascade:
    callbacks: Any = cli.trainer
    return next(callback for callback in callbacks.callbacks if isinstance(callback, Cascade))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_run_by_the_command_in_its_first_line(path: Path, parse: Parse) -> None:
    words = path.read_text().splitlines()[0].removeprefix("# ").split()
    assert words[0] == "fulgurite"
    assert words[words.index("--config") + 1] == f"configs/recipes/{path.name}"
    verb = "compress" if words[1] == "analyze" else words[1]  # a study of a cascade runs variants of it
    cli = parse(verb, "--config", str(path))
    assert cli.model is not None
    assert cli.datamodule is not None
    if verb == "compress":
        written = yaml.safe_load(path.read_text())["cascade"]["stages"]
        assert list(cascade_of(cli).stages) == list(written)  # the order is the recipe's


def test_every_fragment_goes_with_another() -> None:
    assert {path for pair in PAIRS for path in pair} == {*FRAGMENTS["model"], *FRAGMENTS["data"]}


@pytest.mark.parametrize("paths", PAIRS, ids=lambda paths: "+".join(path.stem for path in paths))
def test_every_model_is_fitted_on_all_data_of_its_kind(paths: tuple[Path, ...], parse: Parse) -> None:
    arguments = [argument for path in paths for argument in ("--config", str(path))]
    cli = parse("fit", *arguments, "--trainer.max_steps", "10")
    assert type(cli.datamodule).__name__ in READERS[type(cli.model).__name__]
    assert cli.trainer.max_steps == 10


@pytest.mark.parametrize(
    "paths",
    # one model with one kind of data each will do: they and the cascade are different keys, and each was parsed above
    [
        (*pair, cascade)
        for pair, cascade in itertools.product(
            {model: (model, data) for model, data in PAIRS}.values(), FRAGMENTS["cascade"]
        )
    ],
    ids=lambda paths: "+".join(path.stem for path in paths),
)
def test_every_cascade_goes_with_all_data(paths: tuple[Path, ...], parse: Parse) -> None:
    arguments = [argument for path in paths for argument in ("--config", str(path))]
    assert len(cascade_of(parse("compress", *arguments)).stages) >= 2


def test_a_later_file_and_a_flag_override_single_keys(parse: Parse, tmp_path: Path) -> None:
    later = tmp_path / "later.yaml"
    later.write_text("cascade: {retries: 3, gate: {cumulative: 0.7}}")
    recipe = CONFIGS / "recipes" / "quickstart.yaml"
    cascade = cascade_of(
        parse(
            "compress",
            *("--config", str(recipe), "--config", str(later), "--cascade.gate.floor", "0.5"),
            *("--cascade.stages.vptq2.codec.codebook_size", "64", "--cascade.stages.vptq3.refine.steps", "7"),
        )
    )
    assert (cascade.retries, cascade.gate.cumulative, cascade.gate.floor) == (3, 0.7, 0.5)
    assert vars(cascade.stages["vptq2"].codec)["codebook_size"] == 64
    assert vars(cascade.stages["vptq2"].codec)["vector_length"] == 4  # as the recipe has it
    assert cascade.stages["vptq3"].refine.steps == 7
    assert cascade.stages["vptq3"].refine.learning_rate == 0.002  # as the recipe has it


def test_the_stages_of_a_later_file_take_the_place_of_earlier_ones(parse: Parse) -> None:
    recipe, preset = CONFIGS / "recipes" / "quickstart.yaml", CONFIGS / "cascade" / "quality.yaml"
    cascade = cascade_of(parse("compress", "--config", str(recipe), "--config", str(preset)))
    assert list(cascade.stages) == ["ecq6", "ecq5", "ecq4"]
    assert cascade.gate.stage_retention == (0.99, 0.99, 0.99)


def test_print_config_prints_what_a_run_would_use(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(CONFIGS / "recipes" / "quickstart.yaml")
    status = main(["compress", "--config", recipe, "--cascade.retries", "5", "--print_config"])
    assert status == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["cascade"]["retries"] == 5
    assert printed["cascade"]["gate"]["cumulative"] == 0.84  # a default, spelt out
    stage = printed["cascade"]["stages"]["vptq3"]["init_args"]
    assert stage["codec"]["class_path"] == "fulgurite.codecs.VptqCodec"


def test_what_print_config_prints_is_a_recipe(
    parse: Parse, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = CONFIGS / "recipes" / "stories260k.yaml"
    main(["compress", "--config", str(recipe), "--print_config"])
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    again, first = (cascade_of(parse("compress", "--config", str(path))) for path in (printed, recipe))
    assert again.settings() == first.settings()


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("fit", ("--model", "--data", "--trainer.max_steps", "--output_dir", "--ckpt_path")),
        ("compress", ("--cascade.gate", "--cascade.retries", "--restart", "--output_dir", "--print_config")),
        ("validate", ("--ckpt_path",)),
        ("test", ("--ckpt_path",)),
        ("predict", ("--ckpt_path",)),
        ("evaluate", ("--text", "--reference", "--json")),
        ("inspect", ("--weights", "--json", "--no-verify")),
        ("report", ("record.json",)),
        ("checkpoints", ("list", "show", "restore")),
        ("search", ("--config", "--output_dir", "--workers", "early_stopping")),
    ],
)
def test_help_of_a_verb_names_its_main_options(
    verb: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert [option for option in options if option not in shown] == []


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert [verb for verb in VERBS if f"  {verb} " not in shown] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cascade.retires", "2"), r"unknown key .*retires.*near: .*cascade\.retries"),
        (("--cascade.gate.flor", "0.5"), r"unknown key .*flor.*near: .*floor"),
    ],
)
def test_a_misspelt_key_is_answered_with_near_ones(
    arguments: tuple[str, ...], message: str, parse: Parse
) -> None:
    with pytest.raises(UsageError, match=message):
        parse("compress", "--config", str(CONFIGS / "recipes" / "quickstart.yaml"), *arguments)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_opens_with_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# ")
