"""Python types of arguments, checked before torch's dispatcher speaks of overloads and schemas."""

from collections.abc import Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor

HOW_TO = {"ndarray": ": torch.from_numpy makes one of it", "list": ": torch.tensor makes one of it"}


def named(value: Any) -> str:
    """The type of a value, in words."""
    kind = type(value)
    if value is None:
        return "None"
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _is_tensor(value: Any) -> bool:
    # or what stands for one while torch.fx follows a function
    return isinstance(value, Tensor) or hasattr(type(value), "__torch_function__")


def _refuse(name: str, argument: str, value: Any, rule: str) -> TypeError:
    how_to = HOW_TO.get(type(value).__name__, "")
    return TypeError(f"ptyle::{name}: {argument} must be {rule}, got {named(value)}{how_to}")


def check_tensors(name: str, **tensors: Any) -> None:
    """Every argument is a tensor."""
    for argument, value in tensors.items():
        if not _is_tensor(value):
            raise _refuse(name, argument, value, "a torch.Tensor")


def check_optional_tensors(name: str, **tensors: Any) -> None:
    """Every argument is a tensor or None."""
    for argument, value in tensors.items():
        if value is not None and not _is_tensor(value):
            raise _refuse(name, argument, value, "a torch.Tensor or None")


def list_of_tensors(name: str, argument: str, value: Any) -> list[Tensor]:
    """A list or tuple of tensors as a list."""
    if not isinstance(value, list | tuple):
        raise _refuse(name, argument, value, "a list of tensors, one for each tile of this rank")
    for k, tensor in enumerate(value):
        check_tensors(name, **{f"{argument}[{k}]": tensor})
    return list(value)


def integers(name: str, argument: str, value: Any, rule: str = "a list of integers") -> list[int]:
    """Integers as a list. How many there must be is the operator's to say."""
    try:
        numbers = list(value)
    except TypeError:
        numbers = [None]
    for k, number in enumerate(numbers):
        if isinstance(number, int | torch.SymInt):
            continue
        try:
            numbers[k] = index(number)
        except TypeError:
            raise TypeError(f"ptyle::{name}: {argument} must be {rule}, got {value!r}") from None
    return numbers


def pair(name: str, argument: str, value: Sequence[int]) -> list[int]:
    """(row, column), or a size."""
    return integers(name, argument, value, "two integers (row, column)")


def integer(name: str, argument: str, value: Any) -> int:
    """One integer."""
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"ptyle::{name}: {argument} must be an integer, got {value!r}") from None


def number(name: str, argument: str, value: Any) -> float:
    """One real number."""
    if isinstance(value, int | float):
        return value
    try:
        return float(None if isinstance(value, str) else value)
    except (TypeError, ValueError):
        raise TypeError(f"ptyle::{name}: {argument} must be a number, got {value!r}") from None


def check_text(name: str, argument: str, value: Any, rule: str) -> None:
    """A str."""
    if not isinstance(value, str):
        raise TypeError(f"ptyle::{name}: {argument} must be {rule}, got {named(value)}")
