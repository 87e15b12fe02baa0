"""Max-min fair rates: nobody can have more without somebody with as little or less losing some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction


def max_min(
    paths: Sequence[Sequence[int]], caps: Sequence[int | Fraction], capacity: Mapping[int, int | Fraction]
) -> list[Fraction]:
    """The max-min fair rate of every flow, exactly.

    ``paths`` lists the ports that each flow crosses (a port that stands there twice is used twice), ``caps`` the
    most that each can use, ``capacity`` what each port can carry, all in one unit. Progressive filling: all rates
    grow together; when a port is full, the flows that cross it keep theirs; so do flows at their cap.
    Source: Bertsekas and Gallager, Data Networks, 2nd edition, section 6.5.2.
    """
    rates = [Fraction(0)] * len(paths)
    left = {port: Fraction(capacity[port]) for path in paths for port in path}
    growing = list(range(len(paths)))
    while growing:
        crossing = Counter(port for flow in growing for port in paths[flow])
        full_at = {port: left[port] / count for port, count in crossing.items()}
        level = min([*full_at.values(), *(Fraction(caps[flow]) for flow in growing)])
        full = {port for port, rate in full_at.items() if rate == level}
        done = [flow for flow in growing if caps[flow] == level or not full.isdisjoint(paths[flow])]
        for flow in done:
            rates[flow] = level
            for port in paths[flow]:
                left[port] -= level
        growing = sorted(set(growing).difference(done))
    return rates
