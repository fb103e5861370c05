"""The text of an HTML page, as a browser would copy it, by lxml's parser: in one pass, without a tree.

Line breaks follow ``innerText`` of the HTML standard, without style sheets: a paragraph is set off by a blank line,
another block begins a line, cells of a table are parted by a tab. Everything that a page shows is kept, menus, too:
what is the article and what is not would be a guess, and p-values would change with every version of it.
"""

import codecs
import re
from typing import Any

from wmcore.checks import require
from wmcore.reading import Page, decode, too_long

_HIDDEN = re.compile("head|title|script|style|template|noscript|iframe|svg|audio|video|canvas")
_BLOCK = re.compile(
    "address|article|aside|blockquote|body|caption|center|dd|details|dialog|dir|div|dl|dt|fieldset|figcaption|figure"
    "|footer|form|h[1-6]|header|hgroup|hr|html|legend|li|listing|main|menu|nav|ol|option|p|pre|search|section|select"
    "|summary|table|tbody|tfoot|thead|tr|ul"
)
_KEPT = frozenset(("pre", "textarea", "listing", "plaintext"))
_META = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]{1,40})""", re.IGNORECASE)
_SPACE = re.compile("[ \t\n\r\f]+")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What the web means by these names, by the standard "Encoding" of the WHATWG.
_MEANT = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "utf-16": "utf-16-le",
}
_ENCODING = re.compile(
    "utf-8|utf-16-[bl]e|cp(125[0-8]|866|874|932|949)|iso8859-([2-8]|1[03456])|koi8-[ru]|mac-(roman|cyrillic)|gb18030"
    "|big5hkscs|euc_jp|iso2022_jp"
)


def page_text(page: Page, limit: int) -> tuple[str | None, str | None]:
    """(the text of a page, HTML or plain, None), or (None, what is wrong with it)."""
    if page.is_html:
        return html_text(page.raw, page.charset, limit)
    encoding = _encoding(page.charset) if page.charset else None
    if encoding in (None, "utf-8"):
        return decode(page.raw, limit)
    return page.raw.decode(encoding, "replace"), None


def html_text(raw: bytes, charset: str | None, limit: int) -> tuple[str | None, str | None]:
    """(the text of a page, None), or (None, what is wrong with it).

    Parameters
    ----------
    raw : bytes
    charset : str or None
        The encoding that was sent with the page. It counts after a byte-order mark and before what the page itself
        says; a page of which neither says one is UTF-8, or else Windows-1252.
    limit : int
        Bytes of the longest page.
    """
    if len(raw) > limit:
        return None, too_long(limit)
    require("lxml", "run pip install 'wmcore-lm[scan]', which reads HTML", "6")
    from lxml import etree

    page = _Text()
    # Without a tree nothing grows with the depth of a page, so that libxml2's limit for it is not needed.
    parser = etree.HTMLParser(target=page, huge_tree=True)
    text = _decoded(raw, charset).replace("\0", "")
    try:
        parser.feed(text)
        parser.close()
    except etree.LxmlError:
        if text.strip():  # a page of nothing is an error to lxml, and to nobody else
            return None, "no HTML that can be read"
    shown = page.text()
    return (
        (shown, None)
        if shown
        else (None, "a page that shows no text, but for what scripts may draw")
    )


def _decoded(raw: bytes, charset: str | None) -> str:
    for mark, name in _MARKS:
        if raw.startswith(mark):
            return raw[len(mark) :].decode(name, "replace")
    named = _META.search(raw[:1024])
    inside = _encoding(named[1].decode("ascii", "replace")) if named else None
    if inside is not None and inside.startswith("utf-16"):
        inside = "utf-8"  # its name could not be read otherwise
    encoding = (_encoding(charset) if charset else None) or inside
    if encoding is not None:
        return raw.decode(encoding, "replace")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")


def _encoding(label: str) -> str | None:
    """Python's name of an encoding of the web, or None for any other (Python knows some that unpack or evaluate)."""
    try:
        name = codecs.lookup(label.strip().strip("\"'")).name
    except (LookupError, ValueError):
        return None
    name = _MEANT.get(name, name)
    return name if _ENCODING.fullmatch(name) else None


class _Text:
    """What lxml tells of a page: text is gathered, with the line breaks that tags stand for."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._hidden: list[str] = []  # the open elements that are not shown
        self._kept = 0  # open elements whose white space counts
        self._breaks = 0  # line ends before the next text
        self._space = False  # a space before the next text

    def start(self, tag: str, attributes: Any) -> None:
        if self._hidden:
            if tag == self._hidden[0]:
                self._hidden.append(tag)
            return
        if _HIDDEN.fullmatch(tag):
            self._hidden.append(tag)
        elif tag == "br":
            self._add("\n")
        elif tag in ("td", "th"):
            self._space = self._space or (bool(self._parts) and not self._breaks)
        else:
            self._break(tag)
            self._kept += tag in _KEPT

    def end(self, tag: str) -> None:
        if self._hidden:
            if tag == self._hidden[-1]:
                self._hidden.pop()
            return
        self._break(tag)
        self._kept -= tag in _KEPT

    def data(self, text: str) -> None:
        if self._hidden:
            return
        if self._kept > 0:
            self._add(text.replace("\r\n", "\n"))
            return
        words = _SPACE.sub(" ", text)
        self._space = self._space or words.startswith(" ")
        if words := words.removeprefix(" "):
            self._add(words.removesuffix(" "))
            self._space = words.endswith(" ")

    def close(self) -> None:
        return None

    def text(self) -> str:
        """All of it."""
        return "".join(self._parts).strip("\n")

    def _break(self, tag: str) -> None:
        if _BLOCK.fullmatch(tag):
            self._breaks = max(self._breaks, 2 if tag == "p" else 1)
            self._space = False

    def _add(self, text: str) -> None:
        if self._parts:
            if self._breaks:
                self._parts.append("\n" * self._breaks)
            elif self._space and text != "\n" and not self._parts[-1].endswith("\n"):
                self._parts.append(" ")
        self._breaks = 0
        self._space = False
        self._parts.append(text)
