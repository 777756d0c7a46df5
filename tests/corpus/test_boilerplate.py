from __future__ import annotations

import pyarrow as pa
import pytest

from rag_clip.corpus.boilerplate import boilerplate

PAGE_TALK = """
image not found|Image is not available|Sorry, this photo could not be found|No image|no photo available|Missing Image
Loading...|please wait|404 not found|Image coming soon|photo placeholder
click to enlarge|Click here to view full size image|click on the image for a larger view|Tap to zoom|hover to zoom
enlarge|View larger image|zoom in|show full size|read more|Continue reading|next image|page 3 of 40|12 of 30
share on Facebook|Share on social media|pin it|Follow us on Instagram|follow us by email|add to cart|Buy Now|sign in
image|Photo|alt text|img_alt|untitled|Untitled 7|no caption|null|N/A|undefined|[object Object]|lorem ipsum dolor sit
DSC_0123.jpg|DSC_0123|IMG_20190412_101112.JPG|img 4711|DSCN0042|fb_img_1499|P1010203.jpg|4711_b.png|image.jpg
picture 12|Photo (3)|Screenshot 2019-03-02 at 10.11.12.png|thumbnail 7|image-3.png|scan0001|WhatsApp Image 2019-01-01
1920x1080|640 x 480 px|d41d8cd98f00b204e9800998ecf8427e.jpg|123e4567-e89b-12d3-a456-426614174000
photo by Jane Doe|Photo courtesy of Jane|Photo credit: Ann Lee|Image courtesy of John Smith / Reuters|photo by staff
© 2019 Example Press|Copyright 2008 J. Doe|All rights reserved|2019-03-12 10:11|0.32893747091293335|***|— —
"""
ABOUT_IMAGES = """
photo by the lake of two swans|photo by the sea|a photo of a flag|Image of Victorian Ottomans|picture of Jim Morrison
click beetle on a leaf|tap for beer|open door|close up|close|pin|loading dock|loading trucks at night|waiting room
Area 51|Photo 51 of rosalind franklin in a frame|747-400|911|Boeing 747-400|P-51 Mustang|F-16|50 50|7 of hearts
img academy campus|DSC racing car|red-kite.jpg|Pict warrior stone|page boy|file and rasp|video camera|media room
sign in the snow|log cabin|share of the harvest|follow the leader game|image sensor|photo booth|thumbnail sketch
untitled film still by Cindy Sherman|no parking sign|missing tooth|missing person poster|icon|placeholder text on a sign
copyright sign|basket|view of the bay|next door neighbours|zoom lens|nun|nano tube|旗|флаг|show dog|save the date card
buy now pay later advert|thumb war|loading a gun|enlarge the picture of the deer|download festival stage
"""


def captions(lines):
    return [caption.strip() for line in lines.strip().splitlines() for caption in line.split("|")]


@pytest.mark.parametrize("text", captions(PAGE_TALK))
def test_captions_about_the_page_or_the_file_are_dropped(text):
    kept = boilerplate()(pa.table({"text": [text]}))
    assert (kept.dropped["text"].to_pylist(), kept.reason) == ([text], ("boilerplate",))


@pytest.mark.parametrize("text", captions(ABOUT_IMAGES))
def test_captions_that_share_words_with_boilerplate_are_kept(text):
    assert boilerplate()(pa.table({"text": [text]})).selected["text"].to_pylist() == [text]
