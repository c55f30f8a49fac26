#!/usr/bin/env bash
# Pillow 13.0.0: the transparent grey of a PNG of 2 or 4 bits, or colour of one of 16 bits, is not transparent.
#
# Guess: as for 8 bits, convert("RGBA") gives alpha 0 where a pixel has the colour that the file's tRNS chunk names.
# (Written down after a test of ours had shown otherwise.)
# Seen with Pillow 13.0.0: pixels are brought to 8 bits (a 4-bit 5 becomes 85), info["transparency"] stays what the file
# says (5). So the named pixels stay opaque. 1 and 8 bits are right. A dataset with such files shows their background colour in place of what is laid under it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0
cat > "$folder/look.py" <<'PY'
import io
import struct
import zlib

from PIL import Image


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(bits, colour, row, transparent):
    """Two pixels: the one that tRNS names, and another."""
    head = struct.pack(">IIBBBBB", 2, 1, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", head), (b"tRNS", transparent), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in parts)


rgb = struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC)
files = {
    "grey, 1 bit": png(1, 0, bytes([0b10_000000]), struct.pack(">H", 1)),
    "grey, 2 bits": png(2, 0, bytes([0b01_10_0000]), struct.pack(">H", 1)),
    "grey, 4 bits": png(4, 0, bytes([0x5A]), struct.pack(">H", 5)),
    "grey, 8 bits": png(8, 0, bytes([85, 170]), struct.pack(">H", 85)),
    "colour, 8 bits": png(8, 2, bytes([1, 2, 3, 4, 5, 6]), struct.pack(">HHH", 1, 2, 3)),
    "colour, 16 bits": png(16, 2, rgb + bytes(6), rgb),
}
alphas = {}
for name, content in files.items():
    image = Image.open(io.BytesIO(content))
    image.load()
    told = image.info["transparency"]
    alphas[name] = [image.convert("RGBA").getpixel((x, 0))[3] for x in (0, 1)]
    print(f"{name}: transparency {told}, alpha of the named pixel and of another {alphas[name]}")
right = [name for name, alpha in alphas.items() if alpha == [0, 255]]
assert right == ["grey, 1 bit", "grey, 8 bits", "colour, 8 bits"], f"changed: right are {right}"
PY
"$folder/venv/bin/python" "$folder/look.py"
