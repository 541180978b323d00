"""The report: what it says, that it is one file, and how it looks in a browser."""

import html.parser
import re
import shutil
import subprocess

import numpy as np
import pytest

import leaveout as lo

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
NAMES = ("good", "fair", "<bad> & $rich$", "Zürich 東京")


@pytest.fixture(scope="module")
def credit():
    """A fit in which the labels of one group are turned round, judged by loss and accuracy."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(280, 3))
    y = (x @ [2.0, -1.0, 1.0] + rng.logistic(size=280) > 0).astype(int)
    site = np.array(NAMES)[np.arange(80) % 4]
    queries, (x, y) = (x[80:], y[80:]), (x[:80], y[:80])
    y = np.where(site == NAMES[2], 1 - y, y)
    part = np.where(queries[0][:, 2] > 0, "north", "south")
    everyone = {"all": part != "", "north": part == "north", "south": part == "south"}
    measures = [lo.measures.loss(queries, by=everyone), lo.measures.accuracy(queries)]
    groups = lo.Groups.from_labels(site, kind="vendor")
    return lo.credit(lo.fit(lo.logistic(x, y, l2=1.0)), groups, measures, actual=True, null=200)


@pytest.fixture(scope="module")
def page(credit, tmp_path_factory):
    return lo.report(credit, tmp_path_factory.mktemp("page") / "report.html", command="the command")


class Reader(html.parser.HTMLParser):
    """Text, tags and addresses of a page."""

    def __init__(self):
        super().__init__()
        self.text, self.tags, self.addresses = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.addresses += [v for v in values if v and not v.startswith(("#", "data:"))]

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(page.read_text("utf-8"))
    return reader


def rows(text, name):
    """The row of the table that begins with a name."""
    return next(row for row in re.findall(r"<tr.*?</tr>", text, re.S) if f">{name}<" in row)


def test_the_page_is_one_file_that_says_what_a_reader_asks(page):
    reader = read(page)
    assert not reader.addresses
    assert "script" not in reader.tags
    assert "bad" not in reader.tags  # names are text, never tags
    assert reader.tags.count("svg") == 3
    text = " ".join(" ".join(reader.text).split())
    for words in (
        "What would the model be if one vendor had not been there?",
        "Less is better",
        "hurts most: without it the model is better",
        "200 random groups of the same size",
        "Zürich 東京",
        "<bad> & $rich$",
        "fitted again without each group",
        "SHA-256 of the examples",
        "the command",
        "(numerical)",
        "(statistical)",
        "jax 0.",
    ):
        assert words in text, words


def test_colours_say_better_or_worse_whatever_the_sign_of_the_measure(credit, page, tmp_path):
    other = lo.report(credit, tmp_path / "accuracy.html", column="accuracy")
    for each in (page, other):
        row = rows(each.read_text("utf-8"), "&lt;bad&gt; &amp; $rich$")
        assert 'class="word hurts' in row
        assert ">helps" not in row
    assert credit.best.better == (-1, -1, -1, 1)
    loss, accuracy = credit.best.value[credit.groups.names == NAMES[2]][0, [0, 3]]
    assert loss < 0 < accuracy


def test_the_same_credit_gives_the_same_page(credit, page, tmp_path):
    again = lo.report(credit, tmp_path / "again.html", command="the command")
    assert again.read_bytes() == page.read_bytes()


@pytest.mark.slow
def test_flagged_effects_are_not_known_and_nothing_else_is_refused(tmp_path, as_users_run_it):
    x = np.array([[0.0], [0.1], [0.3], [0.9], [1.0], [1.2], [0.5], [0.6]])
    y = np.array([0, 0, 0, 1, 1, 1, 0, 1])
    groups = lo.Groups.from_indices([[0, 1], [3, 4, 5, 7], [2, 6]], n=8, names=["a", "b", "c"])
    fit = lo.fit(lo.logistic(x, y, l2=1e-3))
    found = lo.credit(fit, groups, lo.measures.loss((x, y), reduce="sum"), actual=True, null=0)
    flagged = found.effects["actual"].column_status.any()
    path = lo.report(found, tmp_path / "report.html", title="A <title>", column="sum of loss")
    text = path.read_text("utf-8")
    assert "<h1>A &lt;title&gt;</h1>" in text
    assert "were not compared with random ones" in text
    assert ("not known" in text) == flagged
    with pytest.raises(ValueError, match="expected a `Credit`"):
        lo.report(found.best)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown column 'what'"):
        lo.report(found, column="what")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs the browser chromium, Debian's for example")
@pytest.mark.parametrize("width", [420, 1280])
def test_a_browser_shows_it_at_any_width_without_running_over(page, width, tmp_path):
    """The body is as wide as the window: what is wider scrolls inside."""
    probe = tmp_path / "probe.html"
    measured = "<script>document.title = document.documentElement.scrollWidth</script></body>"
    probe.write_text(page.read_text("utf-8").replace("</body>", measured), "utf-8")
    picture = tmp_path / "page.png"
    common = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
              f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2000"]  # fmt: skip
    for last in ([f"--screenshot={picture}"], ["--dump-dom"]):
        done = subprocess.run([*common, *last, probe.as_uri()], capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr[-500:]
    found = re.search(rb"<title>(\d+)</title>", done.stdout)
    assert found is not None
    assert int(found[1]) <= max(width, 500)  # headless windows are no narrower than 500
    assert picture.stat().st_size > 30_000
