"""Errors of wrong calls of public functions, with the right call in the message.

Python itself raises for an unknown argument, before any line of the function runs. So public functions with options are
wrapped in a function that explains errors. Elementwise functions have no options and are the hot path; they are not
wrapped.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from inspect import Parameter, signature
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from tapegrad._engine import elementwise, primitive
from tapegrad._engine.tensor import Tensor

# Names of arguments in other libraries -> names here.
_ALIASES = {
    **dict.fromkeys(("dim", "dims", "axes", "axis"), ("axis", "axes")),
    **dict.fromkeys(("keepdim", "keep_dims"), ("keepdims",)),
    **dict.fromkeys(("ddof", "unbiased"), ("correction",)),
    **dict.fromkeys(("size", "sizes", "newshape"), ("shape",)),
    **dict.fromkeys(("shift",), ("shifts",)),
    **dict.fromkeys(("N", "M"), ("n_rows",)),
    **dict.fromkeys(("fill", "value"), ("fill_value",)),
    **dict.fromkeys(("steps", "count"), ("num",)),
}
# Arguments that take several numbers as one tuple.
_TUPLES = {"shape", "axes", "axis", "repetitions", "arrays", "shifts"}
# (function, type of the last argument) -> the function that was probably meant.
_MEANT = {
    ("max", Tensor): "tapegrad.maximum(x1, x2)",
    ("min", Tensor): "tapegrad.minimum(x1, x2)",
    ("any", Tensor): "tapegrad.logical_or(x1, x2)",
    ("all", Tensor): "tapegrad.logical_and(x1, x2)",
}


def published(names: dict[str, Any], module: str) -> None:
    """Wrap the functions of a namespace to explain wrong calls.

    Elementwise ones are not, nor those that call a function of the user's, whose errors stay as they are.
    """
    found = [
        (name, f)
        for name, f in names.items()
        if type(f) is FunctionType and f.__module__.startswith(_MODULES) and f.__code__.co_filename not in _HOT
    ]
    for name, f in found:
        if not any([str(kind).startswith("Callable") for kind in f.__annotations__.values()]):
            names[name] = _explained(f, module)


_MODULES = (
    *("tapegrad.ops.", "tapegrad._engine.dtypes", "tapegrad._engine.settings", "tapegrad._inspect.drawing"),
    "tapegrad._training.saving",
)
_HOT = {elementwise.__file__, primitive.__file__}  # files that make functions of the hot path
_MISSING: Any = object()
_FILE = str(Path(__file__).parent.with_name("<calls>"))  # in the package, so that it is not taken for the user's line
# Arguments are passed by name: a dictionary of them would take longer than the sum of a small array.
_TEMPLATE = """
def call({parameters}):
    if {trouble}:
        return wrong({extra}, unknown, {values})
    try:
        return f({arguments})
    except Exception as error:
        return failed(error, {values})
"""


def _explained(f: Callable[..., Any], module: str) -> Callable[..., Any]:
    """Return a wrapper with the same arguments, which explains wrong calls and names the function in errors."""
    name = f.__name__
    parameters = list(signature(f).parameters.values())

    def given(values: tuple[Any, ...]) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of a call, without missing ones and defaults of options."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        by_place = True
        for p, v in zip(parameters, values, strict=True):
            if p.kind is Parameter.VAR_POSITIONAL:
                args += v
            elif v is _MISSING or (v is p.default and p.kind is not Parameter.POSITIONAL_ONLY):
                by_place = False
            elif by_place and p.kind is not Parameter.KEYWORD_ONLY:
                args.append(v)
            else:
                kwargs[p.name] = v
        return args, kwargs

    def wrong(extra: tuple[Any, ...], unknown: dict[str, Any], *values: Any) -> Any:
        args, kwargs = given(values)
        try:
            return f(*args, *extra, **kwargs, **unknown)
        except TypeError as error:
            raise _told(f, name, module, error, (*args, *extra), kwargs | unknown) from None

    def failed(error: Exception, *values: Any) -> Any:
        args, kwargs = given(values)
        told = _told(f, name, module, error, tuple(args), kwargs)
        if told is error:
            raise error
        raise told from error.__cause__

    space = {"f": f, "wrong": wrong, "failed": failed, "missing": _MISSING}
    exec(_code_of(_text_of(parameters, space)), space)
    call: Any = wraps(f)(space["call"])
    call.__module__ = module
    return call  # type: ignore[no-any-return]


@cache
def _code_of(text: str) -> CodeType:
    """Compile a text; many functions share it."""
    return compile(text, _FILE, "exec")


def _text_of(parameters: list[Parameter], space: dict[str, Any]) -> str:
    """Return the wrapper's source for these parameters; their defaults become global variables of it."""
    listed, arguments = [], []
    several = any(p.kind is Parameter.VAR_POSITIONAL for p in parameters)
    by_place = sum(p.kind is Parameter.POSITIONAL_ONLY for p in parameters)
    starred = False
    for n, p in enumerate(parameters):
        if p.kind is Parameter.VAR_POSITIONAL:
            listed.append(f"*{p.name}")
            arguments.append(f"*{p.name}")
            starred = True
            continue
        if p.kind is Parameter.KEYWORD_ONLY and not starred:
            listed.append("*extra")
            starred = True
        space[f"d{n}"] = _MISSING if p.default is Parameter.empty else p.default
        listed.append(f"{p.name}=d{n}")
        arguments.append(f"{p.name}={p.name}" if p.kind is Parameter.KEYWORD_ONLY else p.name)
        if n + 1 == by_place:
            listed.append("/")
    if not starred:
        listed.append("*extra")
    required = [p.name for p in parameters if p.default is p.empty and p.kind is not Parameter.VAR_POSITIONAL]
    return _TEMPLATE.format(
        parameters=", ".join([*listed, "**unknown"]),
        trouble=" or ".join(["unknown", *["extra"] * (not several), *[f"{name} is missing" for name in required]]),
        extra="()" if several else "extra",
        values=", ".join(p.name for p in parameters),
        arguments=", ".join(arguments),
    )


def _told(
    f: Callable[..., Any], name: str, module: str, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Exception:
    """Return the error to raise for an error of a call: the same one, if it names the function."""
    trace = error.__traceback__
    if type(error) is TypeError and trace is not None and trace.tb_next is None:  # Python's own: no line of it ran
        return TypeError(f"{error}: call it as in {_right_call(f, name, module, args, kwargs)}")
    message = str(error).removeprefix("asarray: ").removeprefix("creation: ")  # functions that it called
    within = (AttributeError, LookupError, AssertionError, StopIteration)  # errors of lines of tapegrad
    if name in message or not isinstance(error, (TypeError, ValueError, *within)):
        return error
    if isinstance(error, within) and not isinstance(error, ValueError):
        return TypeError(f"{name}: {_unfit(f, args, kwargs)}")
    try:
        told = type(error)(f"{name}: {message}")
    except Exception:
        return error
    for note in getattr(error, "__notes__", ()):
        told.add_note(note)
    return told.with_traceback(trace)


def _unfit(f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    given = [type(a).__name__ for a in args] + [f"{k}={type(v).__name__}" for k, v in kwargs.items()]
    return f"arguments that do not fit: {', '.join(given)}"


def _right_call(f: Callable[..., Any], name: str, module: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the call that was probably meant, else the form of a call."""
    last: Any = type(args[-1]) if len(args) > 1 else None
    meant = _MEANT.get((name, last))
    if meant is not None:
        return meant
    if "requires_grad" in kwargs:
        kept = {k: v for k, v in kwargs.items() if k != "requires_grad"}
        return f"tapegrad.tensor({_right_call(f, name, module, args, kept)}, requires_grad=True)"
    parameters = list(signature(f).parameters.values())
    by_place = [p for p in parameters if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
    by_name = [p for p in parameters if p.kind is Parameter.KEYWORD_ONLY]
    names = {p.name for p in parameters}
    words: list[str] = []
    left = list(by_name)
    for k, v in kwargs.items():
        k = k if k in names else next((n for n in _ALIASES.get(k, ()) if n in names), "")
        if not k or any(w.startswith(f"{k}=") for w in words):
            return _form(f, name, module)
        words.append(f"{k}={_text(v)}")
        left = [p for p in left if p.name != k]
    given = [_text(a) for a in args]
    many = next((i for i, p in enumerate(by_place) if p.name in _TUPLES), None)
    extra = len(given) - len(by_place)
    kind: Any = Tensor if many is not None and by_place[many].name == "arrays" else int
    if extra > 0 and many is not None and all([isinstance(a, kind) for a in args[many : many + extra + 1]]):
        part = given[many : many + extra + 1]  # several numbers for a shape, or arrays for a list of them
        joined = f"[{', '.join(part)}]" if kind is Tensor else f"({', '.join(part)})"
        given[many : many + extra + 1] = [joined]
    elif extra > 0:
        if extra > len(left):
            return _form(f, name, module)
        words = [f"{p.name}={v}" for p, v in zip(left, given[len(by_place) :], strict=False)] + words
        given = given[: len(by_place)]
    elif [p for p in by_place[len(given) :] if p.default is Parameter.empty and f"{p.name}=" not in " ".join(words)]:
        return _form(f, name, module)
    by_keyword = {p.name: i for i, p in enumerate(by_place) if p.kind is Parameter.POSITIONAL_ONLY}
    if any(w.partition("=")[0] in by_keyword for w in words):
        return _form(f, name, module)
    return f"{module}.{name}({', '.join([*given, *words])})"


def _form(f: Callable[..., Any], name: str, module: str) -> str:
    """Return the form of a call: the arguments, and the options with their defaults."""
    words = []
    for p in signature(f).parameters.values():
        if p.kind is Parameter.VAR_POSITIONAL:
            words.append(f"*{p.name}")
        elif p.default is Parameter.empty:
            words.append(p.name)
        else:
            words.append(f"{p.name}={p.default!r}")
    return f"{module}.{name}({', '.join(words)})"


def _text(v: Any) -> str:
    """Return an argument as text for a call; arrays as `x`."""
    if isinstance(v, Tensor) or hasattr(v, "shape"):
        return "x"
    if isinstance(v, list):
        return f"[{', '.join(map(_text, v))}]"
    text = repr(v)
    return text if len(text) <= 30 else "..."
