"""The pass that turns an exported stage into a graph TensorRT parses: standard operators only, no stateless `Scan`."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx.inliner

from x2sam_rt.errors import EngineError
from x2sam_rt.export.tensorrt.bodies import tensorrt_body
from x2sam_rt.kernels.onnx_ops import DOMAIN, VERSION, levels_of, nodes_of
from x2sam_rt.runtime.engines.tensorrt_build import AttentionForm

_STANDARD = ("", "ai.onnx")
_ONLINE = "OnlineAttention"


def tensorrt_graph(model: onnx.ModelProto, attention: AttentionForm) -> onnx.ModelProto:
    """A changed copy of an exported stage (opset 23, functions beside the graph): kernels get the bodies TensorRT
    compiles rightly, then every function is inlined. attention: how scores of many tokens are kept from being held.

    Raises EngineError naming each node that TensorRT's parser is known to refuse.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    levels = levels_of(changed)
    if attention == "online":
        _attend_online(changed)
    for function in changed.functions:
        body = tensorrt_body(function.name, attention, levels) if function.domain == DOMAIN else None
        if body is not None:
            function.CopyFrom(body)
    inlined = onnx.inliner.inline_local_functions(changed)
    refuse_unparsable(inlined)
    return inlined


def _attend_online(model: onnx.ModelProto) -> None:
    """Turns attentions without a mask, at the usual scale, into calls of the online form; others hold few scores."""
    for node in model.graph.node:
        scaled = any(attribute.name == "scale" for attribute in node.attribute)
        if node.op_type == "Attention" and len(node.input) == 3 and not scaled:
            node.op_type, node.domain = _ONLINE, DOMAIN
            del node.attribute[:]
    body = tensorrt_body(_ONLINE, "online", 0)
    assert body is not None
    model.functions.append(body)
    if all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))


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
