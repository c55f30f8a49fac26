"""Boards as text: Markdown, CSV, LaTeX, and a page of their own. Imports no torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from flexframe.bench.board import NONE, Board, Published
from flexframe.bench.table import shown_bits

ABOUT = (
    "Each table is of the same images. Numbers share a column where they were measured alike, up to last digits; where "
    "a measure was taken in several ways, the protocol's id is behind it (`flexframe explain` tells the difference). "
    "Parameters are in millions, with the codec. A dash: not measured, or not said."
)
QUOTED = (
    "Quoted from papers and repositories by the models' cards, measured by others in their own ways, and never to be "
    "put into one column with the above. The protocol stands there as far as it is stated."
)
HEAD = ("model", "tokens", "bits", "measure", "published", "source and protocol, as stated")
SIGNS = {"higher": "↑", "lower": "↓"}
LATEX = {
    **{letter: f"\\{letter}" for letter in "&%_#${}"},
    "~": r"\textasciitilde{}",
    "^": r"\^{}",
    "\\": r"\textbackslash{}",
    "–": "--",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


def head(board: Board) -> list[str]:
    """A board's columns, each with the direction of good."""
    own = board.head
    signs = ["", "", "", "", *(SIGNS.get(column.measure["better"] or "", "") for column in board.columns)]
    return [f"{name} {sign}".strip() for name, sign in zip(own, signs, strict=True)]


def notes(board: Board) -> list[str]:
    """Sentences on what not to conclude from a board's numbers, and the protocols of its columns."""
    told: dict[str, list[str]] = {}
    for column in board.columns:
        if column.measure.get("note"):
            told.setdefault(column.measure["note"], []).append(column.measure["label"])
    said = [f"{', '.join(dict.fromkeys(labels))}: {note}." for note, labels in told.items()]
    ids: dict[str, list[str]] = {}
    for column in board.columns:
        ids.setdefault(" = ".join(f"`{each}`" for each in column.ids), []).append(column.measure["label"])
    protocols = "; ".join(f"{', '.join(labels)} {key}" for key, labels in ids.items())
    return [*([" ".join(said)] if said else []), f"Protocols: {protocols}."]


def quoted_row(number: Published) -> list[str]:
    """A published number's cells."""
    tokens = NONE if number.tokens is None else str(number.tokens)
    return [number.model, tokens, shown_bits(number.bits), number.measure, f"{number.value:g}", number.origin]


def markdown(boards: Sequence[Board], quoted: Sequence[Published]) -> str:
    """Tables in Markdown."""
    parts = ["# Results", ABOUT]
    for board in boards:
        files = sorted({row.origin for row in board.rows})
        told = "From " + ", ".join(f"`{file}`" for file in files) + "."
        rows = [board.texts(row) for row in board.rows]
        parts += [f"## {board.title}", told, _pipes(head(board), rows, 1), *notes(board)]
    if quoted:
        parts += ["## Published, not measured here", QUOTED, _pipes(HEAD, [quoted_row(each) for each in quoted], 1)]
    return "\n\n".join(parts) + "\n"


def _pipes(names: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> str:
    rule = ["---"] * words + ["---:"] * (len(names) - words)
    if names is HEAD:
        rule = ["---", "---:", "---:", "---", "---:", "---"]
    lines = [names, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def comma(boards: Sequence[Board], quoted: Sequence[Published]) -> str:
    """One table of all, for spreadsheets: a column for each measure and protocol, and others for what is published."""
    columns: dict[tuple[str, str], str] = {}
    for board in boards:
        for column in board.columns:
            columns[column.name, column.ids[0]] = f"{column.name} [{column.ids[0]}]"
    others = [f"published {name}" for name in dict.fromkeys(each.measure for each in quoted)]
    fixed = ["suite", "images", "size", "model", "tokens", "bits", "parameters", "fingerprint", "file"]
    told = ["published: source and protocol"] if quoted else []
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*fixed, *columns.values(), *others, *told])
    for board in boards:
        places = {(column.name, column.ids[0]): place for place, column in enumerate(board.columns)}
        size = "x".join(map(str, board.facts["image_size"]))
        for row in board.rows:
            about = [" ".join(dict.fromkeys(board.names)), board.facts["count"], size, row.model, row.tokens or "",
                     _bare(row.bits), _bare(row.parameters), row.fingerprint[:12], row.origin]  # fmt: skip
            numbers = [_bare(row.numbers.get(places[key])) if key in places else "" for key in columns]
            writer.writerow([*about, *numbers, *("" for _ in (*others, *told))])
    for each in quoted:
        own = [each.value if name == f"published {each.measure}" else "" for name in others]
        about = ["published", "", "x".join(map(str, each.image_size)), each.model, _bare(each.tokens),
                 _bare(each.bits), "", "", ""]  # fmt: skip
        writer.writerow([*about, *("" for _ in columns), *own, each.origin])
    return file.getvalue()


def _bare(value: float | int | None) -> float | int | str:
    return "" if value is None else value


def latex(boards: Sequence[Board], quoted: Sequence[Published]) -> str:
    """A `tabular` for each table, for a document that loads booktabs."""
    parts = [_tabular(board.title, head(board), [board.texts(row) for row in board.rows]) for board in boards]
    if quoted:
        parts.append(_tabular("Published, not measured here", HEAD, [quoted_row(each) for each in quoted]))
    return "\n".join(parts)


def _tabular(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" & ".join(map(_tex, row)) + r" \\" for row in (names, *rows)]
    lines = [lines[0], r"\midrule", *lines[1:]]
    form = "l" + "r" * (len(names) - 1)
    return "\n".join([f"% {title}", rf"\begin{{tabular}}{{{form}}}", r"\toprule", *lines, r"\bottomrule",
                      r"\end{tabular}", ""])  # fmt: skip


def _tex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)


def page(boards: Sequence[Board], quoted: Sequence[Published]) -> str:
    """One file that needs nothing else; a click on a column's head sorts by it."""
    parts = [f"<p>{_code(ABOUT)}</p>"]
    for board in boards:
        rows = [board.texts(row) for row in board.rows]
        parts += [f"<h2>{escape(board.title)}</h2>", _table(head(board), rows)]
        parts += [f"<p>{_code(note)}</p>" for note in notes(board)]
    if quoted:
        rows = [quoted_row(each) for each in quoted]
        parts += ["<h2>Published, not measured here</h2>", f"<p>{_code(QUOTED)}</p>", _table(HEAD, rows, "published")]
    whole = (files("flexframe.bench") / "board.html").read_text(encoding="utf-8")
    return whole.replace("BODY", "\n".join(parts))


def _code(text: str) -> str:
    return "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(escape(text).split("`")))


def _table(names: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "measured") -> str:
    top = "".join(f'<th scope="col"><button>{escape(name)}</button></th>' for name in names)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div><table class="{kind}"><thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
