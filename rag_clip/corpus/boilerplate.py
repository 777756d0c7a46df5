"""Drop captions about the web page or the file instead of the image; patterns match whole captions only.

A caption that contains such words among others is kept: "photo by the lake", "click beetle on a leaf", "Area 51".
ALIGN and Wukong drop such captions (arXiv 2102.05918, 2202.06767); the patterns are ours.
"""

from __future__ import annotations

import pyarrow as pa

from rag_clip.corpus.steps import Step, fault, split, texts_of
from rag_clip.data import Kept

BOILERPLATE = "boilerplate"
_PICTURE = "(?:image|photo|photograph|picture|pic|img|thumbnail)s?"
_SUFFIX = r"(?:jpe?g|jpe|png|gif|bmp|webp|tiff?|svg|heic|avif|raw|cr2|nef|dng)"
_NAME = r"\p{Lu}[\p{L}.'’-]*"
_SITES = "(?:facebook|twitter|x|pinterest|instagram|whatsapp|linkedin|reddit|tumblr|youtube|e-?mail|social media)"

_MISSING = (
    rf"(?:sorry,? )?(?:this |the |your )?(?:{_PICTURE}|page|file|video) (?:is |was |could |can )?(?:not |un|be )*"
    r"(?:found|available|missing|displayed|loaded|removed|deleted)(?: yet| anymore| here)?",
    rf"(?:no|missing|broken|default|sample|loading) {_PICTURE}(?: (?:found|available|yet|here|selected|set))?",
    rf"(?:{_PICTURE} )?(?:placeholder|coming soon|may contain)(?: {_PICTURE})?",
    "loading|please wait|loading please wait|404(?: not found)?|not found|access denied|forbidden",
)
_CONTROLS = (
    r"(?:click|tap)(?: here)?(?: on (?:the |this )?(?:image|photo|picture|thumbnail))? to (?:\S+ ){0,5}\S+",
    r"click(?: here)?(?: on (?:the |this )?(?:image|photo|picture|thumbnail))? for (?:\S+ ){0,5}\S+",
    r"(?:click|tap) here|(?:hover|press|pinch|double[ -](?:click|tap)) to (?:zoom|enlarge|expand|view)(?: in)?",
    r"(?:enlarge|zoom(?: in| out)?|expand|download|view|(?:open|close|see|show)(?: the| this| all| full| larger))"
    rf"(?: (?:the|this|all|full|larger|more|size|version|gallery|details|screen|{_PICTURE}))*",
    r"(?:read|learn|see|view|show|load|find out) (?:more|all|less)|continue reading|back to top|skip to content",
    rf"(?:next|previous|prev) (?:{_PICTURE}|page|slide)|(?:{_PICTURE}|page|slide) \d+ (?:of|/) \d+|\d+ of \d+",
    rf"(?:share|tweet|e-?mail|(?:save|pin|like|follow)(?: this| it| us| me| {_PICTURE}))"
    rf"(?: (?:this|it|us|me|on|to|via|by|now|and|{_PICTURE}|{_SITES}))*",
    r"(?:add to|view) (?:cart|basket|bag|wish ?list|favou?rites)|(?:buy|shop|order) now|subscribe(?: now)?"
    r"|sign (?:up|in)|log ?(?:in|out)|advertisement|sponsored",
)
_NAMELESS = (
    rf"{_PICTURE}|alt(?:[ _-]?(?:text|img|image|tag))|thumb|img[ _-]alt|spacer|untitled(?: \d+)?"
    r"|no (?:title|name|caption|description|text|alt(?: text)?)|(?:image )?(?:caption|title|description) here"
    r"|null|none|nan|n/a|undefined|\[object object\]|unnamed|lorem ipsum(?: .*)?",
    rf"(?:dscn?|dscf|imgp?|cimg|pict|mvc|gopr|dji|vlcsnap|fb[ _-]img|pxl)[ _-]*\d[\d _.~()-]*(?:\.?{_SUFFIX})?",
    rf"(?:{_PICTURE}|page|slide|screen ?shot|scan|whatsapp image)(?: at)?[ _#-]*\(?\d(?:[\d _.:()-]|at )*"
    rf"(?:\.?{_SUFFIX})?",
    # A file name without three letters in a row: 4711_b.jpg, but not red-kite.jpg.
    rf"(?:[a-z]{{0,2}}[^a-z\s.]+)*[a-z]{{0,2}}\.{_SUFFIX}|{_PICTURE}\.{_SUFFIX}",
    rf"[0-9a-f]{{16,}}(?:\.{_SUFFIX})?|[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}(?:\.{_SUFFIX})?",
    r"\d{2,5} ?[x×*] ?\d{2,5}(?: ?px| ?pixels)?",
)
_CREDIT = (
    rf"(?i:{_PICTURE}(?: by| courtesy of| (?:credits?|courtesy|source)(?: by| of)?:?))"
    rf" {_NAME}(?:(?: | ?/ ?| & | and | de | van | von ){_NAME}){{0,3}}",
    rf"(?i:{_PICTURE} (?:by|credit|courtesy of|source):? (?:the )?"
    r"(?:staff|admin|author|owner|unknown|anonymous|user|internet))",
    r"(?i:(?:©|\(c\)|copyright)(?: ?©)? ?(?:19|20)\d\d.{0,60}|(?:©.{0,40} )?all rights reserved)",
)
_WORDLESS = r"^[^\p{L}]{8,}$|^[^\p{L}\p{N}]+$"
_PATTERN = "|".join(
    [
        rf"^[\W_]*(?:(?i:{'|'.join((*_MISSING, *_CONTROLS, *_NAMELESS))})|{'|'.join(_CREDIT)})[\W_]*$",
        _WORDLESS,
    ]
)


def boilerplate() -> Step:
    """Drop captions that consist only of a notice, a button label, a file name, a credit, or symbols and digits.

    Numbers of up to seven characters are kept ("747-400"); longer ones are dates and counters.
    """

    def step(records: pa.Table) -> Kept:
        return split(records, fault(BOILERPLATE, texts_of(records).str.contains(_PATTERN)))

    return step
