"""Decides which requests run next: pure state machines that import neither torch nor zmq.

`interface` is the contract. `base` has the waiting and running requests, `request` runs each request from start to end,
and `step` advances a batch by one model call. `policies` select the batch, `waiting` sorts the queue in their order,
`batch_size` measures how far a batch should grow, and `forecast` predicts how long requests will wait.
"""

from omni_worker.engine.scheduler.interface import (
    Finished,
    KeyStats,
    QueueFull,
    RequestOutput,
    RequestProgress,
    RequestState,
    RequestStatus,
    RunnerOutput,
    SchedulerEvent,
    SchedulerInterface,
    SchedulerOutput,
    SchedulerRequest,
    SchedulerStats,
)
from omni_worker.engine.scheduler.policies import POLICIES, DrrPolicy, EdfPolicy, FifoPolicy, Policy, SrptPolicy
from omni_worker.engine.scheduler.request import RequestScheduler
from omni_worker.engine.scheduler.step import StepScheduler

__all__ = [
    "POLICIES",
    "DrrPolicy",
    "EdfPolicy",
    "FifoPolicy",
    "Finished",
    "KeyStats",
    "Policy",
    "QueueFull",
    "RequestOutput",
    "RequestProgress",
    "RequestScheduler",
    "RequestState",
    "RequestStatus",
    "RunnerOutput",
    "SchedulerEvent",
    "SchedulerInterface",
    "SchedulerOutput",
    "SchedulerRequest",
    "SchedulerStats",
    "SrptPolicy",
    "StepScheduler",
]
