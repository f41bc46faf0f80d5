"""The record as tables of text: options, environment, model, data, sessions, resumptions."""

import json
from dataclasses import dataclass
from typing import Any

from openddpm.analysis.text import count, number_of, utc_text
from openddpm.config import TrainConfig
from openddpm.record.reader import RunFolder
from openddpm.record.schema import DatasetRecord, Resumption, Session


@dataclass(frozen=True)
class Row:
    """A name and its value; `help` explains the name, `default` is the option's default."""

    name: str
    value: str
    help: str = ""
    default: str = ""


@dataclass(frozen=True)
class Tables:
    """Every table of the page."""

    changed_options: list[Row]
    options: list[Row]
    environment: list[Row]
    dataset: list[Row]
    model_config: list[Row]
    sessions: list[Session]
    resumptions: list[Resumption]


def all_tables(run: RunFolder) -> Tables:
    """Return the tables of a run."""
    options = config_rows(run.run.config)
    return Tables(
        changed_options=[row for row in options if row.value != row.default],
        options=options,
        environment=_flat(run.run.session.environment.model_dump()),
        dataset=_dataset(run.run.dataset),
        model_config=_flat(run.run.model.config),
        sessions=[s.model_copy(update={"time": utc_text(s.time)}) for s in run.run.sessions],
        resumptions=[r.model_copy(update={"time": utc_text(r.time)}) for r in run.run.resumptions],
    )


def config_rows(config: dict[str, Any]) -> list[Row]:
    """Return a row per option, in the order of TrainConfig, without secret options."""
    fields = TrainConfig.model_fields
    known = [
        Row(
            name, value_text(config[name]), " ".join((field.description or "").split()), value_text(field.get_default())
        )
        for name, field in fields.items()
        if name in config and not field.exclude
    ]
    unknown = [Row(name, value_text(config[name]), default="no such option") for name in config if name not in fields]
    return known + unknown


def _dataset(dataset: DatasetRecord) -> list[Row]:
    channels, height, width = dataset.image_shape
    return [
        Row("source", dataset.source),
        Row("revision", value_text(dataset.revision)),
        Row("split", value_text(dataset.split)),
        Row("images", count(dataset.num_images)),
        Row("for training", count(dataset.num_train)),
        Row("held out", count(dataset.num_heldout)),
        Row(
            "resolution",
            f"{width} \N{MULTIPLICATION SIGN} {height} pixels, {number_of(channels, 'channel')}",
        ),
        Row("sha256", dataset.sha256, "Digest of the decoded images: equal digests mean equal pixels."),
    ]


def _flat(tree: dict[str, Any], prefix: str = "") -> list[Row]:
    rows = []
    for name, value in tree.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append(Row(f"{prefix}{name}", value_text(value)))
    return rows


def value_text(value: Any) -> str:
    """None -> none; True -> yes; 0.0001 -> 0.0001; [1, 2] -> [1, 2]"""
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
