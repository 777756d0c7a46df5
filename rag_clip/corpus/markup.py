"""Remove what a web page leaves in a caption: HTML tags and entities, shortcodes, and addresses."""

from __future__ import annotations

import html
import re

# Known tags only: "<3", "x < y" and placeholders such as "<person>" are text.
_TAGS = (
    "a|abbr|article|aside|audio|b|big|blockquote|body|br|button|center|cite|code|div|em|embed|figcaption|figure|font|"
    "footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|label|li|link|main|meta|nav|noscript|object|ol|p|"
    "picture|pre|s|script|section|small|source|span|strike|strong|style|sub|sup|svg|table|tbody|td|th|thead|title|tr|"
    "tt|u|ul|video"
)
_CODE = re.compile(r"<(script|style)\b[^<>]*>.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(rf"</?(?:{_TAGS})(?:\s[^<>]*|\s*/)?>", re.IGNORECASE)
# A tag that the caption's end cut short, told from text by its first attribute.
_CUT_TAG = re.compile(rf"<(?:{_TAGS})\s+[a-z-]+\s*=[^<>]*$", re.IGNORECASE)
_SHORTCODE = re.compile(r"\[/?(?:caption|gallery|embed|url|img)(?:[\s=][^\]\[]*)?\]", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:\b(?:https?|ftp)://|\bwww\.)[^\s<>\"')\]]+", re.IGNORECASE)
TRACE = r"[<\[&]|://|(?i:www\.)"  # what every caption that these patterns change contains


def remove_markup(text: str) -> str:
    """Return the text without tags, comments, shortcodes and web addresses, entities resolved; white space is left."""
    if "<" in text:
        text = _CUT_TAG.sub(" ", _TAG.sub(" ", _CODE.sub(" ", text)))
    if "[" in text:
        text = _SHORTCODE.sub(" ", text)
    if "://" in text or "www." in text.lower():
        text = _ADDRESS.sub(" ", text)
    return html.unescape(text) if "&" in text else text
