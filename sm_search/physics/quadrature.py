"""Gauss–Legendre panels: nodes, running integrals, and merging two half panels into one.

Everything is polynomial of degree Q−1 on a panel, so integration is a matrix and costs a BLAS call.
Shapes: Q nodes of a panel; Q+1 rows where the last one belongs to the panel's end.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray


@dataclass(frozen=True)
class Panel:
    """A panel of unit length.

    Attributes:
        nodes_Q: Gauss–Legendre nodes in (0, 1).
        weights_Q: their weights, sum 1.
        running_RQ: maps values at the nodes to their integrals from 0 to each node, and (last row) to 1; R = Q+1.
        merge_RS: maps a function known on both halves (S = 2Q+2 rows: left half, right half) to the values at the
            Q nodes that give every ∫ f·polynomial of the halves, and (last row) to the value at the end.
        end_Q: maps values at the nodes to the value of their polynomial at the end.
    """

    nodes_Q: NDArray[np.float64]
    weights_Q: NDArray[np.float64]
    running_RQ: NDArray[np.float64]
    merge_RS: NDArray[np.float64]
    end_Q: NDArray[np.float64]


@cache
def gauss_panel(order: int) -> Panel:
    """The panel with `order` nodes."""
    roots, weights = legendre.leggauss(order)
    nodes_Q, weights_Q = (roots + 1) / 2, weights / 2
    # Legendre coefficients of the Lagrange polynomials: a_n = (2n+1)·w_q·P_n(x_q), exact for a Gauss rule.
    degrees = np.arange(order)
    lagrange_NQ = (2 * degrees[:, None] + 1) * weights_Q * legendre.legvander(roots, order - 1).T
    integral_NQ = legendre.legint(lagrange_NQ, lbnd=-1, axis=0) / 2
    running_RQ = legendre.legvander(np.append(roots, 1.0), order) @ integral_NQ
    halves = [(roots - 1) / 2, (roots + 1) / 2]
    merge_RS = np.zeros((order + 1, 2 * order + 2))
    for index, half in enumerate(halves):
        values_QP = legendre.legvander(half, order - 1) @ lagrange_NQ
        columns = slice(index * (order + 1), index * (order + 1) + order)
        merge_RS[:order, columns] = values_QP.T * weights_Q / 2 / weights_Q[:, None]
    merge_RS[-1, -1] = 1.0
    end_Q = lagrange_NQ.sum(axis=0)  # P_n(1) = 1
    return Panel(nodes_Q, weights_Q, running_RQ, merge_RS, end_Q)
