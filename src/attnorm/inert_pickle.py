"""Pickles read as data: what a file says, without running anything that it asks for.

A pickle is a program: it may name any function of any module and have it called. Here its instructions are decoded by
the standard library's disassembler, which executes nothing, and obeyed by a machine that knows containers, numbers and
text. Names of classes and functions stay text: nothing is imported, and the few calls that a reader has an answer to
are answered by it. Every other object becomes an :class:`Opaque`. Standard library only: every layer may use it.
"""

import pickletools
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any, Protocol, runtime_checkable

# Instructions, and items that calls copy. The largest released network with its optimizer needs some 200 thousand.
MAX_WORK = 5_000_000


class UnreadableError(ValueError):
    """The file is damaged, or means something that no reader here needs."""


@dataclass(frozen=True)
class Name:
    """A class or function that the file names: its full name, and nothing else."""

    path: str


@dataclass(frozen=True)
class Opaque:
    """An object of a class that the reader does not know. Nothing of it is kept but what it was."""

    path: str


@runtime_checkable
class Stateful(Protocol):
    """An object of a reader's own that wants the state which a pickle gives to it."""

    def set_state(self, state: Any) -> None:
        """Take the state: anything that a pickle may hold."""
        ...


def text_of(value: Any) -> str:
    """Text; what Python 2 wrote is bytes.

    Raises:
        UnreadableError: For anything else.
    """
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    if not isinstance(value, str):
        raise UnreadableError(f"a name that is a {type(value).__name__}")
    return value


def plain_items(pairs: Iterable[Any]) -> dict[Any, Any]:
    """A dict of the pairs whose keys are plain: to hash a nested tuple can be made to take for ever."""
    return {k: v for k, v in pairs if k is None or type(k) in (str, bytes, int, float, bool)}


def encoded(text: Any, encoding: Any = None, *_: Any) -> Any:
    """The answer to "_codecs.encode": protocol 2 has no bytes, and asks for text to be encoded as latin-1."""
    return text.encode("latin-1") if isinstance(text, str) and encoding == "latin1" else Opaque("_codecs.encode")


def load(
    file: IO[bytes],
    calls: Mapping[str, Callable[..., Any]],
    refer: Callable[[Any], Any] = lambda _: Opaque("a reference"),
    *,
    leaves_out: bool = True,
) -> Any:
    """Read one pickle from where the file stands to its end marker.

    Args:
        file: Anything whose `read` and `readline` give at most what is there, such as an io.BytesIO or a mmap.
        calls: What is answered to calls, by the full name of what is called; given the arguments, of any kind.
        refer: Gives the object that a persistent id means.
        leaves_out: Whether sets, items of unknown objects, and dict items with other than plain keys are left out; else
            they are refused, for a file that is given to another reader afterwards, which would hash them.

    Returns:
        The object, of dict, list, tuple, text, bytes, numbers, None and what `calls` and `refer` give (attributes of
        objects that are not Stateful are left out).

    Raises:
        UnreadableError: For anything but a whole pickle of a reasonable size.
    """
    machine = _Machine(calls, refer, leaves_out)
    try:
        with warnings.catch_warnings(action="ignore"):  # Python's, about escapes that Python 2 could write
            for instruction, argument, _ in pickletools.genops(file):
                if instruction.name == "STOP":
                    return machine.stack.pop()
                machine.obey(instruction.name, argument)
    except UnreadableError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, struct.error) as error:
        # Operands are missing or of the wrong kind: no pickler writes that.
        raise UnreadableError(f"{type(error).__name__}: {error}"[:200]) from None
    raise UnreadableError("it has no end")


class _Machine:
    """The stack, the memo, and what each instruction does to them."""

    def __init__(self, calls: Mapping[str, Callable[..., Any]], refer: Callable[[Any], Any], leaves_out: bool) -> None:
        self.calls = calls
        self.refer = refer
        self.leaves_out = leaves_out
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.work = 0

    def obey(self, name: str, argument: Any) -> None:
        self.spend(1)
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise UnreadableError(f"instruction {name}, which no file of data needs")

    def spend(self, work: int) -> None:
        # A short program can copy a long list again and again.
        self.work += work
        if self.work > MAX_WORK:
            raise UnreadableError("far more instructions than data need")

    def take(self, count: int) -> list[Any]:
        return self._cut(len(self.stack) - count)

    def since_mark(self) -> list[Any]:
        return self._cut(self.marks.pop())

    def _cut(self, start: int) -> list[Any]:
        if not 0 <= start <= len(self.stack):
            raise UnreadableError("operands are missing")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        else:
            self._leave_out(target)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            kept = plain_items(zip(items[::2], items[1::2], strict=True))
            if len(kept) < len(items) // 2 and not self.leaves_out:
                raise UnreadableError("a key that is no plain value, or stands twice")
            target.update(kept)
        else:
            self._leave_out(target)

    def _leave_out(self, target: Any) -> None:
        if not (self.leaves_out and isinstance(target, Opaque)):
            raise UnreadableError(f"items for {target.path if isinstance(target, Opaque) else type(target).__name__}")

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def name(self, module: Any, name: Any) -> None:
        self.stack.append(Name(f"{text_of(module)}.{text_of(name)}"))

    def call(self, function: Any, arguments: Any) -> None:
        known = self.calls.get(function.path) if isinstance(function, Name) else None
        if known is None:
            path = function.path if isinstance(function, (Name, Opaque)) else type(function).__name__
            self.stack.append(Opaque(path))
            return
        self.spend(len(arguments) + sum(len(a) for a in arguments if isinstance(a, (list, tuple))))
        self.stack.append(known(*arguments))

    def build(self, state: Any) -> None:
        target = self.stack[-1]
        if isinstance(target, Stateful):
            target.set_state(state)


# Instructions whose decoded argument is the value itself.
_VALUES = frozenset(
    {"INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: Opaque("a set"),
}
_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.take(1),
    "POP_MARK": lambda m, _: m.since_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.take(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.take(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.take(3))),
    "LIST": lambda m, _: m.stack.append(m.since_mark()),
    "DICT": lambda m, _: (items := m.since_mark(), m.stack.append({}), m.set_items(items)),
    "FROZENSET": lambda m, _: (m.since_mark(), m.stack.append(Opaque("a set"))),
    "APPEND": lambda m, _: m.append(m.take(1)),
    "APPENDS": lambda m, _: m.append(m.since_mark()),
    "ADDITEMS": lambda m, _: m.append(m.since_mark()),
    "SETITEM": lambda m, _: m.set_items(m.take(2)),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    "MEMOIZE": lambda m, _: m.remember(len(m.memo)),
    "GLOBAL": lambda m, names: m.name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*m.take(2)),
    "REDUCE": lambda m, _: m.call(*m.take(2)),
    "NEWOBJ": lambda m, _: m.call(*m.take(2)),
    "NEWOBJ_EX": lambda m, _: m.call(*m.take(3)[:2]),
    "INST": lambda m, names: (items := m.since_mark(), m.name(*names.split(" ", 1)), m.call(m.take(1)[0], items)),
    "OBJ": lambda m, _: (items := m.since_mark(), m.call(items[0], items[1:])),
    "BUILD": lambda m, _: m.build(m.take(1)[0]),
    "PERSID": lambda m, identifier: m.stack.append(m.refer(identifier)),
    "BINPERSID": lambda m, _: m.stack.append(m.refer(m.take(1)[0])),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.recall),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), lambda m, _: m.stack.append(Opaque("an extension"))),
}
