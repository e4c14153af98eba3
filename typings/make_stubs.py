"""Writes typings/tensorrt_rtx from the installed bindings, which carry no types: `python typings/make_stubs.py`.

Needs pybind11-stubgen. Only classes this package names are kept, whole; types of others become Any.
"""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# fmt: off
CLASSES = [
    "Builder", "INetworkDefinition", "OnnxParser", "ParserError", "ITensor", "ILayer", "IAttentionInputLayer",
    "IAttention", "Dims", "DataType", "LayerType", "NetworkDefinitionCreationFlag", "IBuilderConfig",
    "IOptimizationProfile", "IProgressMonitor", "ILogger", "IHostMemory", "ComputeCapability", "ProfilingVerbosity",
    "ITimingCache", "Runtime", "ICudaEngine", "IExecutionContext", "IRuntimeConfig", "IRuntimeCache",
    "ExecutionContextAllocationStrategy", "CudaGraphStrategy", "EngineInspector", "LayerInformationFormat",
    "IVersionedInterface",
]
# fmt: on
BUFFERS = ("IHostMemory",)  # have Python's buffer protocol, which their signatures do not tell
MODULES = ("typing", "typing_extensions", "collections", "numpy")
HEADER = """# Written by typings/make_stubs.py from tensorrt_rtx {version}. Do not edit.
import collections.abc
import typing
import typing_extensions
import numpy

__version__: str

"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pybind11_stubgen", "tensorrt_rtx_bindings.tensorrt_rtx", "-o", folder]
        subprocess.run([*command, "--ignore-all-errors"], check=True)
        text = (Path(folder) / "tensorrt_rtx_bindings" / "tensorrt_rtx.pyi").read_text()
    import tensorrt_rtx

    tree = parsed(text)
    kept = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in CLASSES]
    body = "\n\n".join(ast.unparse(Trimmed(node).visit(node)) for node in kept)
    target = Path(__file__).parent / "tensorrt_rtx" / "__init__.pyi"
    target.write_text(HEADER.format(version=tensorrt_rtx.__version__) + body + "\n")


def parsed(text: str) -> ast.Module:
    """A few functions have signatures that are no Python (a parameter named `in`, a default before none); these lose
    their types."""
    while True:
        try:
            return ast.parse(text)
        except SyntaxError as error:
            lines, wrong = text.splitlines(), (error.lineno or 1) - 1
            lines[wrong] = re.sub(r"def (\w+)\(.*", r"def \1(self, *args: typing.Any) -> typing.Any:", lines[wrong])
            text = "\n".join(lines)


class Trimmed(ast.NodeTransformer):
    """A class without docstrings, and without types that the file does not define."""

    def __init__(self, owner: ast.ClassDef) -> None:
        inner = {node.name for node in ast.walk(owner) if isinstance(node, ast.ClassDef)}
        self._known = {*CLASSES, *MODULES, *inner, *dir(builtins)}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.body = [ast.Expr(ast.Constant(...))]
        decorators, node.decorator_list = node.decorator_list, []  # those name properties, not types
        self.generic_visit(node)
        node.decorator_list = decorators
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.body = [part for part in node.body if not _is_text(part)] or [ast.Pass()]
        if node.name in BUFFERS:
            node.body += ast.parse("def __buffer__(self, flags: int) -> memoryview: ...").body
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in self._known or isinstance(node.ctx, ast.Store):
            return node
        return ast.parse("typing.Any", mode="eval").body


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


if __name__ == "__main__":
    main()
