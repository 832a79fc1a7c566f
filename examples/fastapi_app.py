"""The assistant inside a web application: one endpoint that streams.

    pip install fastapi uvicorn
    uvicorn --app-dir examples fastapi_app:app
    curl -N localhost:8000/chat -H 'content-type: application/json' -d '{"text": "Hello"}'

The answer is one JSON object a line: `{"text": ...}` for each piece as it comes, then `{"turn_id", "session_id",
"task", "notices"}`, or `{"error", "message", "hint"}`. Send `session_id` back to go on with the conversation. When the
client goes away, the model stops.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from smallai_assistant import Assistant, AssistantConfig, AssistantError, Response, Session


class ChatBody(BaseModel):
    """What the client sends."""

    text: str
    session_id: str | None = None
    task: str | None = None


def create_app(config: AssistantConfig | None = None) -> FastAPI:
    """Makes the application; the assistant lives as long as it runs.

    Args:
        config: the assistant's settings; None reads the file and the environment.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with Assistant(config) as assistant:
            app.state.assistant = assistant
            yield

    app = FastAPI(title="smallai", lifespan=lifespan)

    @app.exception_handler(AssistantError)
    async def refuse(_request: Request, error: AssistantError) -> JSONResponse:
        return JSONResponse(_described(error), status_code=422)

    @app.post("/chat")
    async def chat(body: ChatBody, request: Request) -> StreamingResponse:
        assistant: Assistant = request.app.state.assistant
        # Opening a session reads the database: not on the event loop's thread.
        session = await asyncio.to_thread(assistant.session, session_id=body.session_id)
        response = session.send(body.text, task=body.task)
        return StreamingResponse(_lines(session, response), media_type="application/x-ndjson")

    return app


async def _lines(session: Session, response: Response) -> AsyncIterator[str]:
    try:
        async for part in response:
            yield json.dumps(asdict(part)) + "\n"
        turn = await asyncio.to_thread(lambda: response.turn)  # returns once the turn is on disk
        notices = [asdict(notice) for notice in response.notices]
        end = {"turn_id": turn.id, "session_id": session.id, "task": turn.task, "notices": notices}
        yield json.dumps(end) + "\n"
    except AssistantError as error:  # the stream has begun: the status is sent, so the error is a line
        yield json.dumps(_described(error)) + "\n"


def _described(error: AssistantError) -> dict[str, str]:
    return {"error": error.code, "message": error.message, "hint": error.hint}


app = create_app()
