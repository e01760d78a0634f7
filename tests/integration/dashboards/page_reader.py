"""Reads a page of the overview back into its figures, tables and alerts."""

from html.parser import HTMLParser

VOID = {"meta", "link", "input"}


class Page(HTMLParser):
    """Reads a page into figures (``dl``) and tables by their caption; fails on tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.figures: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.alerts: list[str] = []
        self.caption = self.name = ""
        self.text = ""
        self.is_alert = False
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "a" and self.is_alert:
            # an alert's link is a part of what it says
            self.open.append(tag)
            return
        if tag == "a" and self.open and self.open[-1] == "caption":
            self.caption = self.text.strip()
            self.tables[self.caption] = []
        self.text = ""
        self.is_alert = ("class", "problem") in attrs and ("id", "problem") not in attrs
        if tag == "tr":
            self.tables[self.caption].append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_data(self, data):
        self.text += data

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "dt":
            self.name = self.text
        elif tag == "dd" and self.name in self.figures:
            self.notes[self.name] = self.text
        elif tag == "dd":
            self.figures[self.name] = self.text
        elif tag in ("td", "th"):
            self.tables[self.caption][-1].append(self.text)
        elif tag == "p" and self.is_alert:
            self.alerts.append(self.text)
