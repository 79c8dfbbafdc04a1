"""The report: complete, self-contained, and safe against what a network may say."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fulgurite.evaluation import Measure
from fulgurite.evaluation.stage_checks import CheckSettings
from fulgurite.reporting import write_record, write_report
from fulgurite.reporting.deciding import block_ticks, kind_of
from fulgurite.reporting.markdown import fence
from fulgurite.reporting.plots import PLOTS
from fulgurite.reporting.sections import summary

Record = dict[str, Any]

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Collects tags, addresses and text; notes what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def reports(record: Record, folder: Path) -> tuple[str, Page]:
    write_record(folder / "record.json", record)
    markdown, html = write_report(folder)
    assert (markdown, html) == (folder / "report.md", folder / "report.html")
    page = Page(html.read_text(encoding="utf-8"))
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))  # five drawings in one page
    return markdown.read_text(encoding="utf-8"), page


@pytest.fixture(scope="module")
def whole(complete: Record, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Page]:
    """Folder, Markdown and page of the complete record; drawing takes a second."""
    folder = tmp_path_factory.mktemp("run")
    return folder, *reports(complete, folder)


def test_both_reports_hold_every_stage_number_and_chapter(whole: tuple[Path, str, Page]) -> None:
    _, markdown, page = whole
    expected = ["24.1 MB of fp32 weights became 1.65 MB, 14.6 times smaller at 2.19 bits per weight"]
    expected += ["seedlm4", "vptq2", "hyper", "96.1 % (at least 95.7 %)", "rejected twice", "1,400,000"]
    expected += ["98.9 % [98.3, 99.5]", "reference at chance", "200 steps, loss 0.31 to 0.12, Grokfast"]
    expected += ['fulgurite.load("runs/books6m/artifact")', "books, held out", "Samples are greedy."]
    for text in expected:
        assert text in page.words
    plain = markdown.replace("\\", "")
    assert [text for text in [*expected, "codebook_size 256 -> 512"] if text not in plain] == []
    headings = re.findall(r"^## (.*)$", markdown, flags=re.MULTILINE)
    assert headings == [
        "Stages",
        "Bytes by part",
        "Quality against size",
        "Error per layer",
        "What each try changed",
        "Samples",
        "Load the artefact",
        "Recipe",
        "Versions and hardware",
    ]


def test_the_page_loads_nothing_from_elsewhere(whole: tuple[Path, str, Page]) -> None:
    folder, _, page = whole
    assert [address for address in page.addresses if not address.startswith("#")] == []
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    text = (folder / "report.html").read_text()
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}


def test_the_drawings_follow_the_theme_and_speak(whole: tuple[Path, str, Page]) -> None:
    text = (whole[0] / "report.html").read_text()
    assert text.count('role="img" aria-label="') == len(PLOTS)
    assert "prefers-color-scheme: dark" in text
    bare = re.sub(r"var\(--[a-z0-9-]+, #[0-9a-f]{6}\)", "", text[text.index("<main>") :])
    assert re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", bare) == []


def test_text_of_a_network_cannot_become_markup(record: Record, tmp_path: Path) -> None:
    attack = '<script>alert("x")</script><img src=http://evil.example/a.png>'
    record["samples"][0] |= {"prompt": attack, "reference": "``` " + attack, "artifact": attack + " & $x$"}
    record["name"] = record["notes"][0] = record["command"] = attack
    record["recipe"] = {attack: attack}
    record["stages"][0]["name"] = attack
    record["stages"][1]["tries"][1]["changes"] = [attack]
    record["stages"][1]["tries"][1]["layers"][0]["weight"] = attack
    for measure in record["stages"][0]["tries"][0]["gate"]["per_measure"]:
        measure["name"] = attack
    markdown, page = reports(record, tmp_path)
    assert not {"script", "img"} & set(page.tags)
    assert page.words.count(attack) >= 8  # shown as it is
    outside = re.sub(r"^(`{3,})[a-z]*$.*?^\1$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    assert re.search(r"(?<!\\)<(?!/?(details|summary)>)", outside) is None


def test_all_rejected_is_a_report_too(rejected: Record, tmp_path: Path) -> None:
    markdown, page = reports(rejected, tmp_path)
    assert (
        "No stage passed its gate: the result is the reference itself, 24.1 MB. Rejected: hyper."
        in page.words
    )
    assert "Load the artefact" not in page.words
    assert "## Error per layer" not in markdown  # there are none
    assert "Core failure, weakest in attention" in page.words


def test_a_run_cut_off_before_its_first_gate_is_a_report_too(rejected: Record, tmp_path: Path) -> None:
    stage = rejected["stages"][0]
    stage["tries"][0]["gate"] = None
    rejected["finished"] = rejected["reference"]["perplexity"] = None
    rejected["reference"]["scores"] = {}
    _, page = reports(rejected, tmp_path)
    assert "did not reach its gate" in page.words
    assert "The run has not finished." in page.words
    stage.update(
        dict.fromkeys(["num_bytes", "ratio", "bits_per_weight", "retention", "retention_low"]), tries=[]
    )
    reports(rejected, tmp_path)
    rejected["stages"] = []
    _, page = reports(rejected, tmp_path)
    assert "svg" not in page.tags


def test_a_network_that_diverged_is_drawn_without_its_numbers(record: Record, tmp_path: Path) -> None:
    gate = record["stages"][2]["tries"][1]["gate"]
    gate |= dict.fromkeys(["retention", "retention_low", "cumulative", "cumulative_low"])
    for measure in gate["per_measure"]:
        measure |= dict.fromkeys(["value", "retention", "low", "high", "raw_ratio"])
    record["stages"][2] |= {"retention": None, "retention_low": None}
    markdown, _ = reports(record, tmp_path)
    assert "| hyper | 1.10 MB | 21.9x | 1.46 | - | rejected twice | 1:47 |" in markdown


def test_pictures_of_the_markdown_report_exist(whole: tuple[Path, str, Page]) -> None:
    folder, markdown, _ = whole
    pictures = re.findall(r"\]\((.*?)\)", markdown)
    assert sorted(pictures) == sorted(f"plots/{name}.png" for name in PLOTS)
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in pictures)


def test_the_same_record_gives_the_same_report(whole: tuple[Path, str, Page]) -> None:
    folder, _, _ = whole
    first = (folder / "report.html").read_bytes()
    write_report(folder)
    assert (folder / "report.html").read_bytes() == first


def test_drawing_leaves_matplotlib_as_it_was(record: Record) -> None:
    import matplotlib
    from matplotlib import _pylab_helpers

    before = dict(matplotlib.rcParams)
    for plot in PLOTS.values():
        assert plot(record) is not None
    assert dict(matplotlib.rcParams) == before
    assert _pylab_helpers.Gcf.get_all_fig_managers() == []


def test_far_off_tries_and_peers_do_not_hide_the_rest(record: Record) -> None:
    record["stages"][2]["tries"][0]["gate"] |= {"cumulative": -7.0, "cumulative_low": -9.0}
    record["peers"] = [{"name": "int4", "num_bytes": 3_200_000, "retention": 0.95, "retention_low": None}]
    figure = PLOTS["quality"](record)
    assert figure is not None
    assert figure.axes[0].get_ylim()[0] > -0.3  # drawn at the edge, -5 %, plus the margin
    assert [text.get_text() for text in figure.axes[0].texts] == ["int4"]


def test_many_layers_keep_their_axis_readable(record: Record) -> None:
    layers = record["stages"][1]["tries"][1]["layers"]
    many = [
        layer | {"weight": f"model.layers.{block}.mlp.fc1"} for block in range(80) for layer in layers[1:3]
    ]
    record["stages"][1]["tries"][1]["layers"] = many
    figure = PLOTS["layer_error"](record)
    assert figure is not None
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels[:2] == ["0", "5"]
    assert len(labels) == 16


def test_the_sentence_tells_an_unfinished_run_with_a_result(record: Record) -> None:
    record["finished"] = None
    assert summary(record).endswith("Level vptq2, 2 of 3 stages accepted. The run has not finished.")


@pytest.mark.parametrize(
    ("weight", "kind"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "attention"),
        ("model.layers.0.post_attention_layernorm.weight", "norm"),
        ("transformer.h.3.attn.c_proj.weight", "attention"),
        ("transformer.h.3.mlp.c_proj.weight", "mlp"),
        ("transformer.h.3.ln_1.weight", "norm"),
        ("transformer.wte.weight", "embedding"),
        ("bert.encoder.layer.0.intermediate.dense.weight", "mlp"),
        ("bert.encoder.layer.0.output.dense.weight", "mlp"),
        ("bert.encoder.layer.0.attention.output.dense.weight", "attention"),
        ("bert.embeddings.word_embeddings.weight", "embedding"),
        ("visual.transformer.resblocks.0.attn.in_proj_weight", "attention"),
        ("visual.conv1.weight", "other"),
    ],
)
def test_kinds_are_told_by_the_names_of_common_networks(weight: str, kind: str) -> None:
    assert kind_of(weight) == kind


def test_blocks_begin_where_the_number_changes() -> None:
    weights = ["embed.weight", "h.0.a", "h.0.b", "h.1.a", "norm.weight"]
    assert list(block_ticks(weights)) == [(1, "0"), (3, "1")]


def test_a_fence_outlasts_the_backticks_inside() -> None:
    assert fence("a ```` b").splitlines()[0] == "`````"


def test_checks_of_behaviour_have_a_chapter_where_there_are_any(record: Record, tmp_path: Path) -> None:
    settings = CheckSettings(edge_of_chaos="quiz")
    right = (np.arange(100) < 75).astype(float)
    before = Measure("quiz", right, np.ones(100), np.full(100, 0.25), True, "%")
    lost = Measure("quiz", right * (np.arange(100) < 60), np.ones(100), np.full(100, 0.25), True, "%")
    checks = settings.judge([before], [lost], last=False)
    record["stages"][1]["tries"][0]["checks"] = [check.to_dict() for check in checks]
    markdown, page = reports(record, tmp_path)
    for text in (
        "Checks of behaviour",
        "0.600 [0.502, 0.691]",
        "0.70 to 0.80",
        "0.750 within",
        "turned down",
    ):
        assert text in page.words
        assert text in markdown.replace("\\", "")


def test_items_and_what_decides_stand_beside_each_score(record: Record, tmp_path: Path) -> None:
    scores = record["reference"]["scores"]
    scores["bits_per_byte"] |= {"items": 12_512, "informative": True, "error": 0.0123}
    scores["next_token_accuracy"] |= {"items": 7, "informative": False, "error": None}
    record["stages"][0]["tries"][0]["gate"]["per_measure"][0]["items"] = 3_128  # as of a look
    markdown, _ = reports(record, tmp_path)
    plain = markdown.replace("\\", "")
    assert "| bits_per_byte | 12,512 | 1.900 bits/byte | 4.800 bits/byte | yes | 1.2 points |" in plain
    assert "| next_token_accuracy | 7 | 36.0 % | 12.0 % | no, at chance | - |" in plain
    assert "| seedlm4 | bits_per_byte, bits/byte | 3,128 |" in plain


def test_without_checks_there_is_no_such_chapter(whole: tuple[Path, str, Page]) -> None:
    assert "Checks of behaviour" not in whole[1]
