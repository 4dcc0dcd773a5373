"""Axes of a sweep: `lr=1e-4,3e-4`, `depth=2..8`, `seed=range(3)`, `lr=log(1e-5,1e-2)` and more.

    name=a,b,c            the values as written; commas within quotes or brackets do not separate
    name=a..b             whole numbers, both ends included
    name=range(b)         as Python's range, fractions too: range(a,b), range(a,b,step)
    name=log(a,b)         any number between, its logarithm evenly distributed; for --sample
    name=uniform(a,b)     any number between; for --sample
    name=choice(a,b,c)    a list

A value that is a number stays one where nothing of what was written gets lost: 1e-3 is 0.001, but
007 and 1.10 are text, as is all in quotes. Errors show the text, and mark the place.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import NoReturn

from kij_train.errors import RequestError
from kij_train.pod.trials import text_of

Value = int | float | str
"""A parameter: number or text."""

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,9})?", re.ASCII)
_PLAIN = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d{1,3})?", re.ASCII)
"""Numbers as JSON writes them."""
_SPAN = re.compile(rf"\s*({_NUMBER.pattern})\.\.({_NUMBER.pattern})\s*", re.ASCII)
_CALL = re.compile(r"\s*([A-Za-z_]\w*)\(", re.ASCII)
_NAME = re.compile(r"\+{0,2}[A-Za-z_][\w.@/-]*", re.ASCII)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_SIGNIFICANT = 6
"""Digits of a number that is drawn between two ends."""
_LONGEST_NUMBER = 300
"""Characters."""


@dataclass(frozen=True)
class Listed:
    """Values one by one."""

    name: str
    values: tuple[Value, ...]

    @property
    def count(self) -> int:
        return len(self.values)

    def at(self, position: int) -> Value:
        return self.values[position]

    def draw(self, u: float) -> Value:
        """The value for a number from 0 to below 1."""
        return self.at(int(u * self.count))


@dataclass(frozen=True)
class Stepped:
    """Numbers at even distances, never written out: there may be a million million of them."""

    name: str
    start: Fraction
    step: Fraction
    count: int
    are_whole: bool

    def at(self, position: int) -> Value:
        exact = self.start + position * self.step
        return int(exact) if self.are_whole else float(exact)

    def draw(self, u: float) -> Value:
        """The value for a number from 0 to below 1."""
        return self.at(min(int(Fraction(u) * self.count), self.count - 1))


@dataclass(frozen=True)
class Continuous:
    """Any number from `low` to `high`, evenly distributed itself or by its logarithm."""

    name: str
    low: float
    high: float
    is_log: bool

    @property
    def count(self) -> None:
        """There is no end of them."""
        return None

    def draw(self, u: float) -> Value:
        """The value for a number from 0 to below 1, of six digits: a key that can be read."""
        if self.is_log:
            low, high = math.log(self.low), math.log(self.high)
            exact = math.exp(low + u * (high - low))
        else:
            exact = self.low + u * (self.high - self.low)
        return self.rounded(exact)

    def rounded(self, exact: float) -> Value:
        """A number between the ends, of six digits."""
        scale = min(abs(exact), self.high - self.low) if self.is_log else self.high - self.low
        digits = _SIGNIFICANT - 1 - math.floor(math.log10(scale))
        return min(max(round(exact, digits), self.low), self.high)


Axis = Listed | Stepped | Continuous


def value_of(text: str) -> Value:
    """A number where that loses nothing of the text, else the text."""
    if len(text) > _LONGEST_NUMBER or _PLAIN.fullmatch(text) is None:
        return text
    if re.fullmatch(r"-?\d+", text):
        return text if text == "-0" else int(text)
    number = float(text)
    padded = re.search(r"\.\d*?0+(?:[eE]|$)", text)
    is_padded = padded is not None and re.search(r"\.0(?:[eE]|$)", text) is None
    if is_padded or not math.isfinite(number) or Decimal(repr(number)) != Decimal(text):
        return text
    return number


def parse_axis(text: str, where: str = "-p") -> Axis:
    """An axis of "name=values"; `where` it stands, for messages. Raises RequestError."""
    return _Parser(text, where).axis()


@dataclass(frozen=True)
class _Parser:
    text: str
    where: str

    def wrong(self, at: int, message: str, *hints: str) -> NoReturn:
        """Raise RequestError with the place marked."""
        shown = self.text.expandtabs(1).replace("\n", " ").replace("\r", " ")
        begin = max(0, at - 50)
        cut = ("…" if begin else "") + shown[begin : begin + 100]
        column = at - begin + (1 if begin else 0)
        raise RequestError(
            f"{self.where}: {message}\n    {cut}\n    {' ' * column}^", hints=tuple(hints)
        )

    def axis(self) -> Axis:
        name, equals, values = self.text.partition("=")
        good = _NAME.match(name)
        if good is None or good.end() != len(name):
            at = good.end() if good else 0
            if not equals:
                at, what = len(self.text), "an axis is NAME=VALUES"
            else:
                what = "the name of a parameter has letters, digits and . _ - / @ only"
            self.wrong(at, what, "an axis: -p lr=1e-4,3e-4")
        if not equals:
            self.wrong(len(self.text), "an axis is NAME=VALUES", f"an axis: -p {name}=1,2")
        begin = len(name) + 1
        if not values.strip():
            self.wrong(begin, f"{name} has no values", f"an axis: -p {name}=1,2")
        span = _SPAN.fullmatch(values)
        if span is not None:
            return self._span(name, begin, span)
        call = _CALL.match(values)
        if call is not None:
            return self._call(name, begin, call)
        return self._listed(name, self._pieces(begin, len(self.text)))

    def _span(self, name: str, begin: int, span: re.Match[str]) -> Axis:
        ends = []
        for group in (1, 2):
            if re.fullmatch(r"[-+]?\d+", span[group], re.ASCII) is None:
                self.wrong(
                    begin + span.start(group),
                    "the ends of a..b are whole numbers",
                    f"fractions: -p {name}=range({span[1]},{span[2]},STEP)",
                    f"any number between: -p '{name}=uniform({span[1]},{span[2]})' --sample N",
                )
            self._number(begin + span.start(group), span[group])
            ends.append(int(span[group]))
        low, high = ends
        if low > high:
            self.wrong(
                begin + span.start(1),
                "the first end is above the last",
                f"upwards: -p {name}={high}..{low}",
                f"downwards: -p '{name}=range({low},{high - 1},-1)'",
            )
        return Stepped(name, Fraction(low), Fraction(1), high - low + 1, are_whole=True)

    def _call(self, name: str, begin: int, call: re.Match[str]) -> Axis:
        word, inside = call[1], begin + call.end()
        last = len(self.text.rstrip()) - 1
        at = begin + call.start(1)
        makers = {
            "range": self._range,
            "log": self._between,
            "uniform": self._between,
            "choice": self._choice,
        }
        if word not in makers:
            near = difflib.get_close_matches(word.lower(), makers, 1)
            guess = f"; did you mean {near[0]}?" if near else ""
            self.wrong(
                at,
                f"there is no {word}(…){guess}",
                f"there are: {', '.join(makers)}",
                f"as text: -p '{name}=\"{self.text[begin:]}\"'",
            )
        end = self._closing(inside - 1)
        if end != last:
            self.wrong(end + 1, f"{word}(…) stands alone", f"a list: -p {name}=1,2,3")
        pieces = list(self._pieces(inside, end))
        return makers[word](name, word, at, pieces)

    def _range(self, name: str, word: str, at: int, pieces: list[tuple[int, str]]) -> Axis:
        del word
        if not 1 <= len(pieces) <= 3:
            self.wrong(at, "range has one to three numbers: range(3), range(a,b), range(a,b,step)")
        numbers = [self._number(*piece) for piece in pieces]
        start = numbers[0] if len(numbers) > 1 else Fraction(0)
        stop = numbers[1] if len(numbers) > 1 else numbers[0]
        step = numbers[2] if len(numbers) > 2 else Fraction(1)
        if not step:
            self.wrong(pieces[2][0], "a step of 0 comes to no end")
        count = math.ceil((stop - start) / step)
        if count < 1:
            self.wrong(at, "this range is empty: as in Python, its end is not in it")
        are_whole = all(re.fullmatch(r"[-+]?\d+", text.strip()) for _, text in pieces)
        return Stepped(name, start, step, count, are_whole)

    def _between(self, name: str, word: str, at: int, pieces: list[tuple[int, str]]) -> Axis:
        if len(pieces) != 2:
            self.wrong(at, f"{word} has two numbers, as in {word}(1e-5,1e-2)")
        low, high = (float(self._number(*piece)) for piece in pieces)
        if word == "log" and low <= 0:
            self.wrong(pieces[0][0], "both ends of log must be more than 0: 0 has no logarithm")
        if low >= high:
            self.wrong(pieces[0][0], "the first end must be below the second")
        if not math.isfinite(high - low):
            self.wrong(pieces[0][0], "the ends are too far apart")
        return Continuous(name, low, high, is_log=word == "log")

    def _choice(self, name: str, word: str, at: int, pieces: list[tuple[int, str]]) -> Axis:
        del word
        if not pieces or not any(text.strip() for _, text in pieces):
            self.wrong(at, "choice has no values", f"an axis: -p '{name}=choice(1,2)'")
        return self._listed(name, iter(pieces))

    def _listed(self, name: str, pieces: Iterator[tuple[int, str]]) -> Listed:
        values: dict[str, Value] = {}
        for at, piece in pieces:
            text = piece.strip()
            if not text:
                self.wrong(at, "a value is missing here", 'an empty text: ""')
            call = _CALL.match(text)
            if _SPAN.fullmatch(text) or (call and call[1] in ("range", "log", "uniform", "choice")):
                self.wrong(at, f"{text} stands alone, or in quotes as text", f'text: "{text}"')
            if text[0] in "\"'" and len(text) > 1 and text[-1] == text[0]:
                value: Value = text[1:-1]
            else:
                value = value_of(text)
            if text_of(value) in values:
                self.wrong(at, f"{text_of(value)} is there twice")
            values[text_of(value)] = value
        return Listed(name, tuple(values.values()))

    def _number(self, at: int, text: str) -> Fraction:
        text = text.strip()
        if len(text) > _LONGEST_NUMBER or _NUMBER.fullmatch(text) is None:
            self.wrong(at, f"{text[:30] or 'this'} is no number" if text else "a number is missing")
        number = float(text)
        if not math.isfinite(number) or (number == 0 and Decimal(text) != 0):
            self.wrong(at, f"{text[:30]} is beyond what a float can be")
        return Fraction(Decimal(text))

    def _closing(self, opened: int) -> int:
        """Where the bracket at `opened` is closed."""
        within: list[tuple[str, int]] = []
        quote, since = "", 0
        for at in range(opened, len(self.text)):
            char = self.text[at]
            if quote:
                quote = "" if char == quote else quote
            elif char in "\"'" and self.text[at - 1] in "=(,[{ ":
                quote, since = char, at
            elif char in _CLOSING:
                within.append((_CLOSING[char], at))
            elif char in _CLOSING.values():
                if within[-1][0] != char:
                    self.wrong(at, f"{within[-1][0]} was to come before this")
                within.pop()
                if not within:
                    return at
        at, what = (since, "quote") if quote else (within[-1][1], "bracket")
        return self.wrong(at, f"this {what} is not closed", 'as text, in quotes: "("')

    def _pieces(self, begin: int, end: int) -> Iterator[tuple[int, str]]:
        """What commas separate, with its place; not those within quotes and brackets."""
        start = at = begin
        quote = ""
        while at < end:
            char = self.text[at]
            if quote:
                quote = "" if char == quote else quote
            elif char in "\"'" and not self.text[start:at].strip():
                quote, opened = char, at
            elif char in _CLOSING:
                at = self._closing(at)
            elif char == ",":
                yield start, self.text[start:at]
                start = at + 1
            at += 1
        if quote:
            self.wrong(opened, "this quote is not closed")
        yield start, self.text[start:end]
