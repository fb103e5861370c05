"""mkdocs.yml: the menu of the site names every page, and nothing of it is fetched from elsewhere."""

import pkgutil
import re
from pathlib import Path

import yaml

import wmcore

ROOT = Path(__file__).resolve().parent.parent
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def named(entries):
    """The pages of a menu, at any depth."""
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values():
                yield from named([value] if isinstance(value, str) else value)


def test_the_menu_names_every_page():
    menu = list(named(CONFIG["nav"]))
    assert len(menu) == len(set(menu))
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    root = {path.name for path in ROOT.glob("*.md")}
    assert set(menu) == pages | root | {"examples/README.md"}


def test_make_lays_out_what_the_menu_names():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (linked,) = re.findall(r"ln -s \$\(addprefix \.\./\.\./,(.*)\) build/pages", makefile)
    assert {page.split("/")[0] for page in named(CONFIG["nav"])} == set(linked.split())


def test_links_to_headings_work_on_the_site_too():
    """Both make anchors from headings; but the site drops letters outside ASCII, and makes one dash of several."""
    anchors = [
        anchor
        for page in named(CONFIG["nav"])
        for anchor in re.findall(
            r"\]\([^)\s]*#([^)\s]*)\)", (ROOT / page).read_text(encoding="utf-8")
        )
    ]
    assert len(anchors) > 10
    assert [anchor for anchor in anchors if not re.fullmatch(r"\w+(-\w+)*", anchor, re.ASCII)] == []


def test_nothing_is_fetched_from_elsewhere():
    assert CONFIG["theme"]["font"] is False
    assert not set(CONFIG) & {"extra_css", "extra_javascript", "repo_url"}


def test_the_api_page_names_what_exists():
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    paths = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    for path in paths:
        pkgutil.resolve_name(path)
    public = set(wmcore.__all__) - {"SCHEMES", "__version__"}
    assert public <= {path.rpartition(".")[2] for path in paths}
