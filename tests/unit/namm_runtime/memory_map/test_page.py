"""The page shows the document, exactly, and counts what is really in the cache."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from namm_runtime.cli import app
from namm_runtime.evaluate.unit import PolicySpec
from namm_runtime.memory_map.page import page
from namm_runtime.memory_map.retention import Retention, TokenisedDocument, measure_retention
from namm_runtime.memory_map.token_kinds import classify_tokens
from namm_runtime.model.loading import LoadedModel
from tests.support.tiny import save_tiny_llama

VOID = {"meta", "rect"}


NASTY = (
    "\n\n  <script>alert(1)</script> &amp; <b onclick=\"x\">'quoted'</b>\r\nend\tof line \r \u2028 ü 漢字 🙂"
    " --> ]]>\n"
    "</div></main></body> &#13; \x0b\x0c trailing  \n"
)


class Page(HTMLParser):
    """Text of the blocks, and whether every element is closed in turn."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: list[str] = []
        self.seen: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        self.attributes += attributes
        if ("class", "text") in attributes:
            self.blocks.append("")
        if tag not in VOID:
            self.open.append((tag, dict(attributes)))

    def handle_startendtag(self, tag, attributes):
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if any(attributes.get("class") == "text" for _, attributes in self.open):
            self.blocks[-1] += data


def parsed(html: str) -> Page:
    reader = Page()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def mapped(
    model: LoadedModel, path: Path, *policies: str, slots: int = 64, interval: int = 32, **more: int
) -> tuple[str, list[Retention], TokenisedDocument]:
    document = TokenisedDocument.read(path, model.tokenizer)
    readings = [
        measure_retention(model, path, spec, None if spec.policy == "full" else slots, interval, "auto")
        for spec in map(PolicySpec.parse, policies)
    ]
    of_tokens, decided = classify_tokens(document, path.name)
    return (
        page(path.name, model, document, readings, of_tokens, decided, interval, **more),
        readings,
        document,
    )


def test_the_text_is_the_document_whatever_is_in_it(model, tmp_path):
    path = tmp_path / "<img src=x onerror=alert(1)>.txt"
    path.write_bytes((NASTY * 9).encode())
    html, _, document = mapped(model, path, "streaming")
    found = parsed(html)
    assert "".join(found.blocks) == document.text == NASTY * 9
    assert found.seen & {"script", "img", "b", "link", "iframe", "a"} == set()
    assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("src", "href")]
    assert "http:" not in html
    assert "https:" not in html
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in found.attributes


def test_several_policies_stand_side_by_side(model, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("".join(f"Line {number} of the document.\n" for number in range(60)) + "x" * 300)
    html, _, document = mapped(model, path, "streaming", "l2", "full")
    found = parsed(html)
    assert ["".join(found.blocks[start::3]) for start in range(3)] == [document.text] * 3
    assert "--columns: 3" in html
    for policy in ("streaming", "l2", "full"):
        assert f"<dd>{policy}</dd>" in html


def test_counts_are_those_of_the_cache(model, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("0123456789" * 50)
    _, (reading,), document = mapped(model, path, "streaming")
    # One byte a token; 500 tokens are read: the last eviction was at 480, 20 came later.
    assert document.tokens == 500
    expected = np.zeros(500)
    expected[[0, 1, 2, 3]] = 2  # sinks, in the one KV head of both layers
    expected[480 - 60 :] = 2
    assert (reading.counts == expected).all()
    assert (reading.kept == [[84], [84]]).all()
    assert (reading.heads, reading.waiting) == (2, 20)
    _, (full,), _ = mapped(model, path, "full")
    assert (full.counts == 2).all()
    assert full.waiting == 0


def test_the_page_shades_what_is_remembered_and_prints_the_figures(model, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("0123456789" * 50)
    html, _, _ = mapped(model, path, "streaming")
    runs = re.findall(r'<span class="(l\d)">([^<]*)</span>', html[html.index('<main id="text">') :])
    text = "0123456789" * 50
    assert runs == [("l8", text[:4]), ("l0", text[4:420]), ("l8", text[420:])]
    assert html.count(f"{84 / 500:.1%}</td>") >= 2  # of both layers
    assert "64 slots per head" in html
    assert "the last 20 tokens" in html


def test_tokens_that_share_a_character_share_its_shade(model, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("🙂" * 200)  # four tokens each
    html, (reading,), document = mapped(model, path, "streaming", slots=66, interval=48)
    assert document.tokens == 800
    assert "".join(parsed(html).blocks) == "🙂" * 200
    assert (reading.counts > 0).sum() == 66 + 800 % 48
    # The oldest recent token is the third of its character's four.
    shaded = html[html.index('<main id="text">') :].count('<span class="l8">')
    first = 800 - 800 % 48 - 62
    assert first % 4 == 2
    assert f'<span class="l8">{"🙂" * (200 - first // 4)}</span>' in html
    assert shaded == 2


def test_very_long_documents_leave_out_what_nobody_holds_and_say_so(model, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("begin" + "x" * 1500 + "\n" + "end" * 20)
    html, _, document = mapped(model, path, "streaming", longest=1000)
    shown = "".join(parsed(html).blocks)
    gone = int(re.search(r'class="gap">([\d,]+) characters', html).group(1).replace(",", ""))
    assert len(shown) + gone == len(document.text)
    assert shown.startswith("begin")
    assert shown.endswith("end" * 20)
    assert "too many for one page" in html
    html, _, document = mapped(model, path, "full", longest=1000)
    assert "".join(parsed(html).blocks) == document.text[:1000]
    assert "shown up to character 1,000" in html


def test_the_command_writes_a_page(model, tmp_path):
    document = tmp_path / "notes.md"
    document.write_text("Some notes about the house.\n" * 30)
    directory = save_tiny_llama(tmp_path / "model")
    out = tmp_path / "map.html"
    arguments = ["map", str(document), "--model", str(directory), "--out", str(out), "--interval", "32"]
    result = CliRunner().invoke(app, [*arguments, "--policy", "h2o", "--policy", "window", "--budget", "25%"])
    assert result.exit_code == 0, result.output
    html = out.read_text()
    assert "<dd>h2o</dd>" in html
    assert "<dd>streaming</dd>" in html
    assert "".join(parsed(html).blocks[::2]) == document.read_text()
    refused = CliRunner().invoke(app, [*arguments, "--policy", "best"])
    assert refused.exit_code == 2
    assert "unknown_policy:" in refused.output
    document.write_text("")
    assert "document_empty" in CliRunner().invoke(app, [*arguments, "--policy", "h2o"]).output
