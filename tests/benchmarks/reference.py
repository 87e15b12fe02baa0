"""Reference loops: the least that replaying a prebuilt graph can cost, with SimPy and with numba.

They know nothing of pipelines and report nothing but end times; speed is stated as a ratio to them.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import simpy
from numba import njit


def simpy_replay(graph):
    """One process per stream, one SimPy event per op that somebody on another stream waits for; end times."""
    env, end = simpy.Environment(), [0] * len(graph)
    duration, dep_starts = graph.duration.tolist(), graph.dep_starts.tolist()
    dep_node, dep_lag = graph.dep_node.tolist(), graph.dep_lag.tolist()
    done = {node: env.event() for node in dep_node}

    def stream(first, last):
        for node in range(first, last):
            for edge in range(dep_starts[node], dep_starts[node + 1]):
                event = done[dep_node[edge]]
                if not event.processed:
                    yield event
                late = end[dep_node[edge]] + dep_lag[edge] - env.now
                if late > 0:
                    yield env.timeout(late)
            yield env.timeout(duration[node])
            end[node] = env.now
            if node in done:
                done[node].succeed()

    for first, last in pairwise(graph.starts.tolist()):
        env.process(stream(first, last))
    env.run()
    return end


def simpy_callbacks(graph):
    """One SimPy timeout per op and no processes: an op's end starts what had been waiting for it alone; end times."""
    env, end, starts = simpy.Environment(), [0] * len(graph), graph.starts.tolist()
    duration, ready = graph.duration.tolist(), [0] * len(graph)
    missing, waiting = np.diff(graph.dep_starts).tolist(), [[] for _ in duration]
    consumer = np.repeat(np.arange(len(graph)), missing).tolist()
    for producer, *wait in zip(graph.dep_node.tolist(), consumer, graph.dep_lag.tolist(), strict=True):
        waiting[producer].append(wait)
    for first, last in pairwise(starts):
        for node in range(first + 1, last):
            missing[node] += 1
            waiting[node - 1].append((node, 0))

    def start(node):
        env.timeout(ready[node] - env.now + duration[node], node).callbacks.append(ended)

    def ended(event):
        node = event.value
        end[node] = env.now
        for other, lag in waiting[node]:
            ready[other] = max(ready[other], env.now + lag)
            missing[other] -= 1
            if not missing[other]:
                start(other)

    for node in [node for node, count in enumerate(missing) if not count]:
        start(node)
    env.run()
    return end


def cursor_replay(graph):
    """A cursor per stream, rounds over all streams until none moves; end times."""
    end = np.full(len(graph), -1, np.int64)
    _cursor_replay(graph.starts, graph.dep_starts, graph.dep_node, graph.dep_lag, graph.duration, end)
    return end


@njit(cache=True)
def _cursor_replay(starts, dep_starts, dep_node, dep_lag, duration, end):
    cursor, clock, moved = starts[:-1].copy(), np.zeros(len(starts) - 1, np.int64), True
    while moved:
        moved = False
        for stream in range(len(cursor)):
            node, now = cursor[stream], clock[stream]
            while node < starts[stream + 1]:
                ready, blocked = now, False
                for edge in range(dep_starts[node], dep_starts[node + 1]):
                    arrival = end[dep_node[edge]]
                    if arrival < 0:
                        blocked = True
                        break
                    ready = max(ready, arrival + dep_lag[edge])
                if blocked:
                    break
                now = ready + duration[node]
                end[node] = now
                node += 1
            if node > cursor[stream]:
                cursor[stream], clock[stream], moved = node, now, True


class SingleReplay:
    """The cursor replay of a graph in which no node has more than one dependency, stored beside the node."""

    def __init__(self, graph):
        count = np.diff(graph.dep_starts)
        assert count.max() <= 1
        self.graph = graph
        self.producer, self.lag = np.full(len(graph), -1, np.int32), np.zeros(len(graph), np.int64)
        self.producer[count > 0], self.lag[count > 0] = graph.dep_node, graph.dep_lag

    def __call__(self):
        """End times."""
        end = np.full(len(self.graph), -1, np.int64)
        _single_replay(self.graph.starts, self.producer, self.lag, self.graph.duration, end)
        return end


@njit(cache=True)
def _single_replay(starts, producer, lag, duration, end):
    cursor, clock, moved = starts[:-1].copy(), np.zeros(len(starts) - 1, np.int64), True
    while moved:
        moved = False
        for stream in range(len(cursor)):
            node, now = cursor[stream], clock[stream]
            while node < starts[stream + 1]:
                other = producer[node]
                if other >= 0:
                    if end[other] < 0:
                        break
                    now = max(now, end[other] + lag[node])
                now += duration[node]
                end[node] = now
                node += 1
            if node > cursor[stream]:
                cursor[stream], clock[stream], moved = node, now, True


def batch_replay(graph, durations):
    """The cursor replay once per row of ``durations`` (K, n), in one compiled loop; makespans (K,)."""
    return _batch_replay(graph.starts, graph.dep_starts, graph.dep_node, graph.dep_lag, durations)


@njit(cache=True)
def _batch_replay(starts, dep_starts, dep_node, dep_lag, durations):
    makespan = np.empty(len(durations), np.int64)
    end = np.empty(durations.shape[1], np.int64)
    for row in range(len(durations)):
        end[:] = -1
        _cursor_replay(starts, dep_starts, dep_node, dep_lag, durations[row], end)
        makespan[row] = end.max()
    return makespan


def evaluation_order(graph):
    """Nodes sorted by end time, which puts everything that a node waits for before it: all nodes take time."""
    assert (graph.duration > 0).all()
    return np.argsort(cursor_replay(graph), kind="stable").astype(np.int32)


def ordered_batch_replay(graph, order, durations):
    """The same with a topological order given: one straight pass over the nodes per row."""
    before = np.arange(-1, len(graph) - 1, dtype=np.int32)
    before[graph.starts[:-1]] = -1
    return _ordered_batch(order, before, graph.dep_starts, graph.dep_node, graph.dep_lag, durations)


@njit(cache=True)
def _ordered_batch(order, before, dep_starts, dep_node, dep_lag, durations):
    makespan = np.empty(len(durations), np.int64)
    end = np.empty(durations.shape[1], np.int64)
    for row in range(len(durations)):
        last = 0
        for node in order:
            ready = end[before[node]] if before[node] >= 0 else 0
            for edge in range(dep_starts[node], dep_starts[node + 1]):
                ready = max(ready, end[dep_node[edge]] + dep_lag[edge])
            end[node] = ready + durations[row, node]
            last = max(last, end[node])
        makespan[row] = last
    return makespan
