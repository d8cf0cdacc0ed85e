"""GET /v1/models and /v1/models/{id}: the served model and its LoRA adapters, as OpenAI lists models."""

from fastapi import APIRouter

from omni_worker.api.schemas import ErrorResponse, ModelList, ModelObject
from omni_worker.api.service import Service, no_such_model


def model_routes(service: Service, created: int) -> APIRouter:
    """The routes of the served model. `created` is when the server started, in seconds since 1970."""
    router = APIRouter(tags=["models"])

    def served() -> list[ModelObject]:
        adapters = [ModelObject(id=name, created=created, parent=service.model) for name in service.adapters]
        return [ModelObject(id=service.model, created=created), *adapters]

    @router.get("/v1/models", response_model_exclude_none=True)
    async def list_models() -> ModelList:
        """The model that this server has, and its LoRA adapters."""
        return ModelList(data=served())

    @router.get("/v1/models/{id:path}", response_model_exclude_none=True, responses={404: {"model": ErrorResponse}})
    async def retrieve_model(id: str) -> ModelObject:
        """The model or adapter of this name."""
        for model in served():
            if model.id == id:
                return model
        raise no_such_model(id, [model.id for model in served()])

    return router
