"""How much slower the slowest GPU of a job is than a usual one: a synchronous step goes at its pace.

Boards of one kind differ in the clock that their power limit leaves them: Sinha et al. (SC 2022, arXiv 2208.11035)
found 8 % between the GPUs of a cluster, mean of five clusters, outliers apart. How much each kind of GPU differs is in
the catalog. The tables of kernels there come from single boards, taken to be usual ones.
"""

from __future__ import annotations

from statistics import NormalDist


def slowest(spread: float, gpus: int) -> float:
    """Time of a product on the slowest of so many GPUs over that on a usual one; ``spread``: standard deviation.

    The expected largest of a normal sample, by the approximation of Blom (Statistical Estimates and Transformed
    Beta-Variables, 1958), within 5 % of it: 1.4 standard deviations for 8 GPUs, 2.5 for 100, 3.8 for 10,000.
    """
    return 1.0 + spread * NormalDist().inv_cdf((gpus - 0.375) / (gpus + 0.25))
