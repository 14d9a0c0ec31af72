"""The open tape: a list of every operation, tracked or not, to print, draw and profile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tapegrad._engine.dispatch import dtype_of
from tapegrad._engine.mode import mode_set
from tapegrad._engine.record import MARK, OUTS, RELEASED, STATIC, Operation, Record
from tapegrad._engine.source_line import user_line
from tapegrad._engine.tensor import Tensor, wrap


class Entry(NamedTuple):
    """One operation on a tape: its operands and results as Tensors of the values they had then.

    operands: Tensors, and constants as they were given; static: the other arguments; results: one Tensor or several;
    record: the node that backward walks, None if nothing was recorded; saved: the bytes that the record keeps beyond
    its operands' and results' own lifetime; line: "file:line" of the call outside tapegrad.
    """

    operation: Operation
    operands: tuple[Any, ...]
    static: tuple[Any, ...]
    results: tuple[Tensor, ...]
    record: Record | None
    saved: int
    line: str


class Tape:
    """A `with` block that lists every operation done inside, in order.

    Operations that are not recorded for gradients are listed as well, under `no_grad` too. The tape holds all values
    until it is dropped. Print it for a table; iterate over it for `Entry` objects. A backward pass is listed if it is
    recorded itself (create_graph=True, nested `grad`).

    Attributes
    ----------
    entries : list of Entry
        The operations, in order.

    Examples
    --------
    >>> import tapegrad as tg
    >>> with tg.Tape() as tape:
    ...     y = tg.asarray([1.0, 2.0]) * 3.0
    >>> len(tape), tape[0].operation.name
    (1, 'multiply')
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._scope: mode_set | None = None  # set only while the tape is open, as a scope holds the tape

    def __enter__(self) -> Tape:
        if self._scope is None:
            self._scope = mode_set(watch=self._add)
        self._scope.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        assert self._scope is not None
        self._scope.__exit__(*error)
        if not self._scope.open:
            self._scope = None

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __getitem__(self, i: int) -> Entry:
        return self.entries[i]

    def _add(self, operation: Operation, operands: Any, static: Any, result: Any) -> None:
        if operation is MARK:
            return
        results = result if isinstance(result, tuple) else (result,)
        record: Record | None = results[0]._record if results else None
        if record is not None and record.op is not operation:
            record = record.parents[0] if record.op.name == "pick" else None
        line = user_line()
        if record is not None:
            record.line = line
        # A later in-place update changes the Tensors: keep the values of now.
        now = tuple(wrap(y._array, y._record) for y in results)
        held = tuple(wrap(x._array, x._record) if isinstance(x, Tensor) else x for x in operands)
        self.entries.append(Entry(operation, held, static, now, record, saved_bytes(record), line))

    def table(self, names: Mapping[str, Tensor] | None = None) -> str:
        """Return the tape as a table.

        Parameters
        ----------
        names : mapping of str to Tensor or None, default None
            Labels for values that come from outside; letters for the others.

        Returns
        -------
        str
            A line for each operation: its inputs, shape, dtype, the bytes it saved and the user's line.

        Examples
        --------
        >>> import tapegrad as tg
        >>> x = tg.asarray([1.0])
        >>> with tg.Tape() as tape:
        ...     y = x * 2.0
        >>> "x, 2.0" in tape.table({"x": x})
        True
        """
        return table(self, names)

    def __str__(self) -> str:
        return table(self)

    def __repr__(self) -> str:
        return f"<tape of {len(self)} operations>"


def saved_bytes(record: Record | None) -> int:
    """Return the number of bytes of arrays that a record saves for its rules."""
    if record is None or record.saved is RELEASED:
        return 0
    arrays: dict[int, Any] = {}
    for v, source in zip(record.saved, record.op.sources, strict=True):
        if source == OUTS:
            arrays |= {id(out): out for out in v}
        elif hasattr(v, "shape") and source != STATIC:
            arrays[id(v)] = v
    return sum(bytes_of_array(a) for a in arrays.values())


def bytes_of_array(array: Any) -> int:
    """Return the number of bytes of an array."""
    n: int = dtype_of(array).itemsize
    for length in array.shape:
        n *= length
    return n


def names_of(tape: Tape, given: Mapping[str, Tensor] | None = None) -> dict[int, str]:
    """Return a name for every value on a tape, by the identity of its buffer.

    It is the given name, or %0, %1 ... for results and a, b ... for values from outside.
    """
    names = {id(x._array): " ".join(name.split()) for name, x in (given or {}).items()}
    outside = 0
    for n, entry in enumerate(tape):
        for x in entry.operands:
            if isinstance(x, Tensor) and id(x._array) not in names:
                names[id(x._array)] = _letters(outside)
                outside += 1
        for k, y in enumerate(entry.results):
            names.setdefault(id(y._array), f"%{n}" if len(entry.results) == 1 else f"%{n}.{k}")
    return names


def _letters(n: int) -> str:
    return chr(ord("a") + n % 26) + (str(n // 26) if n >= 26 else "")


def show(x: Any, names: dict[int, str]) -> str:
    """Return an operand as the table shows it."""
    if isinstance(x, Tensor):
        return names[id(x._array)]
    shape = getattr(x, "shape", None)
    return repr(x) if shape is None or isinstance(x, type) else f"array{tuple(shape)}"


def show_static(s: Any) -> str:
    """Return a static argument as the table shows it, in one line: arrays by their shape."""
    if isinstance(s, tuple):
        return "(" + ", ".join(map(show_static, s)) + ("," if len(s) == 1 else "") + ")"
    if isinstance(s, slice):
        parts = ["" if v is None else str(v) for v in (s.start, s.stop)]
        return ":".join(parts if s.step is None else [*parts, str(s.step)])
    if isinstance(s, type):  # such as a dtype of NumPy's: its `shape` is no shape
        return s.__name__
    return f"array{tuple(s.shape)}" if hasattr(s, "shape") else str(s)


def table(tape: Tape, given: Mapping[str, Tensor] | None = None) -> str:
    """Return a tape as a table: operation, inputs, shape, dtype, bytes saved, the user's line."""
    names = names_of(tape, given)
    rows = [("", "operation", "inputs", "shape", "dtype", "saved", "line")]
    for entry in tape:
        y = entry.results[0] if entry.results else None
        static = [show_static(s) for s in entry.static if s is not False]
        rows.append(
            (
                ", ".join(names[id(r._array)] for r in entry.results[:1]),
                entry.operation.name,
                ", ".join([show(x, names) for x in entry.operands] + static),
                "" if y is None else str(y.shape),
                "" if y is None else y.dtype.name,
                f"{entry.saved} B" if entry.record is not None else "-",
                entry.line,
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(7)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    total = sum(entry.saved for entry in tape)
    used = {id(x._array) for entry in tape for x in entry.operands if isinstance(x, Tensor)}
    outside = sorted({n for i, n in names.items() if i in used and not n.startswith("%")}, key=lambda n: (len(n), n))
    lines.insert(1, "-" * max(len(line) for line in lines))
    lines.append(f"{len(tape)} operations, {total} bytes saved; from outside: {', '.join(outside) or 'nothing'}")
    return "\n".join(lines)


def note_line(operation: Operation, operands: Any, static: Any, result: Any) -> None:
    """Keep the user's line with the records of an operation's results."""
    for y in result if isinstance(result, tuple) else (result,):
        if y._record is not None and y._record.op is operation:
            y._record.line = user_line()


def debug() -> mode_set:
    """Keep the user's line with every record made inside this `with` block.

    An error in the backward pass then names the line of the forward operation it belongs to. A gradient, or a tangent
    of forward mode, that turns into NaN raises FloatingPointError there, which says if it came of 0 times infinity. It
    costs some time for each operation.

    Returns
    -------
    context manager
        A `with` block, or a decorator.

    Examples
    --------
    >>> import tapegrad as tg
    >>> with tg.debug():
    ...     y = tg.tensor([2.0], requires_grad=True) * 3.0
    >>> y._record.line.partition(":")[2]
    '2'
    """
    return mode_set(watch=note_line, debug=True)
