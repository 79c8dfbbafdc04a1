"""What the pages tell a reader to type exists and parses; what they show in Python runs; links lead somewhere."""

import argparse
import importlib
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fulgurite.cli.main import VERBS

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
PAGES = [README, REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
LINKED = [*PAGES, REPOSITORY / "fulgurite" / "artifact" / "SPEC.md"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def spans(page: Path) -> list[str]:
    """Inline code, outside of blocks."""
    return re.findall(
        r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    )


def commands(page: Path) -> Iterator[list[str]]:
    """Every command of a page in words, settings of the environment left out."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    # a command in a sentence is whole where it names its recipe
    lines += [span for span in spans(page) if re.match(r"fulgurite \w+ --config|make \w", span)]
    for line in lines:
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words:
            yield words


ALL = sorted({(page.name, tuple(words)) for page in PAGES for words in commands(page)})
FULGURITE = [words for _, words in ALL if words[0] == "fulgurite"]
PAGE_LINKS = [
    (page, target)
    for page in LINKED
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    if not target.startswith("http")
]


class Parsed(BaseException):
    """Thrown where a verb has understood its arguments; the verb itself must not run."""


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[tuple[str, ...]], None]:
    """Parse a command in the repository as the command line would, and stop there."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.delenv("FULGURITE_OUTPUT_DIR", raising=False)

    def stop(*_: Any, **__: Any) -> None:
        raise Parsed

    def parsed(words: tuple[str, ...]) -> None:
        verb, arguments = words[1], list(words[2:])
        if VERBS[verb][1].endswith(".lightning"):
            from fulgurite.cli.lightning_cli import FulguriteCLI, make_cli

            monkeypatch.setattr(FulguriteCLI, "instantiate_classes", stop)
            make_cli(verb, arguments, tmp_path)
            return
        understood = argparse.ArgumentParser.parse_args

        def parse_args(self: argparse.ArgumentParser, given: list[str]) -> None:
            understood(self, given)
            raise Parsed

        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        importlib.import_module(VERBS[verb][1]).run(verb, arguments)

    return parsed


def test_the_readme_has_the_two_commands_that_set_everything_up() -> None:
    assert ["make", "quickstart"] in list(commands(README))
    assert ["make", "test"] in list(commands(README))


def test_the_readme_is_read_in_minutes() -> None:
    assert len(README.read_text().splitlines()) < 200


@pytest.mark.parametrize("words", FULGURITE, ids=" ".join)
def test_a_command_of_a_page_parses(
    words: tuple[str, ...], parse: Callable[[tuple[str, ...]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    shows = {"--help", "--print_config"} & set(words)
    with pytest.raises(SystemExit if shows else Parsed) as ended:
        parse(words)
    if shows:
        assert ended.value.code == 0
        assert capsys.readouterr().out


def test_make_targets_of_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = {target for _, words in ALL if words[0] == "make" for target in words[1:]}
    assert named
    assert named <= targets


def test_configs_and_scripts_of_the_pages_exist() -> None:
    folders = "configs|docs|scripts|fulgurite|callbacks|lightning_modules|datamodules"
    named = {span for page in PAGES for span in spans(page) if re.fullmatch(rf"(?:{folders})/[\w./-]+", span)}
    named |= {word for _, words in ALL for word in words if re.fullmatch(r"(?:configs|scripts)/\S+", word)}
    assert named
    assert sorted(path for path in named if not (REPOSITORY / path).exists()) == []


def test_every_preset_is_in_the_readme() -> None:
    presets = (REPOSITORY / "configs" / "cascade").glob("*.yaml")
    assert {f"configs/cascade/{path.name}" for path in presets} <= set(spans(README))


@pytest.mark.parametrize(
    ("page", "target"), PAGE_LINKS, ids=[f"{page.stem}-{link}" for page, link in PAGE_LINKS]
)
def test_a_link_leads_somewhere(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    found = (page.parent / path).resolve() if path else page
    assert found.exists()
    assert found.is_relative_to(REPOSITORY)  # a link out of the repository is dead for its readers
    if anchor:
        titles = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_python_of_the_readme_runs(
    trained_network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fulgurite.artifact.network_files import network_files
    from fulgurite.artifact.packed import is_packed
    from fulgurite.artifact.writer import write_artifact
    from fulgurite.codecs import UniformCodec
    from fulgurite.models import load_causal_lm, load_tokenizer, tied_names, unique_parameters

    network = load_causal_lm(trained_network)
    write_artifact(
        tmp_path / "artifact",
        {name: UniformCodec().encode(weight.detach()) for name, weight in unique_parameters(network).items()},
        model_class=type(network).__name__,
        aliases=tied_names(network),
        files=network_files(network, load_tokenizer(trained_network)),
    )
    shown: dict[str, Any] = {}
    for block in blocks(README, "python"):
        exec(block.replace("runs/quickstart/artifact", str(tmp_path / "artifact")), shown)
    assert is_packed(shown["packed"])
    assert not is_packed(shown["network"])
    assert capsys.readouterr().out.startswith("torch.Size([1, ")
