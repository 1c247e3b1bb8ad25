"""Which layers to quantise: as much of the work as the target allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

# Shares of the quantisable work to try.
GRID = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


@dataclass(frozen=True)
class Choice:
    """Layers to quantise, by their nodes' names. share: of the quantisable work, 0–1.
    agreement: with the model as it was, 0–1, as measured."""

    layers: frozenset[str]
    share: float
    agreement: float


def fitted(choices: Sequence[Choice]) -> list[float]:
    """The agreement of each, by falling share, on the rising curve that fits all of them best: a
    box more or less moves a single measurement."""
    return rising([choice.agreement for choice in choices])


def search(
    damages: Mapping[str, float],
    macs: Mapping[str, int],
    agreement: Callable[[frozenset[str]], float],
    progress: Callable[[float], None],
) -> list[Choice]:
    """What was tried, by falling share.

    Layers leave by their damage for each multiply-accumulate, greatest first, which spends the
    least work on a budget of damage, since damages add up (Dantzig's rule for knapsacks).
    agreement: of a set of layers.
    """
    order = sorted(damages, key=lambda node: (-damages[node] / macs[node], node))
    total = sum(macs.values())
    sets = [frozenset(order[count:]) for count in range(len(order))]
    shares = [sum(macs[node] for node in layers) / total for layers in sets]
    last = len(sets) - 1
    places = sorted({next((i for i in range(last) if shares[i] <= most), last) for most in GRID})
    tried: list[Choice] = []
    for place in places:
        tried.append(Choice(sets[place], shares[place], agreement(sets[place])))
        progress(len(tried) / len(places))
    return tried


def in_order(choices: Sequence[Choice], target: float, least: float) -> list[Choice]:
    """The choices to prove, the best first: those that meet the target by falling share, each with
    at least `least` less than the one before; where none does, the one that agrees most.
    """
    kept: list[Choice] = []
    for choice, agreement in zip(choices, fitted(choices), strict=True):
        if agreement >= target and (not kept or choice.share <= kept[-1].share - least):
            kept.append(choice)
    return kept or [max(choices, key=lambda choice: (choice.agreement, choice.share))]


def rising(values: Sequence[float]) -> list[float]:
    """The sequence that never falls and is nearest to the values by least squares (isotonic
    regression by pooling adjacent violators: Ayer et al., 1955)."""
    pools: list[tuple[float, int]] = []  # mean, how many
    for value in values:
        mean, count = value, 1
        while pools and pools[-1][0] > mean:
            before, many = pools.pop()
            mean = (mean * count + before * many) / (count + many)
            count += many
        pools.append((mean, count))
    return [mean for mean, count in pools for _ in range(count)]
