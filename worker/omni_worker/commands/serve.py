"""The command `omni serve`: runs one process of a pipeline, a head or a headless one."""

import argparse
import asyncio
import logging

from omni_worker.config.flags import add_arguments
from omni_worker.config.serve_config import from_arguments
from omni_worker.importing import importing
from omni_worker.parallel.fork_server import IS_SUPPORTED, ForkServer
from omni_worker.telemetry.logs import configure_logging
from omni_worker.transport import keys

log = logging.getLogger(__name__)
REPLICA_MODULES = ("omni_worker.replica.process", "omni_worker.engine.build")
HELP = """Run one process of a pipeline: the head, or headless replicas that join it.

examples:
  omni serve builtin://digits                                a head with one replica, for this machine only
  omni serve builtin://digits --host 0.0.0.0                 the same, with an API for other machines
  omni serve builtin://digits --omni-secret-file FILE        a head that replicas on other machines can join
  omni serve builtin://digits --omni-secret-file FILE --headless --omni-master-address HOST
                                                             replicas that join the head on HOST

`omni up FILE` runs a whole pipeline from its manifest."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM. Returns 0 after a clean drain."""
    config = from_arguments(args)
    configure_logging(config.log_level, "head" if config.head else "headless")
    keys.check(config.secret_file)
    if args.insecure and config.secret_file is None:
        log.warning("--insecure: anyone who reaches the ports between the processes may read and forge requests")
    if args.replica_id is not None:
        log.warning("--replica-id is deprecated and ignored: the master gives out the ids")
    # Before this process has threads. The server imports the model's packages while this process imports its own.
    fork_server = ForkServer.forked(REPLICA_MODULES) if config.local_replicas and IS_SUPPORTED else None
    with importing():  # here, so that `omni serve --help` is fast
        from omni_worker.commands.head import run_head
        from omni_worker.commands.headless import run_headless

    asyncio.run(run_head(config, config.head, fork_server) if config.head else run_headless(config, fork_server))
    return 0
