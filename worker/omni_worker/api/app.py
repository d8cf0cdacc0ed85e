"""Builds the head's HTTP application from its middleware and routes."""

import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import version

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from omni_worker.api.access.browsers import LocalPagesOnly
from omni_worker.api.access.keys import ApiKeys, RequireApiKey
from omni_worker.api.audio.speech import SOUND_HEADERS, speech_routes
from omni_worker.api.chat.completions import chat_routes
from omni_worker.api.docs_page import docs_routes
from omni_worker.api.errors import install_error_handlers
from omni_worker.api.guards import RequestIds
from omni_worker.api.http.bodies import Bodies
from omni_worker.api.http.methods import OneSpelling
from omni_worker.api.images.edits import edit_routes
from omni_worker.api.images.generations import image_routes
from omni_worker.api.loras import lora_routes
from omni_worker.api.openapi import install_openapi
from omni_worker.api.playground import playground_routes
from omni_worker.api.service import Service
from omni_worker.api.state.models import model_routes
from omni_worker.api.state.replicas import state_routes
from omni_worker.api.state.topology import topology_routes
from omni_worker.api.tracing import RequestSpans
from omni_worker.api.videos.jobs import VideoJobs
from omni_worker.api.videos.routes import video_routes
from omni_worker.config.api import ApiConfig
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.telemetry.metrics import AccessMetrics
from omni_worker.telemetry.tracing import Tracing

EXPOSED_HEADERS = ["X-Request-Id", "Retry-After", *SOUND_HEADERS]
"""Headers that web pages of other origins may read."""


def create_app(
    orchestrator: Orchestrator,
    model: str,
    probes: Sequence[Route],
    config: ApiConfig | None = None,
    tracing: Tracing | None = None,
    metrics: AccessMetrics | None = None,
) -> FastAPI:
    """The application that serves the pipeline under the name `model`.

    Raises UsageError if the key file or the database of videos cannot be used.
    """
    config = config or ApiConfig()
    service = Service(orchestrator, model, config.limits)
    jobs = VideoJobs(service, config.videos)

    @contextlib.asynccontextmanager
    async def run_jobs(app: FastAPI) -> AsyncIterator[None]:
        await jobs.start()
        yield
        await jobs.stop()

    app = FastAPI(
        title="OmniPipeline",
        version=version("omnipipeline"),
        lifespan=run_jobs,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    install_error_handlers(app, orchestrator.count_invalid)
    _add_middleware(app, config, tracing, metrics or AccessMetrics(CollectorRegistry()))
    app.router.routes.extend(probes)
    app.include_router(image_routes(service))
    app.include_router(edit_routes(service))
    app.include_router(chat_routes(service))
    app.include_router(video_routes(service, jobs))
    app.include_router(speech_routes(service))
    app.include_router(model_routes(service, created=int(time.time())))
    app.include_router(state_routes(orchestrator))
    app.include_router(topology_routes(orchestrator, model))
    app.include_router(lora_routes(orchestrator.loras, is_open=config.key_file is None and not config.is_local))
    app.include_router(docs_routes(app))
    if config.playground:
        app.include_router(playground_routes())
    install_openapi(app, list(probes), has_keys=config.key_file is not None)
    return app


def _add_middleware(app: FastAPI, config: ApiConfig, tracing: Tracing | None, metrics: AccessMetrics) -> None:
    """Add the middleware from the inside out: a request passes the last one first."""
    app.add_middleware(Bodies, max_bytes=config.limits.body, max_bytes_together=config.limits.bodies)
    if tracing is not None and tracing.is_on:
        app.add_middleware(RequestSpans, tracing=tracing)
    if config.key_file is not None:
        app.add_middleware(RequireApiKey, keys=ApiKeys(config.key_file), metrics=metrics)
    if config.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    if config.is_local:
        app.add_middleware(LocalPagesOnly, hosts=config.hosts, origins=config.origins, metrics=metrics)
    app.add_middleware(OneSpelling)
    app.add_middleware(RequestIds)
