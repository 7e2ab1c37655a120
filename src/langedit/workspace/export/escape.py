"""Text of others inside Markdown: shown as it is, and never taken for markup."""

from __future__ import annotations

import re
import unicodedata

_MARKUP = re.compile(r"[&<>\\`*_\[\](){}|~$#!:@^\"']|(?<=www)\.", re.IGNORECASE)
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_LONGEST = 300


def inline(text: str) -> str:
    """Return text for one line or table cell: white space is one blank, markup becomes entities.

    Characters that would turn the direction of the text around them, and control characters, are
    replaced by U+FFFD. Long texts are cut.
    """
    if len(text) > _LONGEST:
        text = text[:_LONGEST].rstrip() + " …"
    line = " ".join(text.split())
    line = "".join("\ufffd" if unicodedata.category(c) == "Cc" else c for c in line)
    line = _DIRECTION.sub("\ufffd", line)
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", line)
