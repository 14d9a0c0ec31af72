"""The array API standard, version 2025.12: every name and signature, and the functions without a gradient."""

from __future__ import annotations

import inspect
import itertools
import sys
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad._engine.dtypes import promote

# Signature -> the functions that have it, as the standard's own list of 2025.12 says.
SIGNATURES = {
    # creation
    "start, /, stop=None, step=1, *, dtype=None, device=None": "arange",
    "obj, /, *, dtype=None, device=None, copy=None": "asarray",
    "shape, *, dtype=None, device=None": "empty ones zeros",
    "x, /, *, dtype=None, device=None": "empty_like ones_like zeros_like",
    "n_rows, n_cols=None, /, *, k=0, dtype=None, device=None": "eye",
    "x, /, *, device=None, copy=None": "from_dlpack",
    "shape, fill_value, *, dtype=None, device=None": "full",
    "x, /, fill_value, *, dtype=None, device=None": "full_like",
    "start, stop, /, num, *, dtype=None, device=None, endpoint=True": "linspace",
    "*arrays, indexing='xy'": "meshgrid",
    "x, /, *, k=0": "tril triu",
    # dtypes
    "x, dtype, /, *, copy=True, device=None": "astype",
    "from_, to, /": "can_cast",
    "type, /": "finfo iinfo",
    "dtype, kind": "isdtype",
    "*arrays_and_dtypes": "result_type",
    # of one Tensor
    "x, /": (
        "abs acos acosh asin asinh atan atanh bitwise_invert ceil conj cos cosh exp expm1 floor imag isfinite isinf "
        "isnan log log10 log1p log2 logical_not matrix_transpose negative nonzero positive real reciprocal round sign "
        "signbit sin sinh sqrt square tan tanh trunc unique_all unique_counts unique_inverse unique_values"
    ),
    # of two
    "x1, x2, /": (
        "add atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor copysign divide equal "
        "floor_divide greater greater_equal hypot less less_equal logaddexp logical_and logical_or logical_xor matmul "
        "maximum minimum multiply nextafter not_equal pow remainder subtract"
    ),
    "x, /, min=None, max=None": "clip",
    "condition, x1, x2, /": "where",
    # indexing, searching, sorting, sets
    "x, indices, /, *, axis=None": "take",
    "x, indices, /, *, axis=-1": "take_along_axis",
    "x1, x2, /, *, side='left', sorter=None": "searchsorted",
    "x, /, *, axis=-1, descending=False, stable=True": "argsort sort",
    "x1, x2, /, *, invert=False": "isin",
    # products
    "x1, x2, /, *, axes=2": "tensordot",
    "x1, x2, /, *, axis=-1": "vecdot",
    # shaping
    "*arrays": "broadcast_arrays",
    "*shapes": "broadcast_shapes",
    "x, /, shape": "broadcast_to",
    "arrays, /, *, axis=0": "concat stack",
    "x, /, axis": "expand_dims squeeze",
    "x, /, *, axis=None": "flip",
    "x, source, destination, /": "moveaxis",
    "x, /, axes": "permute_dims",
    "x, repeats, /, *, axis=None": "repeat",
    "x, /, shape, *, copy=None": "reshape",
    "x, /, shift, *, axis=None": "roll",
    "x, repetitions, /": "tile",
    "x, /, *, axis=0": "unstack",
    # reductions
    "x, /, *, axis=None, keepdims=False": "all any argmax argmin count_nonzero max mean min",
    "x, /, *, axis=None, dtype=None, keepdims=False": "prod sum",
    "x, /, *, axis=None, dtype=None, include_initial=False": "cumulative_prod cumulative_sum",
    "x, /, *, axis=None, correction=0.0, keepdims=False": "std var",
    "x, /, *, axis=-1, n=1, prepend=None, append=None": "diff",
    "": "__array_namespace_info__",
}
FFT = {
    "x, /, *, n=None, axis=-1, norm='backward'": "fft hfft ifft ihfft irfft rfft",
    "x, /, *, s=None, axes=None, norm='backward'": "fftn ifftn irfftn rfftn",
    "n, /, *, d=1.0, dtype=None, device=None": "fftfreq rfftfreq",
    "x, /, *, axes=None": "fftshift ifftshift",
}
LINALG = {
    "x, /": "det eigh eigvalsh inv matrix_transpose slogdet svdvals",
    "x1, x2, /": "matmul outer solve",
    "x1, x2, /, *, axis=-1": "cross vecdot",
    "x1, x2, /, *, axes=2": "tensordot",
    "x, /, *, upper=False": "cholesky",
    "x, /, *, offset=0": "diagonal",
    "x, /, *, keepdims=False, ord='fro'": "matrix_norm",
    "x, n, /": "matrix_power",
    "x, /, *, rtol=None": "matrix_rank pinv",
    "x, /, *, mode='reduced'": "qr",
    "x, /, *, full_matrices=True": "svd",
    "x, /, *, offset=0, dtype=None": "trace",
    "x, /, *, axis=None, keepdims=False, ord=2": "vector_norm",
}
INFO = {"": "capabilities default_device devices", "*, device=None": "default_dtypes"} | {
    "*, device=None, kind=None": "dtypes"
}
OTHERS = (
    "__array_api_version__ e inf nan newaxis pi bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64 "
    "complex64 complex128"
)
MEMBERS = (
    "T device dtype mT ndim shape size __abs__ __add__ __and__ __array_namespace__ __bool__ __complex__ __dlpack__ "
    "__dlpack_device__ __eq__ __float__ __floordiv__ __ge__ __getitem__ __gt__ __iadd__ __iand__ __ifloordiv__ "
    "__ilshift__ __imatmul__ __imod__ __imul__ __index__ __int__ __invert__ __ior__ __ipow__ __irshift__ __isub__ "
    "__itruediv__ __ixor__ __le__ __lshift__ __lt__ __matmul__ __mod__ __mul__ __ne__ __neg__ __or__ __pos__ __pow__ "
    "__radd__ __rand__ __rfloordiv__ __rlshift__ __rmatmul__ __rmod__ __rmul__ __ror__ __rpow__ __rrshift__ __rshift__ "
    "__rsub__ __rtruediv__ __rxor__ __setitem__ __sub__ __truediv__ __xor__ to_device"
)


def signature(f: Any) -> str:
    """Return the names, kinds and defaults of a function's parameters."""
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(f).parameters.values()]
    return str(inspect.Signature(parameters))[1:-1]


def check(home: Any, table: dict[str, str]) -> None:
    functions = {name: text for text, names in table.items() for name in names.split()}
    missing = sorted(name for name in functions if not hasattr(home, name))
    assert not missing
    got = {name: signature(getattr(home, name)) for name in functions}
    assert got == functions
    exported = getattr(home, "__all__", functions)
    assert not set(functions) - set(exported)


def test_every_function_of_the_standard_is_there() -> None:
    check(tg, SIGNATURES)
    check(tg.fft, FFT)
    check(tg.__array_namespace_info__(), INFO)
    assert sorted(name for names in FFT.values() for name in names.split()) == sorted(tg.fft.__all__)


def test_every_function_of_linalg_is_there() -> None:
    check(tg.linalg, LINALG)


def test_other_names_of_the_standard_are_there() -> None:
    assert [n for n in OTHERS.split() if not hasattr(tg, n) or n not in tg.__all__] == []
    assert [n for n in MEMBERS.split() if not hasattr(tg.Tensor, n)] == []


def test_several_results_are_tuples() -> None:
    x = tg.ones((2, 2))
    for out in (tg.broadcast_arrays(x, x), tg.meshgrid(x[0], x[1]), tg.unstack(x), tg.nonzero(x)):
        assert type(out) is tuple
    assert signature(tg.Tensor.__dlpack__) == "self, /, *, stream=None, max_version=None, dl_device=None, copy=None"


def test_versions_of_the_standard() -> None:
    x = tg.ones(1)
    assert tg.__array_api_version__ == "2025.12"
    for version in (None, "2021.12", "2022.12", "2023.12", "2024.12", "2025.12"):
        assert x.__array_namespace__(api_version=version) is tg
    for version in ("2020.12", "2099.12", "", "latest"):
        with pytest.raises(ValueError, match="tapegrad follows the array API 2025.12"):
            x.__array_namespace__(api_version=version)


# -- dtypes ------------------------------------------------------------------------------------------------

NUMPYS = [np.dtype(kind) for kind in "?bhilBHILefdFD"]  # all of the standard's, and float16


def test_promotion_is_numpys() -> None:
    """On dtypes of one kind that is the standard's; where the standard says nothing, it is NumPy's all the same."""
    for a, b in itertools.product(NUMPYS, NUMPYS):
        assert tg.result_type(a, b) == np.result_type(a, b), (a, b)
        assert tg.can_cast(a, b) == np.can_cast(a, b), (a, b)
    for several in itertools.product(NUMPYS, NUMPYS, NUMPYS):
        assert tg.result_type(*several) == np.result_type(*several), several


def test_promotion_with_numbers() -> None:
    for dtype in NUMPYS:
        for number in (True, 1, 1.0, 1j):
            expected = np.result_type(np.zeros(1, dtype), number)
            assert tg.result_type(dtype, number) == tg.result_type(number, dtype) == expected, (dtype, number)
    assert tg.result_type(tg.bool, 1, 1.0) is tg.float64
    assert tg.result_type(np.float64(1.0), tg.float32) is tg.float32  # NumPy's scalars are weak everywhere here
    assert promote(tg.bfloat16, tg.float16) is tg.float32
    assert promote(tg.bfloat16, tg.complex64) is tg.complex64
    assert tg.result_type(tg.bfloat16, 1j) is tg.complex64
    with pytest.raises(ValueError, match="^result_type: at least one array or dtype"):
        tg.result_type(1, 2.0)


def test_dtype_functions_take_everything_with_a_dtype(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0])
    forms = [x, x.detach().array, x.dtype, x.dtype.name, x._array.dtype]
    for form in forms:
        assert tg.finfo(form).dtype is x.dtype
        assert tg.result_type(form, 1.5) is x.dtype
        assert tg.can_cast(form, x.dtype)
    wide = xp.tensor([1])
    for form in (wide, wide.array, wide.dtype, wide._array.dtype):
        assert tg.iinfo(form).dtype is wide.dtype
    # An array answers for its device, a dtype for itself.
    assert tg.result_type(x, tg.float64) is (tg.float64 if xp.double else tg.float32)
    assert tg.can_cast(tg.astype(x, tg.float32), tg.float64) is xp.double
    assert tg.can_cast(tg.float32, tg.float64)


def test_limits_are_numpys() -> None:
    for dtype in NUMPYS:
        if dtype.kind in "fc":
            limits, expected = tg.finfo(dtype), np.finfo(dtype)
            assert limits.dtype == expected.dtype
            for name in ("bits", "eps", "max", "min", "smallest_normal"):
                value = getattr(limits, name)
                assert type(value) is (int if name == "bits" else float)
                assert value == getattr(expected, name), (dtype, name)
        elif dtype.kind in "iu":
            whole = tg.iinfo(dtype)
            assert (whole.bits, whole.max, whole.min) == tuple(
                getattr(np.iinfo(dtype), n) for n in ("bits", "max", "min")
            )
            assert whole.dtype == dtype
    assert tg.finfo(tg.bfloat16).eps == 2**-7
    assert tg.finfo(tg.bfloat16).max == pytest.approx(3.39e38, rel=1e-2)


# -- capabilities ----------------------------------------------------------------------------------------------


def test_info(xp: Place) -> None:
    info = tg.__array_namespace_info__()
    assert info.default_device() == tg.zeros(()).device
    assert info.capabilities() == {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}
    devices = info.devices()
    assert isinstance(devices, tuple)  # since 2025.12
    assert devices + [None] == [*devices, None]  # a list until then, which SciPy still adds to one
    assert [None] + devices == [None, *devices]
    assert devices + ("x",) == (*devices, "x")
    assert ("x",) + devices == ("x", *devices)
    assert devices[0] == "cpu"
    assert len(set(devices)) == len(devices)
    assert tg.zeros(1).device in devices or not xp.double
    for device in devices:
        assert tg.zeros(1, device=device, dtype=tg.float32).device == device
        dtypes = info.dtypes(device=device)
        for dtype in dtypes.values():
            assert tg.zeros(1, device=device, dtype=dtype).dtype is dtype
    kinds = ("bool", "signed integer", "unsigned integer", "integral", "real floating", "complex floating", "numeric")
    for kind in (*kinds, ("bool", "complex floating"), ()):
        expected = {n: d for n, d in info.dtypes().items() if tg.isdtype(d, kind)}
        assert info.dtypes(kind=kind) == expected
    assert ("float64" in info.dtypes()) is xp.double
    defaults = info.default_dtypes()
    assert defaults["real floating"] is tg.zeros(1).dtype
    assert defaults["complex floating"] is tg.asarray([1j]).dtype
    assert defaults["integral"] is tg.asarray([1]).dtype
    assert defaults["indexing"] is tg.argmax(tg.zeros(1)).dtype
    with tg.default_dtype(tg.float32):
        assert info.default_dtypes()["complex floating"] is tg.complex64
    assert info.default_dtypes(device="cpu")["real floating"] is tg.float64
    assert list(defaults) == ["real floating", "complex floating", "integral", "indexing"]
    for function in (info.dtypes, info.default_dtypes):
        with pytest.raises(ValueError, match="unknown device ''"):
            function(device="")
    with pytest.raises(ValueError, match="unknown kind"):
        info.dtypes(kind="floats")


def test_asking_for_devices_imports_nothing() -> None:
    import subprocess

    code = "import sys, tapegrad as tg; print(tg.__array_namespace_info__().devices(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.strip() == "('cpu',) False"


# -- sets and searching ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        [[3, 1, 3], [2, 2, 3]],
        [[2.5, -1.0], [2.5, 0.5]],
        [0.0, -0.0, np.nan, 1.0, np.nan],
        [True, False, True],
        [1j, 1 + 1j, 1j, 1 - 1j, 0],
        5.0,
        np.zeros((0, 3)),
    ],
    ids=["ints", "floats", "nan", "bools", "complex", "0-d", "size-0"],
)
def test_unique(xp: Place, values: Any) -> None:
    x = xp.tensor(values)
    every = tg.unique_all(x)
    expected = np.unique_all(np.asarray(values))
    xp.check(every.values, expected.values)
    xp.check(every.counts, expected.counts)
    xp.check(every.inverse_indices, np.reshape(expected.inverse_indices, x.shape))
    xp.check(every.indices, expected.indices)
    assert every._fields == ("values", "indices", "inverse_indices", "counts")
    assert every.values.dtype is x.dtype
    indexing = tg.__array_namespace_info__().default_dtypes()["indexing"]
    assert {t.dtype for t in every[1:]} == {indexing}
    counts, inverse = tg.unique_counts(x), tg.unique_inverse(x)
    assert (counts._fields, inverse._fields) == (("values", "counts"), ("values", "inverse_indices"))
    for got in (counts.values, inverse.values, tg.unique_values(x)):
        xp.check(got, expected.values)
    xp.check(counts.counts, expected.counts)
    xp.check(inverse.inverse_indices, np.reshape(expected.inverse_indices, x.shape))


def test_unique_values_give_their_gradient_to_first_places(xp: Place) -> None:
    x = xp.tensor([[3.0, 1.0], [3.0, 2.0]], requires_grad=True)
    values = tg.unique_values(x)
    tg.sum(values * xp.tensor([1.0, 10.0, 100.0])).backward()
    xp.check(x.grad, [[100.0, 1.0], [0.0, 10.0]])
    assert not tg.unique_all(x).counts.requires_grad


def test_isin(xp: Place) -> None:
    for kind in (int, float):
        x1, x2 = xp.tensor(np.asarray([[1, 2, 3], [4, 5, 6]], kind)), xp.tensor(np.asarray([6, 2, 9], kind))
        out = tg.isin(x1, x2)
        assert out.dtype is tg.bool
        xp.check(out, [[False, True, False], [False, False, True]])
        xp.check(tg.isin(x1, x2, invert=True), [[True, False, True], [True, True, False]])
        xp.check(tg.isin(x1, 5), [[False, False, False], [False, True, False]])
        xp.check(tg.isin(9, x2), True)
        xp.check(tg.isin(x1, x2[:0]), np.zeros((2, 3), bool))
    xp.check(tg.isin(xp.tensor([np.nan, 1.0]), xp.tensor([np.nan])), [False, False])


def test_searchsorted(xp: Place) -> None:
    a, v = np.asarray([1.0, 2.0, 2.0, 4.0]), np.asarray([[0.0, 2.0, 4.0], [2.5, 5.0, 1.0]])
    mixed = np.asarray([2, 0, 3, 1])
    x1, x2, x3 = xp.tensor(a), xp.tensor(v), xp.tensor(a[np.argsort(mixed)])
    for side in ("left", "right"):
        expected = np.searchsorted(a, v, side=side)
        xp.check(tg.searchsorted(x1, x2, side=side), expected)
        xp.check(tg.searchsorted(x1, x2.T, side=side), expected.T)
        xp.check(tg.searchsorted(x3, x2, side=side, sorter=xp.tensor(mixed)), expected)
        xp.check(tg.searchsorted(x1, 2, side=side), 1 if side == "left" else 3)
        xp.check(tg.searchsorted(x1, xp.tensor([3]), side=side), [3])
    out = tg.searchsorted(xp.tensor(a, requires_grad=True), x2)
    assert out.dtype is tg.__array_namespace_info__().default_dtypes()["indexing"]
    assert not out.requires_grad


def test_diff(xp: Place) -> None:
    a = np.asarray([[1, 4, 9, 16], [0, 1, 1, 5]])
    x = xp.tensor(a)
    for n in range(6):
        for axis in (0, 1, -1):
            xp.check(tg.diff(x, axis=axis, n=n), np.diff(a, n, axis))
    assert tg.diff(x).dtype is x.dtype
    xp.check(tg.diff(x, axis=0, prepend=x[:1], append=x), np.diff(a, axis=0, prepend=a[:1], append=a))


# -- Fourier transforms ------------------------------------------------------------------------------------------


def test_fft_keeps_precision_and_device(xp: Place) -> None:
    for real, wide in ((tg.float32, tg.complex64), (tg.float64, tg.complex128)):
        if real is tg.float64 and not xp.double:
            continue
        x = tg.ones((4, 6), dtype=real)
        z = tg.astype(x, wide)
        for name in ("fft", "ifft", "fftn", "ifftn"):
            f = getattr(tg.fft, name)
            assert f(x).dtype is f(z).dtype is wide
            assert f(z).device == x.device
        for name in ("rfft", "rfftn", "ihfft"):
            assert getattr(tg.fft, name)(x).dtype is wide
        for name in ("irfft", "irfftn", "hfft"):
            f = getattr(tg.fft, name)
            assert f(x).dtype is f(z).dtype is real
        for name in ("fftshift", "ifftshift"):
            f = getattr(tg.fft, name)
            assert (f(x).dtype, f(z).dtype) == (real, wide)


def test_fft_over_no_axes_and_lengths_that_stay(xp: Place) -> None:
    a = np.random.default_rng(0).standard_normal((3, 4, 5))
    x = xp.tensor(a)
    xp.check(tg.fft.fftn(x, axes=()), a + 0j)
    xp.check(tg.fft.fftn(xp.tensor(2.0)), 2 + 0j)
    xp.check(tg.fft.fftn(x, s=(-1, 2), axes=(0, 2)), np.fft.fftn(a, (3, 2), (0, 2)))
    xp.check(tg.fft.rfftn(x, s=(-1, -1), axes=(0, 2)), np.fft.rfftn(a, (3, 5), (0, 2)))
    xp.check(tg.fft.irfftn(x, s=(-1, -1), axes=(0, 2)), np.fft.irfftn(a, (3, 8), (0, 2)))


def test_fft_inverts(xp: Place) -> None:
    a = np.random.default_rng(0).standard_normal((3, 4, 5))
    x = xp.tensor(a)
    for norm in ("backward", "ortho", "forward"):
        xp.check(tg.fft.ifft(tg.fft.fft(x, norm=norm), norm=norm), a + 0j)
        xp.check(tg.fft.ifftn(tg.fft.fftn(x, norm=norm), norm=norm), a + 0j)
        xp.check(tg.fft.irfft(tg.fft.rfft(x, norm=norm), n=5, norm=norm), a)
        xp.check(tg.fft.irfftn(tg.fft.rfftn(x, norm=norm), s=a.shape, axes=(0, 1, 2), norm=norm), a)
        xp.check(tg.fft.hfft(tg.fft.ihfft(x, norm=norm), n=5, norm=norm), a)
    xp.check(tg.fft.ifftshift(tg.fft.fftshift(x)), a)


def test_frequencies(xp: Place) -> None:
    for n in (1, 2, 5, 6):
        xp.check(tg.fft.fftfreq(n, d=0.5), np.fft.fftfreq(n, 0.5))
        xp.check(tg.fft.rfftfreq(n, d=0.5), np.fft.rfftfreq(n, 0.5))
    default = tg.zeros(1)
    for f in (tg.fft.fftfreq, tg.fft.rfftfreq):
        assert (f(3).dtype, f(3).device) == (default.dtype, default.device)
        assert f(3, dtype=tg.float32).dtype is tg.float32
        assert f(3, device="cpu").device == "cpu"


def test_devices_that_lack_dtypes_are_not_offered() -> None:
    pytest.importorskip("array_api_strict")
    with tg.default_device("strict:CPU_DEVICE"):
        devices = tg.__array_namespace_info__().devices()
    assert "strict:device1" in devices
    assert not any("no_" in d for d in devices)


def test_matrix_rank(xp: Place) -> None:
    x = np.asarray([np.eye(3), np.outer([1.0, 2.0, 3.0], [1.0, 0.0, 1.0]), np.diag([1.0, 1e-3, 0.0])])
    xp.check(tg.linalg.matrix_rank(xp.tensor(x)), [3, 1, 2])
    xp.check(tg.linalg.matrix_rank(xp.tensor(x), rtol=0.01), [3, 1, 1])


def test_negative_zeros_stay(xp: Place) -> None:
    for x in (-0.0, [-0.0], np.float32(-0.0), np.asarray(-0.0)):
        assert tg.all(tg.signbit(tg.asarray(x)))
    z = tg.asarray(complex(-0.0, 0.0))
    assert tg.signbit(tg.real(z))
    assert not tg.signbit(tg.imag(z))
