"""GPUs, links, nodes, and where the ranks of a job sit on them."""

from __future__ import annotations

from pipesim.hardware.cluster import Cluster, Link, build_cluster, link
from pipesim.hardware.gpu import GPU, GemmFit, build_gpu
from pipesim.hardware.layout import Group, Layout

__all__ = ["GPU", "Cluster", "GemmFit", "Group", "Layout", "Link", "build_cluster", "build_gpu", "link"]
