"""Orders of F, I and W on a line of stages: a bound on their cost, a greedy construction, and a search.

The parts that are compiled (`fill`, `polish`) load numba; import them only where an order is to be found.
"""
