"""Training of each model, for a reader: images and time, as its card says, or else as far as its file does; and the
judges that measured, and which models these taught.

`results["training"]` may hold by a model's name what its card says: on, images, minutes, machine, taught_by. What it
does not say is of the run that the model's file tells of, which is the last of its stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flexframe.bench.report.verdicts import listed

LAST = "in its last run"
ALL = "in all stages"


@dataclass(frozen=True)
class Training:
    """The training of a model, as text; a dash where nobody says."""

    on: str
    images: str
    steps: str
    time: str

    @property
    def sentence(self) -> str:
        """All that is said, in one line; empty where nothing is."""
        told = [(self.on, self.on), (self.images, f"images seen {self.images}"), (self.time, self.time)]
        return ", ".join(text for said, text in told if said != "–")


def of(results: Mapping[str, Any], name: str) -> Training:
    """The training of a model of `results`."""
    said: Mapping[str, Any] = (results.get("training") or {}).get(name, {})
    about = results["models"][name].get("trained") or {}
    run, step = about.get("run") or {}, about.get("step")
    data, batch = run.get("data") or {}, run.get("batch_size")
    images = said.get("images")
    if images is None and step and batch:
        images = f"{step * batch * (run.get('accumulate') or 1):,} {LAST}"
    minutes = said.get("minutes")
    time = "–" if minutes is None else f"{minutes:,.0f} min" if minutes < 120 else f"{minutes / 60:,.1f} h"
    return Training(
        on=said.get("on") or ", ".join(str(data[key]) for key in ("type", "path", "split") if data.get(key)) or "–",
        images=f"{images:,} {ALL}" if isinstance(images, int) else str(images or "–"),
        steps=f"{step:,} {LAST}" if step else "–",
        time=f"{time} of {said['machine']}" if minutes is not None and said.get("machine") else time,
    )


def judges(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The judges that measured, by name: what each is, and which of the models it taught, as far as cards say."""
    known = {about["by"]: about.get("who", "") for about in results["measures"].values() if about.get("by")}
    said: Mapping[str, Mapping[str, Any]] = results.get("training") or {}
    silent = [name for name in results["models"] if not said.get(name)]
    told = []
    for judge, who in known.items():
        pupils = [name for name in results["models"] if judge in (said.get(name, {}).get("taught_by") or ())]
        taught = f"taught {listed(pupils)}, so that its numbers flatter there" if pupils else "taught none of these"
        of = f"; of {listed(silent)} no card says" if silent and not pupils else ""
        told.append((judge, ". ".join(filter(None, [who, f"It {taught}{of}"]))))
    return told
