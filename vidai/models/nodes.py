"""Nodes of an ONNX graph: what they read, and their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node reads, those within its branches and loops included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            for inner in graph.node:
                yield from reads(inner)
            yield from (output.name for output in graph.output)


def set_sorted(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Make these the graph's nodes, each after those that it reads from.

    ONNX asks for that order, and not every tool that writes files keeps it. Raises ValueError
    where nothing makes what a node reads.
    """
    waiting = list(nodes)
    made = {name for node in waiting for name in node.output}
    known = {name for node in waiting for name in reads(node)} - made
    del graph.node[:]
    while waiting:
        left = []
        for node in waiting:
            if known.issuperset(reads(node)):
                graph.node.append(node)
                known.update(node.output)
            else:
                left.append(node)
        if len(left) == len(waiting):
            raise ValueError(f"nothing makes the input of {left[0].name}")
        waiting = left
