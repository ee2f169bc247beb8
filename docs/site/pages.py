"""Gives MkDocs the pages of the site and their order.

The documents lie in the site as they do in the repository, so that the links between them hold in both; the
first page is README.md. The list of the documents, docs/README.md, is the navigation: each heading of it is a
section. What they link to besides, such as a source file, is copied.
"""

import functools
import os.path
import re
from pathlib import Path

from commands import command_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference import public_packages, reference_pages

from tfprune.bin.tensorflow_start import start_tensorflow

ROOT = Path(__file__).resolve().parents[2]
FIRST, MAP = "README.md", "docs/README.md"
_LINK = re.compile(r"\[([^\]\n]+)\]\(([^)#:\s]+)[^)]*\)")
# Code, and what has no links in it.
_CODE = re.compile(r"<code>([\w.]+)</code>|<(a|pre|h\d)\b.*?</\2>", re.DOTALL)
_WORDS_OF_FENCE = re.compile(r"^(```\w+) .*$", re.MULTILINE)


def on_startup(**_: object) -> None:
    """Loads TensorFlow without its notes, before the commands and the packages do."""
    start_tensorflow()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Returns the files of the site, and sets the navigation."""
    listed = documents()
    made = {
        "Commands": _section("Commands", "command", command_pages(ROOT)),
        "Reference": _section("Reference", "package", reference_pages()),
    }
    guides, *others = (_entry(heading, titles) for heading, titles in listed.items())
    (guides_entries,) = guides.values()
    guides_entries.insert(0, MAP)
    config.nav = [
        {"Start": FIRST},
        guides,
        *({heading: list(texts)} for heading, texts in made.items()),
        *others,
    ]
    of_docs = [file for file in files if file.src_dir == config.docs_dir]
    paths = {FIRST, MAP}.union(*listed.values())
    paths |= {os.path.relpath(file.abs_src_path, ROOT) for file in of_docs if file.inclusion.is_included()}
    paths |= {path for document in paths for path in _linked_files(document)}
    texts = {path: text for section in made.values() for path, text in section.items()}
    return Files(
        [
            *(file for file in files if file not in of_docs),
            *(_file(path, config) for path in sorted(paths)),
            *(File.generated(config, path, content=text) for path, text in texts.items()),
        ]
    )


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Returns a document as Python-Markdown reads it; the first page begins with a screen of its own."""
    markdown = _WORDS_OF_FENCE.sub(r"\1", markdown)
    if page.file.src_uri == FIRST:
        page.meta["hide"] = ["navigation", "toc"]
        screen, rest = markdown.split("\n## ", 1)
        markdown = f'<div class="first-screen" markdown="1">\n\n{screen}\n\n</div>\n\n## {rest}'
    return markdown


def on_page_content(html: str, **_: object) -> str:
    """Returns a page with each public name that stands in it as code linked to its place in the reference."""
    places = reference_places()

    def linked(match: re.Match[str]) -> str:
        place = places.get(match[1])
        return f'<autoref identifier="{place}">{match[0]}</autoref>' if place else match[0]

    return _CODE.sub(linked, html)


@functools.cache
def reference_places() -> dict[str, str]:
    """Returns what is in the reference: as it is written in a text -> its name there.

    A public name may be written without its package, but for one of a single word, such as `load`.
    """
    packages = public_packages()
    homes: dict[str, str] = {}
    places = {package: package for package in packages}
    for name in (name for names in packages.values() for name in names):
        last = name.path.rpartition(".")[2]
        forms = (name.path, last) if re.search(r"_|[A-Z].*[A-Z]", last) else (name.path,)
        places |= dict.fromkeys(forms, homes.setdefault(name.home, name.path))
    return places


def documents() -> dict[str, dict[str, str]]:
    """Returns what docs/README.md lists: heading -> path from the repository's root -> title."""
    sections: dict[str, dict[str, str]] = {}
    for part in (ROOT / MAP).read_text(encoding="utf-8").split("\n## ")[1:]:
        heading, _, body = part.partition("\n")
        rows = [row for row in body.splitlines() if row.startswith("| [")]
        links = [link for row in rows if (link := _LINK.search(row))]
        sections[heading] = {_from_root(MAP, link[2]): link[1] for link in links}
    return sections


def _entry(heading: str, titles: dict[str, str]) -> dict[str, object]:
    """Returns a section of the navigation; a single document is one by itself."""
    if len(titles) == 1:
        return {heading: next(iter(titles))}
    return {heading: [{title: path} for path, title in titles.items()]}


def _section(heading: str, kind: str, pages: dict[str, str]) -> dict[str, str]:
    """Returns the pages of a section by their paths, the first of them a list of the others."""
    rows = "\n".join(f"| [`{name}`]({name}.md) | {_first_paragraph(text)} |" for name, text in pages.items())
    folder = heading.lower()
    return {
        f"{folder}/index.md": f"# {heading}\n\n| {kind} | what it is |\n|---|---|\n{rows}\n",
        **{f"{folder}/{name}.md": text for name, text in pages.items()},
    }


def _first_paragraph(page: str) -> str:
    return " ".join(page.split("\n\n")[1].split())


def _linked_files(document: str) -> set[str]:
    """Returns the files that a document links to, from the repository's root."""
    if not document.endswith(".md"):
        return set()
    links = _LINK.finditer((ROOT / document).read_text(encoding="utf-8"))
    targets = {_from_root(document, link[2]) for link in links}
    return {target for target in targets if (ROOT / target).is_file()}


def _from_root(document: str, link: str) -> str:
    return os.path.normpath(os.path.join(os.path.dirname(document), link))


def _file(path: str, config: MkDocsConfig) -> File:
    shown = f"{path}.txt" if path.endswith(".py") else None  # As a browser shows it, and does not save it.
    return File(path, str(ROOT), config.site_dir, config.use_directory_urls, dest_uri=shown)
