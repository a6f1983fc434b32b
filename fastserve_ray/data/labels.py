"""Labels of a column to class ids 0..k-1 with names."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from fastserve_ray.errors import DataError

_SHOWN = 10


@dataclass(frozen=True)
class LabelMap:
    """The classes of a dataset.

    Text is sorted; false comes before true; integers keep their order, and keep their values where these are ids
    already (0..k-1).
    """

    values: pa.Array
    """The label of each class id, as the column has it."""
    names: tuple[str, ...]

    def ids(self, labels: pa.Array) -> pa.Array:
        """int64 class ids.

        Raises:
            DataError: a label that the training rows do not have.
        """
        if labels.type != self.values.type:
            raise DataError(
                "validation labels have another type than training labels",
                value=str(labels.type),
                allowed=str(self.values.type),
                key="data.columns.label",
            )
        found = pc.index_in(labels, self.values)
        if found.null_count:
            unknown = pc.unique(labels.filter(pc.is_null(found))).to_pylist()
            raise DataError(
                "validation rows have labels that no training row has",
                value=_listing([str(label) for label in unknown]),
                allowed=_listing(self.names),
                key="data.columns.label",
            )
        return found.cast(pa.int64())


def make_label_map(labels: pa.Array, names: tuple[str, ...] | None, num_labels: int | None) -> LabelMap:
    """The classes of the training rows; with ``num_labels``, integers below it are ids even if some do not occur.

    Args:
        labels: of the rows; once each is enough.
        names: of integer labels, where the files carry them.

    Raises:
        DataError: fewer than two classes, more or fewer than ``num_labels``, or negative integers.
    """
    distinct = pc.unique(labels)
    values = distinct.take(pc.sort_indices(distinct))
    if pa.types.is_boolean(values.type):
        return _checked(LabelMap(pa.array([False, True]), ("false", "true")), num_labels)
    if not pa.types.is_integer(values.type):
        return _checked(LabelMap(values, tuple(values.to_pylist())), num_labels)
    _refuse_negative(values)
    wanted = num_labels if num_labels is not None else len(names or ())
    if wanted > values[-1].as_py():
        values = pa.array(range(wanted), pa.int64())
    if names is not None and values.to_pylist() == list(range(len(names))):
        return _checked(LabelMap(values, names), num_labels)
    return _checked(LabelMap(values, tuple(str(value) for value in values.to_pylist())), num_labels)


def _checked(labels: LabelMap, num_labels: int | None) -> LabelMap:
    count = len(labels.names)
    if num_labels is not None and count != num_labels:
        raise DataError(
            f"the training rows have {count} different labels",
            value=f"model.num_labels: {num_labels}",
            allowed=f"{count} ({_listing(labels.names)})",
            key="model.num_labels",
            hint="leave it out to read it from the data",
        )
    if count < 2:
        raise DataError(
            "all training rows have the same label, so there is nothing to learn",
            value=labels.names[0],
            allowed="at least two different labels",
            key="data.columns.label",
        )
    return labels


def _refuse_negative(values: pa.Array) -> None:
    if values[0].as_py() < 0:
        raise DataError(
            "a label is negative",
            value=values[0].as_py(),
            allowed="0, 1, 2, ...",
            key="data.columns.label",
            hint="-1 often marks rows without a label: leave them out",
        )


def _listing(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
