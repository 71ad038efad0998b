"""The judge: JointDNN's integer linear programme (sections 3.3 to 3.5), solved by HiGHS through scipy.

    m_ij, c_ij     1 if layers i..j run as one group on the mobile, on the cloud
    u_t, d_t       1 if tensor t is uploaded, downloaded: at least (made here) + (a reader there) - 1
    x_k, y_k       1 if the work moves to the cloud, to the mobile, at boundary k

The paper's u_ij of a chain is u_t of the tensor that leaves group i..j, summed over the groups that end there. It
shares with the engine the problem, and no code: costs are computed here again, from the link.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import LinearConstraint, milp

from bottlekit.planning.schedule import ScheduleProblem


def optimum(problem: ScheduleProblem) -> float | None:
    """The least objective within the bounds; None if there is no schedule."""
    count, link = problem.count, problem.link
    beta = link.beta_mw if problem.include_beta else 0.0
    up_ms, down_ms = 8e-3 / link.uplink_mbps, 8e-3 / link.downlink_mbps
    up_mj = up_ms * (link.alpha_up_mw_per_mbps * link.uplink_mbps + beta) / 1e3
    down_mj = down_ms * (link.alpha_down_mw_per_mbps * link.downlink_mbps + beta) / 1e3
    updates = problem.update_bytes or (0.0,) * count

    # The columns: what each binary adds to (latency, energy, cloud).
    costs: list[tuple[float, float, float]] = []
    groups: list[tuple[int, int, int, int]] = []
    for machine in (0, 1):
        for first in range(count):
            for last in range(first, count):
                time = (problem.mobile_ms, problem.cloud_ms)[machine][first, last]
                if not np.isfinite(time):
                    continue
                groups.append((len(costs), machine, first, last))
                if machine == 0:
                    costs.append((time, problem.mobile_mj[first, last], 0.0))
                else:
                    weights = sum(updates[first : last + 1])
                    costs.append((time + weights * down_ms, weights * down_mj, time))
    rows: list[dict[int, float]] = []
    least: list[float] = []
    most: list[float] = []

    def demand(row: dict[int, float], at_least: float, at_most: float = np.inf) -> None:
        rows.append(row)
        least.append(at_least)
        most.append(at_most)

    def runs(layer: int, machine: int) -> dict[int, float]:
        """The groups of `machine` that hold this layer: their sum is 1 if it runs there."""
        return {column: 1.0 for column, one, first, last in groups if one == machine and first <= layer <= last}

    for layer in range(count):
        demand({**runs(layer, 0), **runs(layer, 1)}, 1.0, 1.0)
    if problem.whole_runs:
        # No group begins on the machine where another one has just ended.
        for machine in (0, 1):
            for boundary in range(1, count):
                ending = {at: 1.0 for at, one, _, last in groups if one == machine and last == boundary - 1}
                beginning = {at: 1.0 for at, one, first, _ in groups if one == machine and first == boundary}
                demand({**ending, **beginning}, 0.0, 1.0)
    for tensor in problem.tensors:
        for here, there in ((0, 1), (1, 0)):
            # Made before the first layer: on the mobile. The application reads on the mobile.
            made = runs(tensor.source - 1, here) if tensor.source else {}
            made_constant = 1.0 if tensor.source == 0 and here == 0 else 0.0
            if not tensor.readers:
                continue
            column = len(costs)
            costs.append(
                (tensor.upload_bytes * up_ms, tensor.upload_bytes * up_mj, 0.0)
                if there == 1
                else (tensor.download_bytes * down_ms, tensor.download_bytes * down_mj, 0.0)
            )
            for reader in tensor.readers:
                reads = runs(reader, there) if reader < count else {}
                reads_constant = 1.0 if reader == count and there == 0 else 0.0
                # column - made - reads >= constants - 1; a group that holds both makes and reads in one place.
                row = {column: 1.0}
                for one in (made, reads):
                    for at, value in one.items():
                        row[at] = row.get(at, 0.0) - value
                demand(row, made_constant + reads_constant - 1.0)
    wants_result = any(count in tensor.readers for tensor in problem.tensors)
    for boundary in range(count + 1):
        for here, there in ((0, 1), (1, 0)):
            if boundary == count and not wants_result:
                continue
            before = runs(boundary - 1, here) if boundary else {}
            before_constant = 1.0 if boundary == 0 and here == 0 else 0.0
            after = runs(boundary, there) if boundary < count else {}
            after_constant = 1.0 if boundary == count and there == 0 else 0.0
            fixed = boundary in problem.fixed_boundaries and boundary < count
            column = len(costs)
            costs.append((link.rtt_ms / 2.0, 0.0, 0.0))
            row = {column: 1.0}
            for one in (before, after):
                for at, value in one.items():
                    row[at] = row.get(at, 0.0) - value
            demand(row, before_constant + after_constant - 1.0)
            if fixed:
                demand({column: 1.0}, 0.0, 0.0)

    table = np.array(costs)
    matrix = np.zeros((len(rows), len(costs)))
    for number, row in enumerate(rows):
        for at, value in row.items():
            matrix[number, at] = value
    constraints = [LinearConstraint(matrix, np.array(least), np.array(most))]
    bounds = (problem.bounds.latency_ms, problem.bounds.energy_mj, problem.bounds.cloud_ms)
    for resource, bound in enumerate(bounds):
        if bound is not None:
            constraints.append(LinearConstraint(table[:, resource], -np.inf, bound))
    solved = milp(
        table[:, 0 if problem.objective == "latency" else 1],
        constraints=constraints,
        integrality=np.ones(len(costs)),
        bounds=(0.0, 1.0),
        options={"mip_rel_gap": 0.0},
    )
    if solved.status == 2:
        return None
    assert solved.status == 0, solved.message
    return float(solved.fun)
