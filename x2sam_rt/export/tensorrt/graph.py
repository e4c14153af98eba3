"""The pass that turns an exported stage into a graph TensorRT parses: standard operators only, no stateless `Scan`."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx
import onnx.inliner

from x2sam_rt.errors import EngineError
from x2sam_rt.export.tensorrt.bodies import tensorrt_body
from x2sam_rt.kernels.onnx_ops import DOMAIN, VERSION, levels_of, nodes_of

_STANDARD = ("", "ai.onnx")
_ONLINE = "OnlineAttention"


def tensorrt_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """A changed copy of an exported stage (opset 23, functions beside the graph): kernels get the bodies TensorRT
    compiles rightly, then every function is inlined.

    Raises EngineError naming each node that TensorRT's parser is known to refuse.
    """
    changed = _copied(model)
    levels = levels_of(changed)
    for function in changed.functions:
        body = tensorrt_body(function.name, levels) if function.domain == DOMAIN else None
        if body is not None:
            function.CopyFrom(body)
    inlined = onnx.inliner.inline_local_functions(changed)
    refuse_unparsable(inlined)
    return inlined


def attend_online(model: onnx.ModelProto, attentions: Collection[int]) -> onnx.ModelProto:
    """A copy whose attentions of these numbers, counted in the graph's order, go through the keys piece by piece.

    Raises EngineError for an attention with a mask or a scale of its own.
    """
    changed = _copied(model)
    nodes = [node for node in changed.graph.node if node.op_type == "Attention"]
    for node in (nodes[number] for number in attentions):
        if len(node.input) > 3 or any(attribute.name == "scale" for attribute in node.attribute):
            raise EngineError(
                f"Node {node.name}: an attention with a mask or its own scale has no form that holds few scores. "
                "Export with --precision bf16, or with --engine torch."
            )
        node.op_type, node.domain = _ONLINE, DOMAIN
        del node.attribute[:]
    body = tensorrt_body(_ONLINE, 0)
    assert body is not None
    changed.functions.append(body)
    changed.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    return onnx.inliner.inline_local_functions(changed)


def _copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def refuse_unparsable(model: onnx.ModelProto) -> None:
    """The parser claims to support some operators that it then refuses, or dies without a node's name: found here."""
    found = [f"{node.name or '(unnamed)'} ({node.op_type}): {reason}" for node, reason in _unparsable(model)]
    if found:
        raise EngineError("TensorRT's parser takes no such nodes: " + "; ".join(found) + ". Export without them.")


def _unparsable(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    for node in nodes_of(model):
        if node.domain not in _STANDARD:
            yield node, f"operator of the domain {node.domain!r}, neither inlined nor a plugin"
        elif node.op_type == "Scan" and _scan_states(node) == 0:
            yield node, "a Scan without a state"
        elif node.op_type == "NonZero":
            yield node, "its output's size depends on values"


def _scan_states(node: onnx.NodeProto) -> int:
    scanned = next(attribute.i for attribute in node.attribute if attribute.name == "num_scan_inputs")
    return len(node.input) - int(scanned)
