"""GET /v1/models and /v1/models/{id}: the served model, as OpenAI lists models."""

from fastapi import APIRouter

from omni_worker.api.errors import ApiError
from omni_worker.api.schemas import ErrorResponse, ModelList, ModelObject


def model_routes(model: str, created: int) -> APIRouter:
    """The routes of the served model. `created` is when the server started, in seconds since 1970."""
    router = APIRouter(tags=["models"])
    served = ModelObject(id=model, created=created)

    @router.get("/v1/models")
    async def list_models() -> ModelList:
        """The models that this server has: one."""
        return ModelList(data=[served])

    @router.get("/v1/models/{id:path}", responses={404: {"model": ErrorResponse}})
    async def retrieve_model(id: str) -> ModelObject:
        """The model of this name."""
        if id != model:
            raise ApiError(404, f"there is no model {id!r}; this server has {model!r}", "model", "model_not_found")
        return served

    return router
