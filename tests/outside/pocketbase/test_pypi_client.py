"""The client `pocketbase` of PyPI, unmodified, against a server of PocketBase's API: CRUD, lists, log-ins, errors, plain subscriptions."""

import os
import time
import uuid

import pytest
from pocketbase import PocketBase
from pocketbase.errors import ClientResponseError

URL = os.environ["POCKETBASE_URL"]
SECRET = "correct horse battery"


@pytest.fixture
def admin():
    client = PocketBase(URL)
    client.collection("_superusers").auth_with_password(os.environ["POCKETBASE_SUPERUSER_EMAIL"], os.environ["POCKETBASE_SUPERUSER_PASSWORD"])
    return client


@pytest.fixture
def make(admin):
    made = []

    def collection(**options):
        name = f"t_{uuid.uuid4().hex[:12]}"
        rules = dict.fromkeys(("listRule", "viewRule", "createRule", "updateRule", "deleteRule"), "")
        fields = [{"name": "title", "type": "text"}, {"name": "n", "type": "number"}]
        body = {"name": name, "type": "base", "fields": fields} | rules | options
        admin.send("/api/collections", {"method": "POST", "body": body})
        made.append(name)
        return name

    yield collection
    for name in reversed(made):
        admin.send(f"/api/collections/{name}", {"method": "DELETE"})


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)


def test_records_are_created_read_updated_and_deleted(make):
    posts = PocketBase(URL).collection(make())
    made = posts.create({"title": "first", "n": 1})
    assert (made.title, made.n, len(made.id)) == ("first", 1, 15)
    assert posts.get_one(made.id).title == "first"
    assert posts.update(made.id, {"title": "second", "n+": 2}).n == 3
    assert posts.delete(made.id)
    with pytest.raises(ClientResponseError) as gone:
        posts.get_one(made.id)
    assert gone.value.status == 404


def test_lists_are_filtered_sorted_and_paged(make):
    posts = PocketBase(URL).collection(make())
    for n in range(25):
        posts.create({"title": f"t{n % 5}", "n": n})
    page = posts.get_list(2, 10, {"sort": "-n"})
    assert (page.page, page.per_page, page.total_items, page.total_pages) == (2, 10, 25, 3)
    assert [record.n for record in page.items] == list(range(14, 4, -1))
    assert len(posts.get_full_list(batch=7)) == 25
    assert posts.get_first_list_item('n > 20 && title = "t3"').n == 23


def test_users_log_in_and_refresh(make, admin):
    people = make(type="auth", fields=[])
    email = f"{uuid.uuid4().hex[:12]}@example.com"
    made = admin.collection(people).create({"email": email, "password": SECRET, "passwordConfirm": SECRET})
    client = PocketBase(URL)
    session = client.collection(people).auth_with_password(email, SECRET)
    assert session.is_valid and session.record.id == made.id
    assert client.collection(people).auth_refresh().record.id == made.id
    assert client.auth_store.token


def test_errors_have_status_and_data(make):
    client = PocketBase(URL)
    posts = client.collection(make(fields=[{"name": "title", "type": "text", "required": True}]))
    with pytest.raises(ClientResponseError) as blank:
        posts.create({})
    assert blank.value.status == 400
    assert blank.value.data["data"]["title"]["code"] == "validation_required"
    with pytest.raises(ClientResponseError) as wrong:
        client.collection("users").auth_with_password("nobody@example.com", "wrong")
    assert wrong.value.status == 400


def test_a_subscription_gets_changes_until_it_ends(make):
    name = make()
    client = PocketBase(URL)
    events, one = [], []
    client.collection(name).subscribe(events.append)
    until(lambda: client.realtime.client_id)
    made = None

    def seen():
        nonlocal made
        made = client.collection(name).create({"title": "hello"})
        return events

    until(seen)  # The client does not say when the server has its topics.
    # Those of the last one may still be on their way.
    until(lambda: any(event.record.id == made.id for event in events))
    assert events[0].action == "create" and events[0].record.title == "hello"
    client.collection(name).subscribe_one(made.id, one.append)
    client.collection(name).update(made.id, {"n": 5})
    until(lambda: one and any(event.action == "update" for event in events))
    assert (one[0].action, one[0].record.n) == ("update", 5)
    client.collection(name).unsubscribe()
    assert client.realtime.event_source is None
