#!/usr/bin/env python3
"""Chunks of real text, in several languages and scripts, for tests and the demo.

    handbook.py [--lang fr-FR]… [--limit N] [--copy] [--folder DIR]

Prints CSV with a head line, or with --copy the text format of COPY … FROM STDIN, of the columns

    id             uuid   the same for the same text at the same place, in every run
    namespace      text   'debian-handbook-fr'
    document_id    uuid   one a page of the book
    chunk_index    int    0, 1, 2 … within the document
    content        text   whole paragraphs, about 800 to 1500 characters of them
    metadata       jsonb  lang, title, section, source, license
    token_count    int    an estimate, four characters to a token

Without --lang: fr-FR, ar-MA and en-US. --limit is for each language.

The text is The Debian Administrator's Handbook by Raphaël Hertzog and Roland Mas, under GPL-2+ or
CC BY-SA 3.0 (debian-handbook.info). It comes from Debian's package debian-handbook when this runs;
none of it is part of this repository.
"""

import argparse
import csv
import html.parser
import json
import pathlib
import re
import signal
import sys
import uuid

FOLDER = "/usr/share/doc/debian-handbook/html"
LANGUAGES = ["fr-FR", "ar-MA", "en-US"]
COLUMNS = ["id", "namespace", "document_id", "chunk_index", "content", "metadata", "token_count"]
SOURCE = "The Debian Administrator's Handbook, Raphaël Hertzog and Roland Mas"
LICENSE = "GPL-2+ or CC BY-SA 3.0"
# Of no meaning but that it is always the same.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://debian-handbook.info/")
SHORT, LONG = 800, 1500
VOID = {"br", "hr", "img", "link", "meta", "col", "input"}


class Page(html.parser.HTMLParser):
    """A page's title, and its paragraphs with the heading under which each stands."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.title = ""
        self.section = ""
        self.paragraphs = []
        # The open elements, innermost last: what each of them is to us.
        self.open = []
        self.text = []

    def role_of(self, tag, attributes):
        classes = (dict(attributes).get("class") or "").split()
        if tag == "title":
            return "title"
        if tag == "div" and "para" in classes:
            return "para"
        if re.fullmatch("h[1-6]", tag) and "title" in classes:
            return "heading"
        if tag in ("pre", "script", "style"):
            return "skip"
        return None

    def handle_starttag(self, tag, attributes):
        if tag in VOID:
            return
        role = self.role_of(tag, attributes)
        if role == "para" and "para" in self.roles():
            # A list or a box within a paragraph: what stands before it is a paragraph of its own.
            self.finish_paragraph()
        elif role:
            if role != "skip":
                self.text = []
        self.open.append((tag, role))

    def handle_endtag(self, tag):
        while self.open:
            opened, role = self.open.pop()
            if role == "para":
                self.finish_paragraph()
            elif role in ("title", "heading"):
                text = self.take_text()
                if role == "title":
                    self.title = text
                else:
                    self.section = text
            if opened == tag:
                return

    def handle_data(self, data):
        roles = self.roles()
        if roles and "skip" not in roles:
            self.text.append(data)

    def roles(self):
        return [role for _, role in self.open if role]

    def take_text(self):
        text = re.sub(r"\s+", " ", "".join(self.text)).strip()
        self.text = []
        return text

    def finish_paragraph(self):
        text = self.take_text()
        if text:
            self.paragraphs.append((self.section or self.title, text))


def shortened(text):
    """A paragraph in pieces of at most LONG characters, cut between sentences or else words."""
    while len(text) > LONG:
        cut = max(text.rfind(mark, SHORT, LONG) for mark in (". ", "? ", "! ", "؟ "))
        cut = cut + 1 if cut > 0 else text.rfind(" ", SHORT, LONG)
        cut = cut if cut > 0 else LONG
        yield text[:cut].strip()
        text = text[cut:].strip()
    if text:
        yield text


def chunks_of(paragraphs):
    """Pairs (heading of the first paragraph, text)."""
    held, section = "", ""
    for heading, paragraph in paragraphs:
        for piece in shortened(paragraph):
            if held and (len(held) >= SHORT or len(held) + 2 + len(piece) > LONG):
                yield section, held
                held = ""
            if not held:
                section = heading
            held = f"{held}\n\n{piece}" if held else piece
    if held:
        yield section, held


def rows_of(folder, language):
    short = language.split("-")[0]
    for file in sorted((pathlib.Path(folder) / language).glob("*.html")):
        page = Page()
        page.feed(file.read_text(encoding="utf-8"))
        page.close()
        document = uuid.uuid5(NAMESPACE, f"{language}/{file.stem}")
        for index, (section, content) in enumerate(chunks_of(page.paragraphs)):
            metadata = {
                "lang": language,
                "title": page.title,
                "section": section,
                "source": SOURCE,
                "license": LICENSE,
            }
            yield [
                uuid.uuid5(document, f"{index}/{content}"),
                f"debian-handbook-{short}",
                document,
                index,
                content,
                json.dumps(metadata, ensure_ascii=False),
                -(-len(content) // 4),
            ]


def copy_line(row):
    escapes = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return "\t".join(re.sub(r"[\\\n\r\t]", lambda m: escapes[m[0]], str(value)) for value in row) + "\n"


def main():
    parser = argparse.ArgumentParser(description="Prints chunks of The Debian Administrator's Handbook.")
    parser.add_argument("--lang", action="append", help="a folder of the book; may be repeated")
    parser.add_argument("--limit", type=int, help="so many chunks of each language")
    parser.add_argument("--copy", action="store_true", help="COPY's text format instead of CSV")
    parser.add_argument("--folder", default=FOLDER, help="where the book's languages are")
    options = parser.parse_args()
    # A reader that has enough (head) is no error.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.stdout.reconfigure(encoding="utf-8", newline="")

    writer = csv.writer(sys.stdout, lineterminator="\n")
    if not options.copy:
        writer.writerow(COLUMNS)
    for language in options.lang or LANGUAGES:
        if not (pathlib.Path(options.folder) / language).is_dir():
            sys.exit(f"handbook: no {language} in {options.folder}; the package is debian-handbook")
        for number, row in enumerate(rows_of(options.folder, language)):
            if number == options.limit:
                break
            if options.copy:
                sys.stdout.write(copy_line(row))
            else:
                writer.writerow(row)


if __name__ == "__main__":
    main()
