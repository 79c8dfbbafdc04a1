"""Pictures in a report: those that texts found, captions and confusion matrices, before and after."""

from __future__ import annotations

import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fulgurite.cli.main import main
from fulgurite.reporting import check_record, write_record, write_report
from fulgurite.reporting.confusion import confusion_of, plot_confusion
from fulgurite.reporting.pictures import picture_blocks

Record = dict[str, Any]

ATTACK = '<script>alert("x")</script><img src=http://evil.example/a.png>'
MARKUP = "a|b [c](d) `e` *f* _g_ # h"


class Page(HTMLParser):
    """Pictures by their alternative text, other tags and words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.tags: set[str] = set()
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.words += data


def found(index: int, score: float, *, right: bool = False) -> Record:
    return {"index": index, "name": f"test/{index}.jpg", "score": score, "right": right}


def confusion(classes: list[str]) -> Record:
    """4 pictures a class, of which after compression one of the first is taken for the second."""
    count = len(classes)
    before = [[4 * (row == column) for column in range(count)] for row in range(count)]
    after = [list(row) for row in before]
    after[0][:2] = [3, 1]
    return {"classes": classes, "before": before, "after": after, "others": 0}


@pytest.fixture
def seen(record: Record) -> Record:
    """A record of pictures 0, 7 and 12; without stages, whose plots take their time."""
    record |= {"success": False, "level": "reference", "artifact": None, "stages": [], "samples": []}
    record["pictures"] = {
        "description": "13 test pictures",
        "retrieved": [
            {
                "text": "a red boat",
                "before": [found(7, 0.31, right=True), found(0, 0.25)],
                "after": [found(0, 0.27), found(12, 0.26)],
            }
        ],
        "captions": [
            {
                "index": 12,
                "name": "test/12.jpg",
                "references": ["A dog by the sea.", "Dog, beach."],
                "before": "a dog on a beach",
                "after": "a cat on a beach",
            }
        ],
        "confusion": confusion(["boat", "cat", "dog"]),
        "thumbnails": {str(index): f"pictures/{index:06d}.png" for index in (0, 7, 12)},
    }
    return record


@pytest.fixture
def run(seen: Record, tmp_path: Path) -> Path:
    """A run's folder with small pictures, each of one colour."""
    return with_thumbnails(seen, tmp_path / "run")


def with_thumbnails(record: Record, folder: Path) -> Path:
    from PIL import Image

    for index, path in record["pictures"]["thumbnails"].items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (96, 64), (int(index), 100, 200)).save(folder / path)
    write_record(folder / "record.json", record)
    return folder


def reports(run: Path) -> tuple[str, Page]:
    markdown, html = write_report(run)
    return markdown.read_text(), Page(html.read_text())


def test_the_page_holds_the_pictures_themselves(run: Path) -> None:
    from PIL import Image

    _, page = reports(run)
    # the text's two rows of two, and the one with captions
    assert [image["alt"] for image in page.images] == [f"test/{index}.jpg" for index in (7, 0, 0, 12, 12)]
    for image, index in zip(page.images, (7, 0, 0, 12, 12), strict=True):
        head, data = str(image["src"]).split(",")
        assert head == "data:image/png;base64"
        content = base64.b64decode(data, validate=True)
        assert content == (run / f"pictures/{index:06d}.png").read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.getpixel((0, 0)) == (index, 100, 200)


def test_nothing_but_data_may_be_loaded(run: Path) -> None:
    write_report(run)
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', (run / "report.html").read_text())
    assert policy.split("; ") == ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:"]


def test_both_reports_say_what_is_right_in_words(run: Path) -> None:
    markdown, page = reports(run)
    expected = [
        "a red boat",
        "right, 0.310",
        "other, 0.250",
        "other, 0.270",
        "A dog by the sea.",
        "Dog, beach.",
    ]
    expected += ["a dog on a beach", "a cat on a beach", "13 test pictures", "75.0 %", "cat, 25.0 %"]
    assert [text for text in expected if text not in page.words] == []
    assert [text for text in expected if text not in markdown] == []
    assert '<li class="tile marked">' in (run / "report.html").read_text()


def test_links_of_the_markdown_report_lead_to_the_files(run: Path) -> None:
    markdown, _ = reports(run)
    links = [link for link in re.findall(r"!\[.*?\]\((.*?)\)", markdown) if not link.startswith("plots/")]
    assert links == [f"pictures/{index:06d}.png" for index in (7, 0, 0, 12, 12)]
    assert (run / "plots" / "confusion.png").exists()
    assert "![test/7.jpg](pictures/000007.png) right, 0.310 |" in markdown


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    file.unlink()
    if how == "cut short":
        file.write_bytes(content[:-1])
    elif how == "no picture":
        file.write_bytes(b"<svg onload='alert(1)'></svg>")
    elif how == "too large":
        file.write_bytes(content[:8] + bytes(1 << 18) + content[-12:])
    elif how == "folder":
        file.mkdir()
    elif how == "link out of the folder":
        secret = file.parents[2] / "secret.png"
        secret.write_bytes(content)
        file.symlink_to(secret)


@pytest.mark.parametrize(
    "how", ["missing", "cut short", "no picture", "too large", "folder", "link out of the folder"]
)
def test_a_picture_that_is_not_there_is_named(run: Path, how: str) -> None:
    damage(run / "pictures" / "000012.png", how)
    markdown, page = reports(run)
    assert [image["alt"] for image in page.images] == ["test/7.jpg", "test/0.jpg", "test/0.jpg"]
    assert page.words.count("test/12.jpg") == 2
    assert "000012.png" not in markdown
    assert markdown.count("test/12.jpg") == 2


def test_a_picture_without_a_thumbnail_is_named(seen: Record, tmp_path: Path) -> None:
    seen["pictures"]["thumbnails"] = {}
    write_record(tmp_path / "record.json", seen)
    _, page = reports(tmp_path)
    assert page.images == []
    assert page.words.count("test/0.jpg") == 2


@pytest.mark.parametrize(
    "path",
    ["../secret.png", "pictures/../../secret.png", "/etc/passwd", "http://evil.example/1.png", "pictures/"],
)
def test_a_path_that_leads_elsewhere_is_refused(seen: Record, path: str) -> None:
    seen["pictures"]["thumbnails"]["7"] = path
    with pytest.raises(
        ValueError, match=r"record: pictures\.thumbnails\.7 must be text like .*, got \"" + path
    ):
        check_record(seen)


def test_names_and_captions_cannot_become_markup(seen: Record, tmp_path: Path) -> None:
    text = f"{ATTACK} {MARKUP}"
    pictures = seen["pictures"]
    pictures["description"] = text
    pictures["retrieved"][0]["text"] = text
    for picture in (*pictures["retrieved"][0]["before"], *pictures["retrieved"][0]["after"]):
        picture["name"] = text + '" onload="alert(1)'
    pictures["captions"][0] |= {"name": text, "references": [text], "before": text, "after": text}
    pictures["confusion"] = confusion([f"{text} {number}" for number in range(3)])
    del pictures["thumbnails"]["12"]
    markdown, page = reports(with_thumbnails(seen, tmp_path))
    assert "script" not in page.tags
    assert [sorted(image) for image in page.images] == [["alt", "src"]] * 3
    assert {image["alt"] for image in page.images} == {text + '" onload="alert(1)'}
    assert page.words.count(text) >= 8  # shown as it is
    assert re.search(r"(?<!\\)<(?!/?(details|summary)>)", markdown.split("## Recipe")[0]) is None
    assert markdown.count("a\\|b \\[c\\](d) \\`e\\` \\*f\\* \\_g\\_ \\# h") >= 8
    outside = [line for line in markdown.splitlines() if MARKUP in line]
    assert outside == []


def test_report_writes_it_again_from_record_and_pictures_alone(run: Path, tmp_path: Path) -> None:
    write_report(run)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(run / "record.json", other)
    shutil.copytree(run / "pictures", other / "pictures")
    assert main(["report", str(other)]) == 0
    for name in ("report.html", "report.md", "plots/confusion.png"):
        assert (other / name).read_bytes() == (run / name).read_bytes()


def test_a_network_that_diverged_finds_nothing(seen: Record, tmp_path: Path) -> None:
    seen["pictures"]["retrieved"][0]["after"] = []
    seen["pictures"]["confusion"]["after"] = [[0] * 3] * 3
    seen["pictures"]["captions"][0]["after"] = ""
    markdown, page = reports(with_thumbnails(seen, tmp_path))
    assert "none: its vectors are no numbers" in page.words
    assert "none: its vectors are no numbers" in markdown
    assert "(nothing)" in page.words
    assert "| boat | 4 | 100.0 % | - | - | - |" in markdown


@pytest.mark.parametrize("part", ["retrieved", "captions", "confusion"])
def test_what_a_network_does_not_do_is_left_out(seen: Record, part: str) -> None:
    whole = len(picture_blocks(seen))
    seen["pictures"][part] = None if part == "confusion" else []
    check_record(seen)
    assert len(picture_blocks(seen)) == whole - 2  # a sentence and the block, or the plot and its table


def test_runs_without_pictures_have_no_such_chapter(record: Record, tmp_path: Path) -> None:
    write_record(tmp_path / "record.json", record)
    markdown, page = reports(tmp_path)
    assert "## Pictures" not in markdown
    assert page.images == []


def test_the_two_matrices_have_one_scale_and_the_names_of_the_classes(seen: Record) -> None:
    figure = plot_confusion(seen)
    assert figure is not None
    before, after = figure.axes
    assert [label.get_text() for label in before.get_yticklabels()] == ["boat", "cat", "dog"]
    for axes, shares in ((before, [100, 100, 100]), (after, [75, 25, 100, 100])):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["boat", "cat", "dog"]
        assert [int(text.get_text()) for text in axes.texts] == shares
        shades = [patch.get_alpha() for patch in axes.patches if patch.get_alpha()]
        assert shades == pytest.approx([0.55 * share / 100 for share in shares])
        assert sum(patch.get_linewidth() > 0 for patch in axes.patches) == 3  # frames


def test_the_plot_of_many_classes_shows_those_that_changed(seen: Record, tmp_path: Path) -> None:
    seen["pictures"]["confusion"] = confusion([f"class {number}" for number in range(30)])
    shown = confusion_of(seen)
    assert shown is not None
    assert shown["classes"][:2] == ("class 0", "class 1")
    assert shown["classes"][-1] == "11 others"  # 20 rows: 19 classes and the rest
    write_record(tmp_path / "record.json", seen)
    markdown, _ = reports(tmp_path)
    assert "Of 30 classes those are shown that changed most; the others are one." in markdown
    assert "| class 29 | 4 | 100.0 % | 100.0 % | - | - |" in markdown


def test_a_row_of_several_classes_has_no_share_of_right_ones(seen: Record, tmp_path: Path) -> None:
    seen["pictures"]["confusion"] |= {"classes": ["boat", "cat", "8 others"], "others": 8}
    write_record(tmp_path / "record.json", seen)
    markdown, _ = reports(tmp_path)
    assert "| 8 others | 4 | - | - | - | - |" in markdown
    assert "Of 10 classes those are shown" in markdown


def test_a_matrix_that_does_not_fit_its_classes_is_refused(seen: Record) -> None:
    seen["pictures"]["confusion"]["after"][1] = [1, 2]
    expected = r"pictures\.confusion\.after must have a row and a column for each of 3 classes, got rows of \[3, 2, 3\]"
    with pytest.raises(ValueError, match=expected):
        check_record(seen)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"thumbnails": None}, "pictures.thumbnails must be object, got null"),
        ({"more": 1}, "pictures must have no keys but description, retrieved"),
        (
            {"retrieved": [{"text": "a", "before": [], "after": [{"index": -1}]}]},
            "after[0] must have the key",
        ),
    ],
)
def test_other_forms_are_refused(seen: Record, change: Record, said: str) -> None:
    seen["pictures"] |= change
    with pytest.raises(ValueError, match=re.escape(said)):
        check_record(seen)


def test_a_file_name_that_is_no_text_can_be_recorded(seen: Record, tmp_path: Path) -> None:
    seen["pictures"]["captions"][0]["name"] = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    write_record(tmp_path / "record.json", seen)
    _, page = reports(tmp_path)
    assert "caf\\udce9.jpg" in page.words
