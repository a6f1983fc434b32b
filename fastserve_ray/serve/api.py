"""The HTTP face: OpenAI's endpoints over the gateway. It imports no torch, so that the ingress starts fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

from fastapi import Body, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from fastserve_ray import __version__
from fastserve_ray.serve import sse
from fastserve_ray.serve.answers import (
    Answers,
    ChatAnswers,
    CompletionAnswers,
    classify_answer,
    rerank_answer,
    usage_of,
)
from fastserve_ray.serve.auth.access import Access, add_door
from fastserve_ray.serve.bodies import StrictRoute
from fastserve_ray.serve.calls import (
    Classified,
    ClassifyCall,
    DetokenizeCall,
    EmbedCall,
    Embedded,
    Frame,
    GenerateCall,
    TokenizeCall,
    Tokenized,
)
from fastserve_ray.serve.composition import Models, Starter, load_application
from fastserve_ray.serve.early_body import FindsBody
from fastserve_ray.serve.embedding import embedding_answer
from fastserve_ray.serve.failures import (
    Failure,
    RequestFailed,
    internal,
    not_json,
    of_validation,
    unavailable,
    unknown_model,
)
from fastserve_ray.serve.metrics import CONTENT_TYPE, ServerMetrics
from fastserve_ray.serve.middleware import Observed, route_of
from fastserve_ray.serve.openapi import METRICS_PAGE, REFUSED, STREAMED, describe
from fastserve_ray.serve.quota.routes import add_usage
from fastserve_ray.serve.wire.base import ModelCard, ModelList, WireAnswer, WireRequest
from fastserve_ray.serve.wire.chat import ChatAnswer, ChatRequest
from fastserve_ray.serve.wire.classify import ClassifyAnswer, ClassifyRequest
from fastserve_ray.serve.wire.completions import DEFAULT_MAX_TOKENS, CompletionAnswer, CompletionRequest
from fastserve_ray.serve.wire.embeddings import EmbeddingAnswer, EmbeddingRequest
from fastserve_ray.serve.wire.rerank import RerankAnswer, RerankRequest
from fastserve_ray.serve.wire.tokens import DetokenizeAnswer, DetokenizeRequest, TokenizeAnswer, TokenizeRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from fastserve_ray.serve.gateway import Gateway, ServedModel
    from fastserve_ray.spec.serve import ApplicationSpec

REQUEST_ID_HEADER = "x-request-id"
REQUEST_MODELS: dict[str, type[WireRequest]] = {
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
    "/v1/classify": ClassifyRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/v1/rerank": RerankRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}


def build_api(
    gateway: Gateway,
    metrics: ServerMetrics | None = None,
    access: Access | None = None,
    application: ApplicationSpec | None = None,
) -> FastAPI:
    """The ASGI application of the ingress.

    Args:
        application: whose routes are served too.
    """
    metrics = metrics or ServerMetrics(gateway.models)
    inference = Inference(gateway)
    composed = None if application is None else load_application(application)(Models(inference), **application.settings)
    starter = None if composed is None else Starter(composed)
    app = FastAPI(
        title="FastServe-Ray",
        version=__version__,
        responses=REFUSED,
        lifespan=None if starter is None else starter.lifespan,
    )
    app.router.route_class = StrictRoute
    gateway.admission.metrics = metrics
    add_door(app, access or Access())
    app.add_middleware(Observed, metrics=metrics)
    app.add_middleware(FindsBody)
    _add_error_handlers(app)
    _add_inference(app, inference)
    if composed is not None:
        app.include_router(composed.routes())
    _add_models(app, gateway)
    add_usage(app, gateway.admission.keeper)
    _add_operations(app, gateway, metrics, starter)
    describe(app)
    return app


class Inference:
    """Runs a validated request."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    async def complete(self, body: CompletionRequest) -> Response:
        model = self.gateway.find(body.model, "text-generation")
        call = GenerateCall(
            _identity("cmpl"),
            prompts=body.prompts,
            max_tokens=body.max_tokens or DEFAULT_MAX_TOKENS,
            sampling=body.sampling,
            priority=body.priority or 0,
            share_key=body.user or "",
        )
        identity = _identity("cmpl", body.request_id)
        answers = CompletionAnswers(identity, model.name, body.include_usage, body.continuous_usage)
        if body.stream:
            return await self._stream(model, call, answers, include_usage=body.include_usage)
        return json_response(answers.whole(await self._whole(model, call)))

    async def chat(self, body: ChatRequest) -> ChatAnswer:
        """The whole answer, whether or not ``body`` asks for a stream."""
        model, call, answers = self._chat_parts(body)
        return answers.whole(await self._whole(model, call))

    async def chat_response(self, body: ChatRequest) -> Response:
        if not body.stream:
            return json_response(await self.chat(body))
        return await self._stream(*self._chat_parts(body), include_usage=body.include_usage)

    def _chat_parts(self, body: ChatRequest) -> tuple[ServedModel, GenerateCall, ChatAnswers]:
        model = self.gateway.find(body.model, "text-generation")
        call = GenerateCall(
            _identity("chatcmpl"),
            messages=tuple(message.for_template() for message in body.messages),
            tools=tuple(tool.for_template() for tool in body.offered_tools),
            constraint_field="tools" if body.is_call_forced else "response_format",
            max_tokens=body.token_limit,
            sampling=body.sampling,
            priority=body.priority or 0,
            share_key=body.user or "",
        )
        identity = _identity("chatcmpl", body.request_id)
        answers = ChatAnswers(identity, model.name, body.include_usage, body.continuous_usage, body.reader)
        return model, call, answers

    async def _whole(self, model: ServedModel, call: GenerateCall) -> Frame:
        frame: Frame = await self.gateway.call(model, "complete", call)
        return frame

    async def _stream(
        self, model: ServedModel, call: GenerateCall, answers: Answers, *, include_usage: bool
    ) -> Response:
        """The status is sent with the first token, so that a refused request is an error and no broken stream."""
        frames = self.gateway.stream(model, call)
        first = await anext(frames)
        events = self._events(model, first, frames, answers, include_usage)
        return StreamingResponse(events, media_type=sse.MEDIA_TYPE, headers=sse.HEADERS)

    async def _events(
        self,
        model: ServedModel,
        first: Frame,
        frames: AsyncGenerator[Frame, None],
        answers: Answers,
        include_usage: bool,
    ) -> AsyncGenerator[bytes, None]:
        last = first
        try:
            yield _join(answers, first)
            async for last in frames:
                yield _join(answers, last)
            if include_usage:
                yield sse.event(answers.usage_chunk(usage_of(last)))
            yield sse.DONE
        except RequestFailed as failed:
            yield sse.event(failed.failure.body(), exclude_unset=False)
        finally:
            await frames.aclose()

    async def classify(self, body: ClassifyRequest) -> ClassifyAnswer:
        model = self.gateway.find(body.model, "text-classification")
        result: Classified = await self.gateway.call(model, "classify", ClassifyCall(body.texts))
        return classify_answer(_identity("classify"), model.name, result)

    async def rerank(self, body: RerankRequest) -> RerankAnswer:
        model = self.gateway.find(body.model, "text-classification")
        result: Classified = await self.gateway.call(model, "classify", ClassifyCall(body.pairs))
        return rerank_answer(_identity("rerank"), model.name, body, result)

    async def embed(self, body: EmbeddingRequest) -> EmbeddingAnswer:
        model = self.gateway.find(body.model, "text-embedding")
        call = EmbedCall(body.inputs, body.dimensions, cuts=body.truncate_prompt_tokens is not None)
        result: Embedded = await self.gateway.call(model, "embed", call)
        return embedding_answer(model.name, result, body.encoding_format)

    async def tokenize(self, body: TokenizeRequest) -> TokenizeAnswer:
        model = self.gateway.find(body.model, "text-generation")
        messages = None if body.messages is None else tuple(message.for_template() for message in body.messages)
        call = TokenizeCall(
            body.prompt or "",
            messages,
            body.add_special_tokens,
            body.add_generation_prompt,
            with_texts=body.return_token_strs,
        )
        found: Tokenized = await self.gateway.call(model, "tokenize", call)
        return TokenizeAnswer(
            count=len(found.token_ids),
            max_model_len=found.max_model_len,
            tokens=list(found.token_ids),
            token_strs=None if found.texts is None else list(found.texts),
        )


def _add_inference(app: FastAPI, inference: Inference) -> None:
    @app.post("/v1/completions", response_model=CompletionAnswer, responses=STREAMED)
    async def completions(body: Annotated[CompletionRequest, Body()]) -> Response:
        return await inference.complete(body)

    @app.post("/v1/chat/completions", response_model=ChatAnswer, responses=STREAMED)
    async def chat_completions(body: Annotated[ChatRequest, Body()]) -> Response:
        return await inference.chat_response(body)

    @app.post("/v1/classify", response_model=ClassifyAnswer)
    async def classify(body: Annotated[ClassifyRequest, Body()]) -> Response:
        return json_response(await inference.classify(body))

    @app.post("/v1/rerank", response_model=RerankAnswer)
    async def rerank(body: Annotated[RerankRequest, Body()]) -> Response:
        return json_response(await inference.rerank(body))

    @app.post("/v1/embeddings", response_model=EmbeddingAnswer)
    async def embeddings(body: Annotated[EmbeddingRequest, Body()]) -> Response:
        return json_response(await inference.embed(body))

    @app.post("/tokenize", response_model=TokenizeAnswer)
    async def tokenize(body: Annotated[TokenizeRequest, Body()]) -> Response:
        return json_response(await inference.tokenize(body))

    @app.post("/detokenize", response_model=DetokenizeAnswer)
    async def detokenize(body: Annotated[DetokenizeRequest, Body()]) -> Response:
        model = inference.gateway.find(body.model, "text-generation")
        text = await inference.gateway.call(model, "detokenize", DetokenizeCall(tuple(body.tokens)))
        return json_response(DetokenizeAnswer(prompt=text))


def _add_models(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(data=[_card(model) for model in gateway.models.values()])

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> ModelCard:
        model = gateway.models.get(name)
        if model is None:
            raise RequestFailed(unknown_model(name, list(gateway.models)))
        return _card(model)


def _add_operations(app: FastAPI, gateway: Gateway, metrics: ServerMetrics, starter: Starter | None) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """Every model has a loaded replica, or may be without until a request comes, and the application, if there is
        one, has started."""
        at_zero = {name: await gateway.is_at_zero(model) for name, model in gateway.models.items()}
        waiting = [name for name, state in at_zero.items() if state is None]
        if waiting:
            raise RequestFailed(unavailable(f"no replica is loaded yet of: {', '.join(waiting)}"))
        if starter is not None and not starter.is_ready:
            raise RequestFailed(unavailable(f"the application has not started yet: {starter.error}"))
        asleep = [name for name, state in at_zero.items() if state]
        if not asleep:
            return {"status": "ready"}
        return {"status": "ready, scaled to zero", "detail": f"started by the next request: {', '.join(asleep)}"}

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @app.get("/metrics", responses=METRICS_PAGE)
    async def metrics_page() -> Response:
        found = [(name, status) for name, model in gateway.models.items() for status in await gateway.statuses(model)]
        for name, model in gateway.models.items():
            metrics.queued(name, gateway.admission.num_queued(model))
        return Response(metrics.page(found), headers={"content-type": CONTENT_TYPE})


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestFailed)
    async def on_failure(_: Request, failed: RequestFailed) -> Response:
        return error_response(failed.failure)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        if isinstance(error.body, bytes):
            return error_response(not_json(request.headers.get("content-type")))
        known = REQUEST_MODELS.get(route_of(request.scope))
        return error_response(of_validation(error.errors(), list(known.model_fields) if known else ()))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {error.detail}"
        codes = {404: "unknown_url", 405: "method_not_allowed"}
        response = error_response(Failure(error.status_code, message, code=codes.get(error.status_code)))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def on_bug(_: Request, error: Exception) -> Response:
        return error_response(internal(f"{type(error).__name__} in the server; see its log"))


def json_response(answer: WireAnswer, status: int = 200) -> Response:
    return Response(answer.model_dump_json(), status, media_type="application/json")


def error_response(failure: Failure) -> Response:
    return Response(
        failure.body().model_dump_json(), failure.status, headers=failure.headers(), media_type="application/json"
    )


def _card(model: ServedModel) -> ModelCard:
    return ModelCard(id=model.name, created=model.created, task=model.task)


def _join(answers: Answers, frame: Frame) -> bytes:
    return b"".join(sse.event(chunk) for chunk in answers.chunks(frame))


def _identity(prefix: str, chosen: str | None = None) -> str:
    """Of an answer. What a client chose need not be unique, so it never names a request in the engine."""
    return f"{prefix}-{chosen or uuid4().hex}"
