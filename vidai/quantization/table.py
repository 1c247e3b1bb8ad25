"""A quantised model's record as plain text: what it tells of the whole, and a row a layer."""

from __future__ import annotations

from vidai.quantization.record import LayerRecord, QuantizationRecord

TITLES = ("layer", "op", "precision", "work", "damage", "why not")
_NUMBERS = ("work", "damage")  # their columns stand on the right


def summary(record: QuantizationRecord) -> list[tuple[str, str]]:
    """Title and text of what is to be known of the whole model."""
    frames = {part: f"{count:,}" for part, count in record.frames.items()}
    reached = "reached" if record.reached else "not reached"
    return [
        (
            "quantised",
            f"{record.precision}, the rest {record.rest}: {_percent(record.share)} of the work "
            f"that can be",
        ),
        ("made from", f"{record.model}, sha256 {record.sha256}"),
        ("target", f"F1 {record.target:g}: {reached}"),
        (
            "proof",
            f"F1 {record.f1:.4f} with the model as it was, which finds {record.boxes:,} objects "
            f"of score {record.conf:g} or more in {frames.get('prove', '0')} frames that were used "
            f"for nothing else",
        ),
        (
            "pictures",
            f"{frames.get('calibrate', '0')} to calibrate, sha256 {record.calibration}; "
            f"{frames.get('search', '0')} others to choose the layers",
        ),
    ]


def rows(record: QuantizationRecord) -> list[tuple[str, ...]]:
    """TITLES, and then a row of as many for each layer, in the order of the model.

    work: its share of the multiply-accumulates of all of them. damage: "-" where it is not known.
    """
    total = sum(layer.macs for layer in record.layers) or 1
    return [TITLES, *(_row(layer, layer.macs / total) for layer in record.layers)]


def _row(layer: LayerRecord, share: float) -> tuple[str, ...]:
    damage = "-" if layer.damage is None else f"{layer.damage:.2g}"
    return layer.name, layer.op, layer.precision, _percent(share), damage, layer.why


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def render(table: list[tuple[str, ...]]) -> list[str]:
    """Lines of a table whose first row is TITLES, with its columns aligned."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if title in _NUMBERS else cell.ljust(width)
            for title, cell, width in zip(TITLES, row, widths, strict=True)
        ).rstrip()
        for row in table
    ]
