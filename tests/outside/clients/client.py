"""Uses a client that openapi-python-client generated from the service's description."""

import os

from tidegate_client import AuthenticatedClient
from tidegate_client.api.conversations import post_api_conversations, post_api_conversations_id_messages
from tidegate_client.api.events import post_api_events, post_api_events_batch
from tidegate_client.api.records import get_api_stress_records_collection_id, post_api_stress_records_collection
from tidegate_client.models import ConversationChange, NewMessage, NewRecord

client = AuthenticatedClient(os.environ["TIDEGATE_URL"], os.environ["TIDEGATE_KEY"])

event = post_api_events.sync_detailed(
    client=client, body={"kind": "signup", "n": 1}, ack="committed", x_trace_id="python"
)
assert event.status_code == 201, event
assert event.headers["x-trace-id"] == "python"

for body in ([1, "two", None], 7, "text"):
    answer = post_api_events.sync_detailed(client=client, body=body)
    assert answer.status_code == 202, answer

batch = post_api_events_batch.sync_detailed(client=client, body=[{"n": 1}, {"n": 2}], ack="committed")
assert batch.status_code == 201 and batch.parsed.accepted == 2 and batch.parsed.rejected == [], batch

new = NewRecord()
new["name"] = "a"
record = post_api_stress_records_collection.sync(collection="python", client=client, body=new)
read = get_api_stress_records_collection_id.sync(collection="python", id=record.id, client=client)
assert read["name"] == "a", read

conversation = post_api_conversations.sync(client=client, body=ConversationChange(title="From Python"))
message = NewMessage(role="user", content="Hello")
added = post_api_conversations_id_messages.sync_detailed(id=conversation.id, client=client, body=message)
assert added.status_code == 201 and added.parsed.content == "Hello", added
print("python: ok")
