"""Generator: a stream of random numbers, whose key and counter are Tensors."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from operator import index
from threading import RLock
from typing import Any

import numpy as np

from tapegrad._engine.counters import counter_of
from tapegrad._engine.dispatch import backend_of, on_level
from tapegrad._engine.levels import mapping
from tapegrad._engine.mode import notify_use
from tapegrad._engine.tensor import Tensor, host, wrap
from tapegrad.ops.creation import asarray, zeros
from tapegrad.ops.draws import blocks_of, draw, skip
from tapegrad.random import continuous, discrete
from tapegrad.random.bounded import integers
from tapegrad.random.gamma import gamma
from tapegrad.typing import ArrayLike, DTypeLike, Shape

KIND = "philox4x64-10"
KEY_WORDS, COUNT_WORDS = 4, 8


class Generator:
    """A stream of random numbers, the same on every library and device.

    The numbers are those of Philox4x64-10, a function of a key and a counter (Salmon et al., 2011): the bits of
    `numpy.random.Philox`. Uniform numbers and integers are equal to the bit everywhere; what goes through logarithms
    and sines, such as normal numbers, is equal but for a few units in the last place. Each draw begins a new block of
    256 bits, and advances the counter by the blocks that it takes.

    Gradients flow to the parameters of continuous distributions. Inside `tapegrad.compile`, the counter is state: each
    call draws anew, as an eager one does. Inside `tapegrad.vmap`, each example has its own part of the stream. A
    function of `tapegrad.checkpoint` draws the same when it is computed again. In a function that `jax.jit` compiles,
    make a generator inside with `from_key`.

    Draws of several threads do not overlap. Their order is open, and calls of compiled functions hold no lock: give
    each thread a generator of its own, by `split`.

    Parameters
    ----------
    seed : int
        A number from 0 on, of any size. The key is that of `numpy.random.Philox(seed)`.
    device : str or None, default None
        The device of the numbers; the default one for None (see `tapegrad.default_device`).

    Attributes
    ----------
    key : Tensor
        4 words of uint32, the lowest first.
    count : Tensor
        8 words of uint32, the lowest first; it is updated in place.
    device : str
        The device of the numbers.

    Examples
    --------
    >>> import tapegrad as tg
    >>> rng = tg.random.Generator(0)
    >>> rng.uniform(2, dtype="float32")
    Tensor([0.13562292, 0.01406699], dtype=float32)
    >>> rng.uniform(2, dtype="float32")
    Tensor([0.16621715, 0.9791345 ], dtype=float32)
    """

    __slots__ = ("__weakref__", "_lock", "count", "key")

    key: Tensor
    count: Tensor

    def __init__(self, seed: int, *, device: str | None = None) -> None:
        self._set(asarray(_key_of(seed), dtype="uint32", device=device))

    @classmethod
    def from_key(cls, key: ArrayLike, count: ArrayLike | None = None) -> Generator:
        """Return the generator of a key, which goes on from a counter.

        Parameters
        ----------
        key : ArrayLike
            4 words of uint32, as of the attribute `key`.
        count : ArrayLike or None, default None
            8 words of uint32, as of the attribute `count`; zeros for None.

        Returns
        -------
        Generator
            A generator on the device of the key, with Tensors of its own.

        Raises
        ------
        TypeError
            The words are not of uint32.
        ValueError
            There are not 4 and 8 of them.

        Examples
        --------
        >>> import tapegrad as tg
        >>> rng = tg.random.Generator(7)
        >>> again = tg.random.Generator.from_key(rng.key, rng.count)
        >>> bool(tg.all(rng.normal(3) == again.normal(3)))
        True
        """
        key = _as_words("key", key, KEY_WORDS)
        made: Generator = object.__new__(cls)
        made._set(key, None if count is None else _as_words("count", count, COUNT_WORDS))
        return made

    def _set(self, key: Tensor, count: Tensor | None = None) -> None:
        self.key = key
        self.count = zeros(COUNT_WORDS, dtype="uint32", device=key.device) if count is None else count
        self._lock = RLock()

    @property
    def device(self) -> str:
        """The device of the numbers."""
        return self.key.device

    def __repr__(self) -> str:
        return f"<Generator on {self.device}>"

    def __getstate__(self) -> tuple[Tensor, Tensor]:
        return self.key, self.count

    def __setstate__(self, state: tuple[Tensor, Tensor]) -> None:
        self._set(*state)

    def __copy__(self) -> Generator:
        return Generator.from_key(self.key, self.count)

    # -- continuous distributions --------------------------------------------------------------------

    def uniform(
        self, shape: Shape, low: ArrayLike = 0.0, high: ArrayLike = 1.0, *, dtype: DTypeLike | None = None
    ) -> Tensor:
        """Return uniform numbers in [low, high).

        They are low + (high - low) u, with u of all bits that the significand of the dtype has: multiples of 2^-24 for
        float32, of 2^-53 for float64. Rounding may give `high` itself.

        Parameters
        ----------
        shape : int or sequence of int
            The shape of the result.
        low, high : ArrayLike, default 0.0 and 1.0
            The bounds; Tensors broadcast, and get gradients.
        dtype : DTypeLike or None, default None
            The floating dtype; for None that of the bounds, if these are floating Tensors, else the default one.

        Returns
        -------
        Tensor
            The numbers.

        Raises
        ------
        TypeError
            The dtype is not real floating, or the device lacks it.
        ValueError
            A length is negative, `low` is not less than `high`, or the bounds do not broadcast to the shape.

        Examples
        --------
        >>> import tapegrad as tg
        >>> tg.random.Generator(1).uniform(3, -1.0, 1.0)
        Tensor([-0.86639598, -0.84197404, -0.98844576])
        """
        return continuous.uniform(self, shape, low, high, dtype)

    def normal(
        self, shape: Shape, mean: ArrayLike = 0.0, std: ArrayLike = 1.0, *, dtype: DTypeLike | None = None
    ) -> Tensor:
        """Return normal numbers, by the method of Box and Muller.

        Two numbers are sqrt(-2 log(u)) times the cosine and the sine of an angle, the first ones in the first half of
        the result. They reach to 6.7 standard deviations in float32, to 8.6 in float64.

        Parameters
        ----------
        shape : int or sequence of int
            The shape of the result.
        mean, std : ArrayLike, default 0.0 and 1.0
            The mean and the standard deviation; Tensors broadcast, and get gradients.
        dtype : DTypeLike or None, default None
            The floating dtype; for None that of the parameters, if these are floating Tensors, else the default one.

        Returns
        -------
        Tensor
            The numbers.

        Raises
        ------
        TypeError
            The dtype is not real floating, or the device lacks it.
        ValueError
            A length is negative, `std` is a negative number, or the parameters do not broadcast to the shape.

        Examples
        --------
        >>> import tapegrad as tg
        >>> std = tg.asarray(2.0)
        >>> tg.grad(lambda std: tg.sum(tg.random.Generator(1).normal(1, 0.0, std)))(std)
        Tensor(-2.32190203)
        """
        return continuous.normal(self, shape, mean, std, dtype)

    def truncated_normal(
        self,
        shape: Shape,
        mean: ArrayLike = 0.0,
        std: ArrayLike = 1.0,
        *,
        low: float = -2.0,
        high: float = 2.0,
        dtype: DTypeLike | None = None,
    ) -> Tensor:
        """Return normal numbers of which those outside of bounds are left out, by the inverse distribution function.

        Parameters
        ----------
        shape : int or sequence of int
            The shape of the result.
        mean, std : ArrayLike, default 0.0 and 1.0
            The mean and the standard deviation before the cut; Tensors broadcast, and get gradients.
        low, high : float, default -2.0 and 2.0
            The bounds, in standard deviations from the mean.
        dtype : DTypeLike or None, default None
            The floating dtype; for None that of the parameters, if these are floating Tensors, else the default one.

        Returns
        -------
        Tensor
            The numbers.

        Raises
        ------
        TypeError
            The dtype is not real floating, the device lacks it, or a bound is no number.
        ValueError
            A length is negative, `low` is not less than `high`, `std` is a negative number, or the parameters do not
            broadcast to the shape.

        Examples
        --------
        >>> import tapegrad as tg
        >>> x = tg.random.Generator(1).truncated_normal(1000, std=0.5)
        >>> float(tg.max(tg.abs(x))) <= 1.0
        True
        """
        return continuous.truncated_normal(self, shape, mean, std, low, high, dtype)

    def exponential(self, shape: Shape, rate: ArrayLike = 1.0, *, dtype: DTypeLike | None = None) -> Tensor:
        """Return numbers of the exponential distribution, -log(u) / rate.

        Parameters
        ----------
        shape : int or sequence of int
            The shape of the result.
        rate : ArrayLike, default 1.0
            One over the mean; a Tensor broadcasts, and gets a gradient.
        dtype : DTypeLike or None, default None
            The floating dtype; for None that of `rate`, if it is a floating Tensor, else the default one.

        Returns
        -------
        Tensor
            The numbers.

        Raises
        ------
        TypeError
            The dtype is not real floating, or the device lacks it.
        ValueError
            A length is negative, `rate` is not positive, or does not broadcast to the shape.

        Examples
        --------
        >>> import tapegrad as tg
        >>> tg.random.Generator(1).exponential(2, rate=3.0)
        Tensor([0.90200737, 0.8460477 ])
        """
        return continuous.exponential(self, shape, rate, dtype)

    def gumbel(
        self, shape: Shape, loc: ArrayLike = 0.0, scale: ArrayLike = 1.0, *, dtype: DTypeLike | None = None
    ) -> Tensor:
        """Return numbers of the Gumbel distribution, loc - scale log(-log(u)).

        Parameters
        ----------
        shape : int or sequence of int
            The shape of the result.
        loc, scale : ArrayLike, default 0.0 and 1.0
            The mode and the scale; Tensors broadcast, and get gradients.
        dtype : DTypeLike or None, default None
            The floating dtype; for None that of the parameters, if these are floating Tensors, else the default one.

        Returns
        -------
        Tensor
            The numbers.

        Raises
        ------
        TypeError
            The dtype is not real floating, or the device lacks it.
        ValueError
            A length is negative, `scale` is a negative number, or the parameters do not broadcast to the shape.

        Examples
        --------
        >>> import tapegrad as tg
        >>> logits = tg.asarray([0.0, 1.0, 2.0])
        >>> rng = tg.random.Generator(1)
        >>> tg.softmax((logits + rng.gumbel(3)) / 0.5).shape  # a relaxed choice, differentiable in the logits
        (3,)
        """
        return continuous.gumbel(self, shape, loc, scale, dtype)

    def gamma(
        self, shape: Shape, concentration: ArrayLike, rate: ArrayLike = 1.0, *, dtype: DTypeLike | None = None
    ) -> Tensor:
        """Return numbers of the gamma distribution, by the method of Marsaglia and Tsang.

        Their derivative in the concentration is the implicit one of arXiv:1805.08498, right to 3e-8 in float64.

        Parameters
        ----------
        shape : int or sequence of int
            The shape of the result.
        concentration : ArrayLike
            The shape parameter; a Tensor broadcasts, and gets a gradient.
        rate : ArrayLike, default 1.0
            One over the scale; a Tensor broadcasts, and gets a gradient.
        dtype : DTypeLike or None, default None
            The floating dtype; for None that of the parameters, if these are floating Tensors, else the default one.

        Returns
        -------
        Tensor
            The numbers.

        Raises
        ------
        TypeError
            The dtype is not real floating, or the device lacks it.
        ValueError
            A length is negative, a parameter is not positive, or the parameters do not broadcast to the shape.

        Examples
        --------
        >>> import tapegrad as tg
        >>> x = tg.random.Generator(1).gamma((4, 3), tg.asarray([0.5, 1.0, 2.0]))
        >>> proportions = x / tg.sum(x, axis=-1, keepdims=True)  # of the Dirichlet distribution
        >>> proportions.shape
        (4, 3)
        """
        return gamma(self, shape, concentration, rate, dtype)

    # -- discrete distributions ----------------------------------------------------------------------

    def integers(
        self, shape: Shape, low: int | ArrayLike, high: int | ArrayLike, *, dtype: DTypeLike | None = None
    ) -> Tensor:
        """Return integers from `low` up to and without `high`.

        An integer is floor(x n / 2^64) of 64 random bits x, for n integers: its probability is 1 / n but for a share
        below 2^-32. For more than 2^32 integers, or Tensors, x has 128 bits.

        Parameters
        ----------
        shape : int or sequence of int
            The shape of the result.
        low, high : ArrayLike
            The bounds: integers, or Tensors of them, which broadcast.
        dtype : DTypeLike or None, default None
            The integer dtype; int64 for None, or int32 where the device has no int64.

        Returns
        -------
        Tensor
            The integers.

        Raises
        ------
        TypeError
            A bound is no integer, the dtype is no integer one, or the device lacks it.
        ValueError
            A length is negative, `low` is not less than `high`, or the bounds do not fit in the dtype, or do not
            broadcast to the shape.

        Examples
        --------
        >>> import tapegrad as tg
        >>> tg.random.Generator(1).integers(5, 0, 10)
        Tensor([0, 0, 0, 8, 2])
        """
        return integers(self, shape, low, high, dtype)

    def bernoulli(self, p: ArrayLike, shape: Shape | None = None) -> Tensor:
        """Return booleans that are true with a probability.

        Parameters
        ----------
        p : ArrayLike
            The probability, in steps of 2^-32; a Tensor broadcasts.
        shape : int or sequence of int or None, default None
            The shape of the result; that of `p` for None.

        Returns
        -------
        Tensor
            The booleans.

        Raises
        ------
        ValueError
            A length is negative, a probability is outside of 0 to 1, or `p` does not broadcast to the shape.

        Examples
        --------
        >>> import tapegrad as tg
        >>> tg.random.Generator(1).bernoulli(0.5, 4)
        Tensor([ True,  True,  True,  True])
        """
        return discrete.bernoulli(self, p, shape)

    def permutation(self, x: int | ArrayLike) -> Tensor:
        """Return the numbers below x in a random order, or the items of a Tensor in one.

        Parameters
        ----------
        x : int or ArrayLike
            How many numbers, or a Tensor, whose items lie along its first axis.

        Returns
        -------
        Tensor
            The order, or the items; a gradient flows to these.

        Raises
        ------
        TypeError
            `x` is no integer, and has no axis.
        ValueError
            The number is negative.

        Examples
        --------
        >>> import tapegrad as tg
        >>> tg.random.Generator(1).permutation(5)
        Tensor([2, 0, 1, 4, 3])
        """
        return discrete.permutation(self, x)

    def choice(self, x: int | ArrayLike, n: int, *, replace: bool = False, p: ArrayLike | None = None) -> Tensor:
        """Return some of the numbers below x, or some of the items of a Tensor.

        Parameters
        ----------
        x : int or ArrayLike
            How many numbers, or a Tensor, whose items lie along its first axis.
        n : int
            How many to choose.
        replace : bool, default False
            Whether one may be chosen again.
        p : ArrayLike or None, default None
            The probability of each; the same for all for None. Without replacement it is that among those that are
            left.

        Returns
        -------
        Tensor
            The numbers, or the items; a gradient flows to these.

        Raises
        ------
        TypeError
            A number of items is no integer.
        ValueError
            There are fewer than `n` items, or probabilities that are not 0, without replacement; `p` has another
            length, a probability is outside of 0 to 1, or they do not add up to 1.

        Examples
        --------
        >>> import tapegrad as tg
        >>> tg.random.Generator(1).choice(10, 3)
        Tensor([2, 0, 1])
        >>> tg.random.Generator(1).choice(tg.asarray([0.5, 1.5]), 4, replace=True, p=[0.9, 0.1])
        Tensor([0.5, 0.5, 0.5, 0.5])
        """
        return discrete.choice(self, x, n, replace, p)

    def categorical(self, logits: ArrayLike, *, axis: int = -1) -> Tensor:
        """Return a category for each place along the other axes, with probabilities softmax(logits).

        It is the place of the largest of the logits with a Gumbel number added to each. So it is the same everywhere
        but where two of these are equal up to rounding.

        Parameters
        ----------
        logits : ArrayLike
            Logarithms of the probabilities, up to a constant; -inf for a class that is never chosen.
        axis : int, default -1
            The axis of the categories.

        Returns
        -------
        Tensor
            Integers, in the shape of `logits` without that axis.

        Raises
        ------
        ValueError
            The axis is not there, or has no length.

        Examples
        --------
        >>> import tapegrad as tg
        >>> tg.random.Generator(1).categorical(tg.zeros((4, 3)))
        Tensor([2, 1, 0, 2])
        """
        return discrete.categorical(self, logits, axis)

    # -- the counter ---------------------------------------------------------------------------------

    def numbers(self, form: str, shape: tuple[int, ...], dtype: str) -> Tensor:
        """Return the next numbers of a form, which the distributions are made of.

        Parameters
        ----------
        form : str
            "bits" for words of uint32; "uniform" for [0, 1); "open" for (0, 1], with more bits near 0; "normal".
        shape : tuple of int
            The shape of the result.
        dtype : str
            The name of the dtype.

        Returns
        -------
        Tensor
            The numbers, constants.

        Examples
        --------
        >>> import tapegrad as tg
        >>> tg.random.Generator(1).numbers("bits", (2,), "uint32")
        Tensor([1807797818,  286912445], dtype=uint32)
        """
        key, count = self.advance(blocks_of(form, prod(shape), dtype))
        return draw(key, count, form, shape, dtype, 0)

    def advance(self, blocks: int) -> tuple[Tensor, Tensor]:
        """Return the key and the counter for a draw, and go on behind it.

        Inside vmap each example gets a counter of its own, `blocks` after that of the example before.

        Parameters
        ----------
        blocks : int
            By how much the counter goes on: a block gives 8 words of 32 bits.

        Returns
        -------
        tuple of Tensor
            The key and the counter, for `tapegrad.random.bits`.

        Raises
        ------
        RuntimeError
            The generator is from outside of a function that `jax.jit` compiles.

        Examples
        --------
        >>> import tapegrad as tg
        >>> rng = tg.random.Generator(1)
        >>> key, count = rng.advance(1)
        >>> tg.random.bits(key, count, 2)
        Tensor([1807797818,  286912445], dtype=uint32)
        """
        with self._lock:
            counter = counter_of(self)
            notify_use(counter)
            start = wrap(counter._array)
            level = mapping.get()
            if level is None:
                self._go_on(counter, start, blocks)
                return self.key, start
            levels: list[Any] = []
            while level is not None and level.depth > backend_of[type(start._array)].depth:
                levels.insert(0, level)
                level = level.outer
            sizes = tuple([inner.size for inner in levels])
            with on_level(level):
                self._go_on(counter, start, blocks * prod(sizes))
                if levels:
                    start = skip(start, sizes, 0, blocks)
        for inner in levels:
            start = wrap(inner.array(start, mapped=True))
        return self.key, start

    @staticmethod
    def _go_on(counter: Tensor, start: Tensor, blocks: int) -> None:
        """Advance a counter, of which a Tensor has the value so far."""
        after = skip(start, (), blocks, 0)
        _refuse_jit(start, after)
        counter[...] = after

    def split(self, n: int) -> list[Generator]:
        """Return new generators, whose keys are the next random bits of this one.

        Parameters
        ----------
        n : int
            How many.

        Returns
        -------
        list of Generator
            Generators on the same device, which depend on this one no more.

        Raises
        ------
        TypeError
            `n` is no integer.
        ValueError
            `n` is negative.

        Examples
        --------
        >>> import tapegrad as tg
        >>> a, b = tg.random.Generator(1).split(2)
        >>> bool(tg.all(a.key == b.key))
        False
        """
        n = discrete.counted("split", n)
        keys = self.numbers("bits", (n, KEY_WORDS), "uint32")
        return [Generator.from_key(keys[i, :]) for i in range(n)]

    # -- state ---------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the state for `restore`, which draws the same numbers again.

        Returns
        -------
        dict
            The kind of the generator, and its key and counter as arrays of NumPy.

        Examples
        --------
        >>> import tapegrad as tg
        >>> rng = tg.random.Generator(1)
        >>> state = rng.state()
        >>> first = rng.normal(3)
        >>> rng.restore(state)
        >>> bool(tg.all(rng.normal(3) == first))
        True
        """
        with self._lock:
            return {"kind": KIND, "key": np.array(host(self.key)), "count": np.array(host(self.count))}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back a state, of a generator on any device; the Tensors stay the same objects.

        Parameters
        ----------
        state : dict
            The result of `state`.

        Raises
        ------
        ValueError
            It is no such state. Nothing is changed then.

        Examples
        --------
        >>> import tapegrad as tg
        >>> rng, other = tg.random.Generator(1), tg.random.Generator(2)
        >>> other.restore(rng.state())
        >>> bool(tg.all(rng.key == other.key))
        True
        """
        key, count = _restored(state)
        with self._lock:
            self.key[...] = asarray(key, device=self.device)
            self.count[...] = asarray(count, device=self.device)


def bits(key: ArrayLike, count: ArrayLike, n: int) -> Tensor:
    """Return n random words of 32 bits, a pure function of a key and a counter.

    They are the numbers of `numpy.random.Philox(key=key, counter=count).random_raw`, the low word of each first.

    Parameters
    ----------
    key : ArrayLike
        4 words of uint32, the lowest first, along the last axis.
    count : ArrayLike
        8 words of uint32, the lowest first, along the last axis. The first block is that of the counter plus one.
    n : int
        How many words.

    Returns
    -------
    Tensor
        The words, of uint32, along the last axis, behind the other axes of key and counter, which broadcast.

    Raises
    ------
    TypeError
        The words are not of uint32, or `n` is no integer.
    ValueError
        There are not 4 and 8 words, or `n` is negative.

    Examples
    --------
    >>> import numpy as np, tapegrad as tg
    >>> key, count = np.zeros(4, np.uint32), np.zeros(8, np.uint32)
    >>> tg.random.bits(key, count, 2)
    Tensor([149215387,  49592932], dtype=uint32)
    >>> np.random.Philox(key=np.zeros(2, np.uint64)).random_raw(1).view(np.uint32)
    array([149215387,  49592932], dtype=uint32)
    """
    key = _as_words("key", key, KEY_WORDS, several=True)
    return draw(
        key, _as_words("count", count, COUNT_WORDS, several=True), "bits", (discrete.counted("bits", n),), "uint32", 0
    )


def _key_of(seed: Any) -> list[int]:
    """Return the key of a seed, spread over 128 bits as NumPy does."""
    try:
        if isinstance(seed, bool):
            raise TypeError
        number = index(seed)
    except TypeError:
        raise TypeError(
            f"Generator: the seed is an integer from 0 on, as in Generator(0), not {type(seed).__name__}"
        ) from None
    if number < 0:
        raise ValueError(f"Generator: the seed is an integer from 0 on, not {number}")
    words: list[int] = np.random.SeedSequence(number).generate_state(KEY_WORDS, np.uint32).tolist()
    return words


def _as_words(name: str, words: Any, n: int, several: bool = False) -> Tensor:
    """Return words as a Tensor of its own; raise unless there are n along the last axis."""
    x = asarray(words, copy=True)
    if x.dtype.name != "uint32":
        raise TypeError(f"{name}: words are of uint32, not {x.dtype.name}")
    if x.shape[-1:] != (n,) or (x.ndim > 1 and not several):
        raise ValueError(f"{name}: {n} words, not an array of shape {x.shape}")
    return x


def _refuse_jit(before: Tensor, after: Tensor) -> None:
    """Raise RuntimeError where a library traces, and would leave its tracer in a generator from outside."""
    backend = backend_of[type(after._array)]
    if backend.is_symbolic(after._array) and not backend.is_symbolic(before._array):
        raise RuntimeError(
            "a Generator from outside of a function that jax.jit compiles would draw the same numbers at each call: "
            "pass its key and count as arguments, make Generator.from_key(key, count) inside, and return the new "
            "count; or compile with tapegrad.compile"
        )


def _restored(state: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the key and the counter of a state; raise ValueError for anything else."""
    if not isinstance(state, Mapping) or not {"kind", "key", "count"} <= state.keys():
        raise ValueError("restore: a state is a dict with 'kind', 'key' and 'count', as Generator.state() returns it")
    if state["kind"] != KIND:
        raise ValueError(f"restore: a state of {state['kind']!r}, and this generator is {KIND!r}")
    found = []
    for name, n in (("key", KEY_WORDS), ("count", COUNT_WORDS)):
        value = state[name]
        words = host(value) if isinstance(value, Tensor) else np.asarray(value)
        if words.shape != (n,) or words.dtype != np.uint32:
            raise ValueError(
                f"restore: {name!r} has shape {words.shape} and dtype {words.dtype}, and should have ({n},) and uint32"
            )
        found.append(words)
    return found[0], found[1]
