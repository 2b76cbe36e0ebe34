"""A picture of what shards hold: for each video its id, captions, and frames in a row."""

import textwrap
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from xclip_jax import frames, records

WIDTH, HEIGHT, GAP = 1200, 112, 4  # of the sheet; of a frame; between frames
LINE, LETTERS, CAPTIONS = 20, 170, 2  # height and length of a line of text; lines for captions
ROW = LINE * (1 + CAPTIONS) + HEIGHT + LINE + 3 * GAP


def draw(rows: Iterable[tuple[str, records.Record]]) -> Image.Image:
    """Returns the sheet; of each (split, record) as many frames as fit, evenly spread."""
    rows = list(rows)
    sheet = Image.new("RGB", (WIDTH, max(ROW * len(rows), LINE)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (split, record) in enumerate(rows):
        _row(sheet, pen, i * ROW + GAP, split, record)
    return sheet


def save(rows: Iterable[tuple[str, records.Record]], path: str | Path) -> None:
    """Writes the sheet as PNG, whatever the file's name."""
    with open(path, "wb") as file:
        draw(rows).save(file, "PNG")


def _row(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, top: int, split: str, record: records.Record
) -> None:
    large, small = ImageFont.load_default(15), ImageFont.load_default(12)
    count = len(record.frames)
    head = f"{record.video_id} | {split}, frames: {count}, captions: {len(record.captions)}"
    pen.text((GAP, top), _plain(head), "black", large)
    text = textwrap.wrap(_plain(" | ".join(record.captions[:3])), LETTERS)
    if len(text) > CAPTIONS or len(record.captions) > 3:
        text = [*text[:CAPTIONS][:-1], text[:CAPTIONS][-1][: LETTERS - 4] + " ..."]
    for i, line in enumerate(text):
        pen.text((GAP, top + (i + 1) * LINE), line, "dimgray", small)
    top += (1 + CAPTIONS) * LINE
    width, height = frames.decode_jpeg(record.frames[0]).size
    width = min(HEIGHT * width // height or 1, WIDTH - 2 * GAP)
    fit = (WIDTH - GAP) // (width + GAP)
    for i, j in enumerate(frames.choose(count, fit)):
        left = GAP + i * (width + GAP)
        sheet.paste(frames.decode_jpeg(record.frames[j]).resize((width, HEIGHT)), (left, top))
        time = f"{record.timestamps[j]:.1f} s"
        pen.text((left, top + HEIGHT + 2), time, "dimgray", small)


def _plain(text: str) -> str:
    """Returns the text in one line; the font that Pillow carries has Latin letters only."""
    return " ".join(text.split())
