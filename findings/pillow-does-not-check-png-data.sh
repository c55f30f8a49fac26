#!/usr/bin/env bash
# Pillow 13.0.0: a PNG whose image data were damaged by one bit can be read as another picture, with no error.
#
# Guess, written before it was run: a chunk of a PNG carries its CRC, so every flipped bit of the data raises.
# Seen with Pillow 13.0.0: the CRC of IDAT is not compared. Of all single flips in the data of a small smooth picture one
# in nine loads as another picture (266 of 2,360); most others break the compressed stream, which raises. In IHDR, whose
# CRC is compared, every flip raises. (Of noise, which is stored uncompressed, no flip was read as another picture.) Who
# trains on a disk that rots trains on other pictures without a word.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0
cat > "$folder/look.py" <<'PY'
import io
import sys

from PIL import Image

ramp, disc = Image.linear_gradient("L"), Image.radial_gradient("L")
picture = Image.merge("RGB", [each.resize((16, 16)) for each in (ramp, disc, ramp.rotate(90))])
buffer = io.BytesIO()
picture.save(buffer, "PNG")
content, pixels = buffer.getvalue(), picture.tobytes()


def flips(begin, length):
    """How many of all single flips raise, change nothing, or read as another picture."""
    told = {"raise": 0, "same": 0, "another": 0}
    for bit in range(8 * begin, 8 * (begin + length)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = Image.open(io.BytesIO(damaged)).convert("RGB").tobytes()
        except Exception:
            told["raise"] += 1
        else:
            told["same" if found == pixels else "another"] += 1
    return told


data = content.index(b"IDAT") + 4
size = int.from_bytes(content[data - 8 : data - 4], "big")
head, body = flips(content.index(b"IHDR") + 4, 13), flips(data, size)
print(f"flips in IHDR: {head}; in IDAT's data: {body}")
if head["another"] or head["same"]:
    sys.exit("changed: a flip in IHDR is read")
if not body["another"]:
    sys.exit("changed: every flip in the data is told")
PY
"$folder/venv/bin/python" "$folder/look.py"
