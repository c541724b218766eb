"""Rewrites the syntax tree of a chat template so that every loop, macro, comparison and slice counts its work.

The guards are filters whose names hold a space: no template can spell them, shadow them or call them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from llama_cffi.prompt.budget import ELEMENT, current
from llama_cffi.prompt.filters import contains

_TICK = "count work"
_BODIES = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)
# An `if` with less than this counts as if it were done, so that short ones cost nothing.
_OPERATIONS_ALONG = 64
_TEXT_ALONG = 256


def add_guards(tree: nodes.Template) -> None:
    """Change the tree in place."""
    _Guards().visit(tree)
    _guard_body(tree.body)


class _Guards(NodeTransformer):
    """Replaces expressions that may do much work by guarded ones, and adds a guard to each body."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        _guard_body(node.body)
        if node.test is not None:
            operations, _ = _weight([node.test])
            node.test = nodes.And(_tick(operations + 2, 0), node.test)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        self.generic_visit(node)
        # Defaults are computed with each call.
        _guard_body(node.body, node.defaults)
        return node

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        _guard_body(node.body, node.defaults)
        return node

    def visit_Block(self, node: nodes.Block) -> nodes.Node:
        self.generic_visit(node)
        _guard_body(node.body)
        return node

    def visit_If(self, node: nodes.If) -> nodes.Node:
        self.generic_visit(node)
        for body in (node.body, node.else_):
            if _is_heavy(body):
                _guard_body(body)
        return node

    def visit_ScopedEvalContextModifier(self, node: nodes.ScopedEvalContextModifier) -> nodes.Node:
        # {% autoescape %}: a prompt is not HTML.
        self.generic_visit(node)
        return nodes.Scope(node.body)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _guarded("join texts", node.nodes[0], node.nodes[1:])

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            bounds = (node.arg.start, node.arg.stop, node.arg.step)
            return _guarded("cut out", node.node, [nodes.Const(None) if one is None else one for one in bounds])
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.key, nodes.Const):
            node.key = _guarded("is key", node.key, [])
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        left = node.expr
        compared: nodes.Expr | None = None
        for operand in node.ops:
            one = _comparison(left, operand)
            compared = one if compared is None else nodes.And(compared, one)
            left = operand.expr
        return compared or node


def _comparison(left: nodes.Expr, operand: nodes.Operand) -> nodes.Expr:
    right = operand.expr
    if operand.op in ("in", "notin"):
        found = _guarded("is in", left, [right])
        return found if operand.op == "in" else nodes.Not(found)
    if any(
        isinstance(one, nodes.Const) and (not isinstance(one.value, str) or len(one.value) < 999)
        for one in (left, right)
    ):
        return nodes.Compare(left, [operand])
    return _guarded(f"is {operand.op}", left, [right])


def _guarded(name: str, first: nodes.Expr, others: Sequence[nodes.Expr]) -> nodes.Filter:
    return nodes.Filter(first, name, list(others), [], None, None)


def _tick(operations: int, text: int) -> nodes.Filter:
    return _guarded(_TICK, nodes.Const(operations), [nodes.Const(text)])


def _guard_body(body: list[nodes.Node], others: Iterable[nodes.Node] = ()) -> None:
    if body and _is_guard(body[0]):
        return
    operations, text = _weight([*body, *others])
    body.insert(0, nodes.ExprStmt(_tick(operations + 4, text)))


def _weight(body: Iterable[nodes.Node]) -> tuple[int, int]:
    """Nodes and characters that one run through the body executes, bodies with a guard of their own not counted."""
    operations = text = 0
    stack = list(body)
    while stack:
        node = stack.pop()
        operations += 1
        if isinstance(node, nodes.TemplateData):
            text += len(node.data)
        elif isinstance(node, nodes.Dict):
            operations += 4
        if isinstance(node, _BODIES):
            stack.extend(node.iter_child_nodes(exclude=("body",)))
        elif isinstance(node, nodes.If):
            stack.extend(node.iter_child_nodes(exclude=("body", "else_")))
            for one in (node.body, node.else_):
                if not (one and _is_guard(one[0])):
                    stack.extend(one)
        else:
            stack.extend(node.iter_child_nodes())
    return operations, text


def _is_heavy(body: list[nodes.Node]) -> bool:
    operations, text = _weight(body)
    return operations > _OPERATIONS_ALONG or text > _TEXT_ALONG


def _is_guard(node: nodes.Node) -> bool:
    return isinstance(node, nodes.ExprStmt) and isinstance(node.node, nodes.Filter) and node.node.name == _TICK


# -- what the guards do


def _count_work(operations: int, text: int) -> bool:
    budget = current()
    budget.work(operations)
    if text:
        budget.make(text)
    return True


def _join_texts(*values: Any) -> str:
    budget = current()
    texts = [budget.text(value) for value in values]
    budget.make(sum(map(len, texts)))
    return "".join(texts)


def _cut_out(value: Any, start: Any, stop: Any, step: Any) -> Any:
    part = slice(start, stop, step)
    if isinstance(value, (str, list, tuple)):
        n = len(range(*part.indices(len(value))))
        current().make(n if isinstance(value, str) else ELEMENT * n)
    return value[part]


def _is_key(key: Any) -> Any:
    current().hash(key)
    return key


def _compared(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def compared(left: Any, right: Any) -> Any:
        current().compare(left, right)
        return function(left, right)

    return compared


GUARDS: dict[str, Callable[..., Any]] = {
    _TICK: _count_work,
    "join texts": _join_texts,
    "cut out": _cut_out,
    "is in": contains,
    "is key": _is_key,
    **{
        f"is {name}": _compared(function)
        for name, function in {
            "eq": operator.eq,
            "ne": operator.ne,
            "lt": operator.lt,
            "lteq": operator.le,
            "gt": operator.gt,
            "gteq": operator.ge,
        }.items()
    },
}
"""The guards by the names under which the environment has them."""


__all__ = ["GUARDS", "add_guards"]
