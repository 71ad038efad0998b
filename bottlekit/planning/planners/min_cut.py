"""DADS (Hu et al. 2019): the placement as a minimum cut of the graph of layers, without a way back to the mobile.

    mobile side (source) |  cut  | cloud side (sink)
      layer v -> sink          what v costs on the mobile
      source  -> layer v       what v costs on the cloud, with the download if it makes the result
      layer v -> tensor        the upload, once however many layers read it (DADS' auxiliary node)
      tensor  -> its readers   infinite
      reader  -> layer v       infinite: what was made on the cloud is not read on the mobile

Layers are taken to add up: the diagonals of the tables are all it sees. It knows neither bounds nor round trips.
"""

from __future__ import annotations

from bottlekit.errors import PlanError
from bottlekit.planning.planners.max_flow import Network
from bottlekit.planning.planners.placement import schedule_from_placement
from bottlekit.planning.schedule import Schedule, ScheduleProblem
from bottlekit.planning.schedule.costs import (
    CLOUD,
    ENERGY,
    LATENCY,
    MOBILE,
    group_costs_from_problem,
    sending_from_problem,
)

INFINITE = float("inf")


def min_cut(problem: ScheduleProblem) -> Schedule:
    """The placement of a minimum cut. PlanError if there is none, or it does not keep the bounds."""
    count = problem.count
    objective = LATENCY if problem.objective == "latency" else ENERGY
    groups, sending = group_costs_from_problem(problem), sending_from_problem(problem)
    source, sink = count, count + 1
    network = Network(count + 2 + len(problem.tensors))
    for layer in range(count):
        for machine, tail, head in ((MOBILE, layer, sink), (CLOUD, source, layer)):
            cost = groups.costs(machine, layer, layer)
            network.add(tail, head, float(cost[objective]) if cost[LATENCY] < INFINITE else INFINITE)
    for number, tensor in enumerate(problem.tensors, start=count + 2):
        # The input is where the application is.
        maker = tensor.source - 1 if tensor.source else source
        layers = [reader for reader in tensor.readers if reader < count]
        network.add(maker, number, float(sending.cost(CLOUD, [tensor], switches=False)[objective]))
        for reader in layers:
            network.add(number, reader, INFINITE)
            if maker != source:
                network.add(reader, maker, INFINITE)
        if count in tensor.readers and maker != source:
            network.add(source, maker, float(sending.cost(MOBILE, [tensor], switches=False)[objective]))
    for boundary in problem.fixed_boundaries:
        before = boundary - 1 if boundary else source
        if boundary < count:
            network.add(before, boundary, INFINITE)
            network.add(boundary, before, INFINITE)
    try:
        mobile = network.source_side(source, sink)
    except OverflowError:
        raise PlanError("min-cut has no schedule: some layer can be run by no machine that may run it") from None
    machines = [MOBILE if layer in mobile else CLOUD for layer in range(count)]
    return schedule_from_placement(problem, machines, "min-cut")
