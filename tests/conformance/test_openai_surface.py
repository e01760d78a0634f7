"""OpenAI's own client on the rest of the surface: responses, completions, embeddings."""

import json
from dataclasses import replace

import openai
import pydantic
import pytest
from openai.types.responses import ResponseCompletedEvent, ResponseTextDeltaEvent

from gateway.settings import EmbeddingsSettings
from tests.conformance.scripts import calling, streaming_calls
from tests.gateway_fixtures import EASY, HARD, World, running_world
from tests.scripted_upstream import Script, ScriptedUpstream

TOOL = {"type": "function", "name": "locate", "parameters": {"type": "object"}, "strict": True}


class Parcel(pydantic.BaseModel):
    """What a structured answer is to look like."""

    city: str


def test_a_response_is_what_the_client_expects(client: openai.OpenAI):
    response = client.responses.create(model="gpt-4o-mini", input=EASY, instructions="Be kind.", metadata={"a": "b"})
    assert response.output_text == "The student says good day."
    assert (response.status, response.instructions, response.metadata) == ("completed", "Be kind.", {"a": "b"})
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.total_tokens) == (11, 16)
    type(response).model_validate(response.model_dump())


def test_a_conversation_is_looked_up_and_goes_on_and_is_deleted(client: openai.OpenAI, world: World):
    first = client.responses.create(model="auto", input=EASY)
    assert client.responses.retrieve(first.id).output_text == first.output_text
    second = client.responses.create(model="auto", input=HARD, previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert [m["role"] for m in world.teacher.seen[0].body["messages"]] == ["user", "assistant", "user"]
    items = list(client.responses.input_items.list(second.id, order="asc", limit=2))
    assert [item.type for item in items] == ["message"] * 3
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_the_clients_own_output_goes_back_in_as_input(client: openai.OpenAI, world: World):
    world.teacher.reset(Script(text="It is in Ghent."), [calling("a1", "b2")])
    first = client.responses.create(model="auto", input=EASY, tools=[TOOL], store=False)
    calls = [item for item in first.output if item.type == "function_call"]
    assert [json.loads(call.arguments) for call in calls] == [{"parcel": "a1"}, {"parcel": "b2"}]
    outputs = [{"type": "function_call_output", "call_id": call.call_id, "output": "Ghent"} for call in calls]
    history = [{"role": "user", "content": EASY}, *first.output, *outputs]
    second = client.responses.create(model="auto", input=history, tools=[TOOL], store=False)
    assert second.output_text == "It is in Ghent."
    sent = world.teacher.seen[1].body["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool"]
    assert len(sent[1]["tool_calls"]) == 2


def test_the_events_are_typed_and_in_order(client: openai.OpenAI):
    events = list(client.responses.create(model="auto", input=EASY, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if isinstance(event, ResponseTextDeltaEvent))
    assert text == "The student says good day."
    assert isinstance(events[-1], ResponseCompletedEvent)
    assert events[-1].response.output_text == text


def test_the_streaming_helper_puts_a_response_together(client: openai.OpenAI, world: World):
    with client.responses.stream(model="auto", input=EASY) as stream:
        kinds = [event.type for event in stream]
        response = stream.get_final_response()
    assert kinds.count("response.output_text.delta") == 5
    assert response.output_text == "The student says good day."
    world.teacher.script = streaming_calls("a1", "b2")
    with client.responses.stream(model="auto", input=EASY, tools=[TOOL]) as stream:
        calls = stream.get_final_response().output
    assert [json.loads(call.arguments) for call in calls if call.type == "function_call"] == [
        {"parcel": "a1"}, {"parcel": "b2"},
    ]  # fmt: skip


def test_a_structured_response_is_parsed(client: openai.OpenAI, world: World):
    world.student.script = Script(text='{"city":"Ghent"}', logprob=-0.02)
    response = client.responses.parse(model="auto", input=EASY, text_format=Parcel)
    assert response.output_parsed == Parcel(city="Ghent")
    assert world.student.seen[0].body["response_format"]["json_schema"]["name"] == "Parcel"


def test_log_probabilities_come_with_a_response(client: openai.OpenAI):
    response = client.responses.create(
        model="auto", input=HARD, include=["message.output_text.logprobs"], top_logprobs=2
    )
    (part,) = response.output[0].content  # pyright: ignore[reportAttributeAccessIssue]
    assert [len(token.top_logprobs) for token in part.logprobs] == [2] * 5


def test_what_cannot_be_done_is_a_bad_request(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(model="auto", input=EASY, tools=[{"type": "web_search"}])
    assert (raised.value.code, raised.value.param) == ("unsupported_parameter", "tools[0].type")


def test_a_response_that_fails_midway_says_so(client: openai.OpenAI, world: World):
    world.teacher.script = Script(text="one two three", cut_after=3)
    last = list(client.responses.create(model="teacher", input=EASY, stream=True))[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.code == "server_error"


async def test_the_async_client_gets_responses_too(async_client: openai.AsyncOpenAI):
    response = await async_client.responses.create(model="auto", input=EASY)
    assert (await async_client.responses.retrieve(response.id)).output_text == response.output_text
    async with async_client.responses.stream(model="auto", input=EASY) as stream:
        assert (await stream.get_final_response()).output_text == "The student says good day."


def test_a_completion_of_a_prompt_is_what_the_client_expects(client: openai.OpenAI):
    answer = client.completions.create(model="auto", prompt=EASY, logprobs=2)
    assert (answer.object, answer.choices[0].text) == ("text_completion", "The student says good day.")
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert [len(listed) for listed in logprobs.top_logprobs or ()] == [2] * 5
    chunks = list(
        client.completions.create(model="auto", prompt=EASY, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "The student says good day."
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5


def test_embeddings_are_decoded_by_the_client(router, tmp_path):
    server = ScriptedUpstream()
    try:
        # two little-endian 32-bit floats, as OpenAI's client asks for by itself
        vector = {"object": "embedding", "index": 0, "embedding": "AACAPwAAAMA="}
        usage = {"prompt_tokens": 2, "total_tokens": 2}
        body = {"object": "list", "model": "embed", "data": [vector], "usage": usage}
        server.script = Script(body=json.dumps(body).encode())
        settings = EmbeddingsSettings(base_url=server.url, model="embed")
        with (
            running_world(tmp_path, None, lambda config: replace(config, embeddings=settings)) as world,
            openai.OpenAI(base_url=f"{world.url}/v1", api_key=world.secrets["inference"]) as client,
        ):
            answer = client.embeddings.create(model="embed", input="one")
            assert answer.data[0].embedding == [1.0, -2.0]
            assert answer.usage.prompt_tokens == 2
            assert server.seen[0].body["encoding_format"] == "base64"
            with pytest.raises(openai.NotFoundError):
                client.embeddings.create(model="auto", input="one")
    finally:
        server.close()
