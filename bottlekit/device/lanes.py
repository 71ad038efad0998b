"""Queues of requests in front of the tails: batches across clients, one split at a time, never without bounds."""

import contextlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Tuple

from .errors import DeadlineError, ServerBusyError
from .limits import ServerLimits
from .service import Outcomes, Served, TailService
from .statistics import Statistics


class Job(NamedTuple):
    """A request that waits for its turn; times are the event loop's."""

    data: bytes
    arrived: float
    deadline: float
    done: Any  # a Future of (Served, queue_us)


class Lanes:
    """One generation of a fleet: its loaded tails, and a lane of waiting requests for each split.

    ::

        run(...) --> lane of (part, bundle) --up to max_batch--> thread: decode each, tail once --> answers

    A lane computes one batch at a time; what comes in meanwhile is the next batch. An idle lane starts at once,
    or waits `max_wait_s` for company. A request whose deadline passes is dropped: DeadlineError. More than
    `queue` waiting requests are not taken: ServerBusyError.

    All methods belong to the event loop's thread. `users` are the connections that were told of this fleet; a
    retired generation is closed when the last of them has gone.
    """

    def __init__(self, service: TailService, limits: ServerLimits, statistics: Statistics, loop: Any) -> None:
        self.service = service
        self.users = 0
        self.retired = False
        self.limits = limits
        self.statistics = statistics
        self.loop = loop
        self._lanes: Dict[Tuple[str, int], _Lane] = {}
        # A thread for every lane: none waits for another's tail, and threads exist only where somebody asked.
        self._pool = ThreadPoolExecutor(2 * len(service.bundles), thread_name_prefix="bottlekit-tail")

    async def run(self, part: str, number: int, data: bytes, arrived: float, deadline: float) -> Tuple[Served, int]:
        """(what the service makes of it, microseconds of waiting). Raises what the service raises, and as above."""
        self.service.bundle(number)
        if self.statistics.queued >= self.limits.queue:
            raise ServerBusyError("{} requests wait for a tail, that is the limit".format(self.statistics.queued))
        lane = self._lanes.get((part, number))
        if lane is None:
            lane = self._lanes[(part, number)] = _Lane(self, part, number)
        job = Job(data, arrived, deadline, self.loop.create_future())
        lane.add(job)
        found: Tuple[Served, int] = await job.done
        return found

    def check(self) -> None:
        """Raise ServerBusyError if every request would be refused now; tails of this process can always run."""

    def drop_the_late(self) -> None:
        """Answer those whose deadline has passed while they waited."""
        for lane in self._lanes.values():
            lane.drop_the_late()

    def close(self) -> None:
        """Wait for the work in hand and free the tails. Blocks: not for the event loop while it serves."""
        self._pool.shutdown(wait=True)
        self.service.__exit__(None, None, None)

    # What the lanes need of their generation.

    def start(self, part: str, number: int, jobs: List[Job], done: Callable[[Outcomes], None]) -> None:
        """Have a thread compute a batch; `done` gets what became of each job, in the event loop."""
        self._pool.submit(self._compute, part, number, jobs, done)

    def _compute(self, part: str, number: int, jobs: List[Job], done: Callable[[Outcomes], None]) -> None:
        """In a thread. One call back into the loop: an executor's future would take three rounds of it."""
        try:
            outcomes = self.service.run(part, number, [job.data for job in jobs])
        except Exception as error:
            outcomes = [error] * len(jobs)
        with contextlib.suppress(RuntimeError):  # the loop is closed: whoever asked has gone
            self.loop.call_soon_threadsafe(done, outcomes)

    def count_queued(self, change: int) -> None:
        """Keep the number of waiting requests."""
        self.statistics.queued += change

    def count_batch(self, part: str, number: int, outcomes: Outcomes) -> None:
        """Keep the totals of a batch that was computed."""
        served = [one for one in outcomes if isinstance(one, Served)]
        if served:
            self.statistics.count_batch(self.split(part, number), len(served), served[0].tail_us)

    def split(self, part: str, number: int) -> str:
        """What the statistics call the split of a bundle, or its whole network."""
        name = str(self.service.bundle(number).split["name"])
        return name if part == "tail" else name + " whole"


class _Lane:
    """The requests that wait for one tail, in the order they came."""

    def __init__(self, lanes: Lanes, part: str, number: int) -> None:
        self._lanes = lanes
        self._part = part
        self._number = number
        self._batch_limit = lanes.service.batch_limit(part, number)
        self._waiting: Deque[Job] = deque()
        self._busy = False
        self._timer: Any = None

    def add(self, job: Job) -> None:
        self._waiting.append(job)
        self._lanes.count_queued(1)
        self._consider()

    def drop_the_late(self) -> None:
        now = self._lanes.loop.time()
        kept: Deque[Job] = deque()
        for job in self._waiting:
            if job.deadline > now and not job.done.done():
                kept.append(job)
            else:
                self._lanes.count_queued(-1)
                _fail(job, _late("while it waited"))
        self._waiting = kept

    def _consider(self) -> None:
        """Start a batch if one is due, or see to it that it will be."""
        if self._busy or not self._waiting:
            return
        wait_s = self._lanes.limits.max_wait_s
        if wait_s and len(self._waiting) < self._batch_limit:
            due = self._waiting[0].arrived + wait_s
            if due > self._lanes.loop.time():
                if self._timer is None:
                    self._timer = self._lanes.loop.call_at(due, self._timer_rang)
                return
        self._start()

    def _timer_rang(self) -> None:
        self._timer = None
        if self._waiting and not self._busy:
            self._start()

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.drop_the_late()
        jobs = [self._waiting.popleft() for _ in range(min(self._batch_limit, len(self._waiting)))]
        if not jobs:
            return
        self._lanes.count_queued(-len(jobs))
        self._busy = True
        began = self._lanes.loop.time()
        self._lanes.start(self._part, self._number, jobs, lambda outcomes: self._finish(jobs, began, outcomes))

    def _finish(self, jobs: List[Job], began: float, outcomes: Outcomes) -> None:
        self._busy = False
        self._lanes.count_batch(self._part, self._number, outcomes)
        now = self._lanes.loop.time()
        for job, outcome in zip(jobs, outcomes):
            if not isinstance(outcome, Served):
                _fail(job, outcome)
            elif now > job.deadline:
                _fail(job, _late("while it was computed"))
            else:
                _succeed(job, outcome, max(0, round((began - job.arrived) * 1e6)))
        self._consider()


def _succeed(job: Job, served: Served, queue_us: int) -> None:
    if not job.done.done():
        job.done.set_result((served, queue_us))


def _fail(job: Job, error: Exception) -> None:
    if not job.done.done():  # whoever asked may have gone
        job.done.set_exception(error)


def _late(when: str) -> DeadlineError:
    return DeadlineError("the request's deadline passed {}; its work was dropped".format(when))
