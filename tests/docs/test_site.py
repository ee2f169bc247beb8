"""The site: it is made without a warning, whole, and needs no other host."""

import html
import html.parser
import importlib
import inspect
import os
import pathlib
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

import tfprune
from tfprune.runs.config import ExperimentConfig
from tfprune.settings import settings_of

ROOT = pathlib.Path(__file__).parents[2]
OUTSIDE = re.compile(r"(\w+:)?//")

pytestmark = [pytest.mark.slow, pytest.mark.one_backend]


def build(root, folder):
    """Makes the site of the tree `root` in `folder`, as `make docs` does."""
    pytest.importorskip("mkdocs", reason="the site needs the packages of requirements-dev.txt")
    environment = {**os.environ, "PYTHONPATH": str(root), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)


class Page(html.parser.HTMLParser):
    """What a page links to, loads, and can be linked at."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.names = [], [], set()
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.names |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        target = attributes.get("href") or attributes.get("src")
        if target:
            (self.links if tag == "a" else self.loaded).append(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Path in the site -> page, and the folder at None."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    assert not re.search("^WARNING +-", done.stderr, re.MULTILINE)
    pages = {path.relative_to(folder).as_posix(): Page(path) for path in folder.rglob("*.html")}
    return {None: folder, **pages}


def test_each_document_is_in_the_navigation_by_the_title_of_the_list(site):
    navigation = dict(
        re.findall(
            r'<a href="([^"#]+)" class="md-nav__link[^>]*>\s*<span class="md-ellipsis">\s*(.*?)\s*</span>',
            site["index.html"].html,
            re.DOTALL,
        )
    )
    listed = re.findall(r"(?m)^\| \[(.+?)\]\((.+?)\)", (ROOT / "docs/README.md").read_text(encoding="utf-8"))
    titles = {(ROOT / "docs" / link).resolve(): title for title, link in listed}
    documents = [ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    assert len(documents) > 9
    for path in set(documents) - {ROOT / "docs/README.md"}:
        place = path.relative_to(ROOT).with_suffix(".html").as_posix()
        assert html.unescape(navigation[place]) == titles[path]
    assert {"docs/index.html", "saved_models/index.html", "docs/versions.html"} <= site.keys()


def test_the_first_page_says_what_it_is_and_where_to_go_in_one_screen(site):
    screen, rest = site["index.html"].html.split('class="first-screen"')[1].split("</div>\n<h2", 1)
    for text in ("Pruning for Keras 3", "pip install", "prune_low_magnitude", "docs/pruning.html"):
        assert text in screen
    assert "Two commands" in rest


def test_links_lead_somewhere(site):
    folder = site[None]
    for place, page in site.items():
        if place in (None, "404.html"):
            continue
        for link in page.links:
            if re.match(r"\w+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (folder / place).parent.joinpath(path).resolve() if path else folder / place
            assert target.exists(), f"{place}: {link}"
            linked = site.get(target.relative_to(folder).as_posix())
            if anchor and linked:
                assert anchor in linked.names, f"{place}: {link}"


def test_nothing_is_loaded_from_another_host(site):
    for place, page in site.items():
        if place:
            assert not [target for target in page.loaded if OUTSIDE.match(target)], place
    styles = "".join(path.read_text(encoding="utf-8") for path in site[None].rglob("*.css"))
    assert "--md-primary-fg-color" in styles
    assert not re.search(r"(url\(\s*['\"]?|@import\s*['\"])(https?:)?//", styles)


def public_names():
    """(package, path, thing) of the names in `__all__` of the packages, and of the modules among these."""
    found = []
    for package in pkgutil.iter_modules(tfprune.__path__, "tfprune."):
        waiting = [importlib.import_module(package.name)] if package.ispkg else []
        while waiting:
            module = waiting.pop()
            for name in getattr(module, "__all__", ()):
                thing = getattr(module, name)
                if inspect.ismodule(thing):
                    waiting.append(thing)
                elif name != "__version__":
                    found.append((package.name, f"{module.__name__}.{name}", thing))
    return found


def test_each_public_name_is_in_the_reference_with_its_signature(site):
    names = public_names()
    assert {"tfprune.export.export_model", "tfprune.sparsity.SET"} <= {path for _, path, _ in names}
    first, signed = {}, 0
    for package, path, thing in names:
        page = site[f"reference/{package}.html"].html
        described, at = first.setdefault(thing, (path, f"{package}.html"))
        if described != path:  # A link to where it is described.
            assert f'href="{at}#{described}"' in page, path
            continue
        start = page.index(f'id="{path}"')
        entry = page[start : page.find('<div class="doc doc-object', start)]
        text = html.unescape(re.sub("<[^>]+>", "", entry))
        assert inspect.getdoc(thing).split()[0] in text, path
        made_by = getattr(thing, "__init__", None) if isinstance(thing, type) else thing
        if getattr(made_by, "__module__", "").startswith("tfprune"):
            signed += 1
            signature = text[text.index(f"{path.rpartition('.')[2]}(") :]
            missing = [name for name in inspect.signature(thing).parameters if name not in signature]
            assert not missing, path
    assert signed > 35  # The others are made without arguments of their own.


def test_a_page_of_the_reference_shows_arguments_and_code(site):
    page = site["reference/tfprune.sparsity.html"].html
    entry = page[page.index('id="tfprune.sparsity.prune_low_magnitude"') :]
    entry = entry[: entry.index('<div class="doc doc-object')]
    assert "Parameters:" in entry and "Raises:" in entry
    assert re.search(r'class="highlight"><pre>.*<span class="n">strip_pruning</span>', entry, re.DOTALL)
    # A guide's code leads here.
    link = '<a class="autorefs autorefs-internal" title="prune_low_magnitude" href="../reference/tfprune.'
    assert link in site["docs/pruning.html"].html


def test_fences_are_code_whatever_the_words_behind_their_language(site):
    guide = (ROOT / "docs/pruning.md").read_text(encoding="utf-8")
    assert re.search("^```python all$", guide, re.MULTILINE)
    for place, page in site.items():
        if place:
            assert "```" not in re.sub("<pre.*?</pre>", "", page.html, flags=re.DOTALL), place


def test_each_flag_of_each_command_is_in_a_table(site):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = {path.name.removesuffix(".html") for path in site[None].glob("commands/tfprune-*.html")}
    assert listed == set(project["scripts"])
    for command in project["scripts"]:
        page = site[f"commands/{command}.html"]
        assert f">{command}</code>" in page.html
        assert {"flagfile", "output_dir"} <= page.names
    train = site["commands/tfprune-train.html"]
    settings = settings_of(ExperimentConfig)
    assert {said.group for said in settings.values()} <= train.names
    rows = dict(re.findall(r'<tr id="(\w+)">(.*)</tr>', train.html))
    for name, said in settings.items():
        flag, default, meaning, values = re.findall("<td[^>]*>(.*?)</td>", rows[name])
        assert flag == f"<code>--{name}</code>"
        assert html.unescape(re.sub("</?code>", "", meaning)).startswith(said.help)
        if said.choices:
            assert ", ".join(said.choices) in values
    assert "<code>--nospare_ends</code>" in rows["spare_ends"]
    assert ">required<" in rows["experiment"]
    assert "<code>1e-5</code>" in rows["learning_rate"]
    assert "Only with <code>--regrowth" not in rows["epochs"]
    assert "Only with <code>--regime=sparse</code>" in rows["drop_fraction"]


def test_what_is_wrong_ends_it(tmp_path):
    """A document that is not listed, links to no file and no heading; a docstring with a wrong name."""
    for name in ("docs", "tfprune", "saved_models/README.md", "mkdocs.yml", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, tmp_path / name)
    for path in ROOT.glob("*.md"):
        shutil.copy(path, tmp_path / path.name)
    (tmp_path / "docs/new.md").write_text("# New\n\n[a](gone.md) [b](pruning.md#gone) [c][tfprune.gone]\n")
    source = tmp_path / "tfprune/sparsity/prune.py"
    text = source.read_text(encoding="utf-8")
    assert "  to_prune: A model" in text
    source.write_text(text.replace("  to_prune: A model", "  to_brune: A model"), encoding="utf-8")
    done = build(tmp_path, tmp_path / "out")
    assert done.returncode == 1
    for words in (
        "(?m)^  - docs/new.md$",
        "'gone.md', but the target 'docs/gone.md' is not found",
        "'pruning.md#gone'.*does not contain an anchor '#gone'",
        "docs/new.md.*'tfprune.gone'",
        "Parameter 'to_brune' does not appear",
    ):
        assert re.search(words, done.stderr), (words, done.stderr)
