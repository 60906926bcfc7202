"""No secret comes out, however it is named, nested, encoded or cut."""

import json
from time import process_time
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogue.plugin import Proof
from snippets.middleware import redactor_naive as naive
from snippets.middleware.redactor import MASK, SECRET_NAMES, Redactor

CANARY = "canary-7f3a"
CARD = "4111111111111111"
REDACTOR = Redactor()

SECRETS = [
    "password",
    "client_secret",
    "userPassword",
    "new_password",
    "API-Key",
    "api_key",
    "X-Auth-Token",
    "refresh.token",
    "Set-Cookie",
    "PASS WORD",
    "".join(chr(ord(one) + 0xFEE0) for one in "password"),  # in full width
    "db-credentials",
    "key_passphrase",
    "PASSWD",
    "Private-Key",
    "proxyAuthorization",
]


def test_each_name_of_a_secret_is_among_those_which_are_tried() -> None:
    shortened = {name: Redactor(names=SECRET_NAMES - {name}) for name in SECRET_NAMES}

    for name, redactor in shortened.items():
        assert not all(map(redactor.is_secret, SECRETS)), name


@pytest.mark.parametrize("name", SECRETS)
def test_a_name_that_contains_a_secret_s_is_secret_in_any_spelling(name: str) -> None:
    assert REDACTOR.is_secret(name)
    assert REDACTOR.value({name: CANARY}) == {name: MASK}


@pytest.mark.parametrize("name", ["name", "extension", "pass", "to", "keyapi", ""])
def test_other_names_are_not(name: str) -> None:
    assert not REDACTOR.is_secret(name)
    assert REDACTOR.value({name: "1001"}) == {name: "1001"}


def wrap(value: object, shape: str) -> object:
    """Put a value somewhere."""
    return {"object": {"call": value}, "list": [1, value], "pair": (value,)}[shape]


@settings(max_examples=100)
@given(
    st.sampled_from(SECRETS),
    st.lists(st.sampled_from(["object", "list", "pair"]), max_size=8),
    st.sampled_from([CANARY, [CANARY], {"a": {"b": [CANARY]}}]),
)
def test_a_secret_is_masked_at_any_depth(
    name: str, shapes: list[str], secret: object
) -> None:
    value: object = {name: secret, "kept": "1001"}
    for shape in shapes:
        value = wrap(value, shape)

    shown = json.dumps(REDACTOR.value(value))

    assert CANARY not in shown
    assert "1001" in shown


def test_what_was_given_is_left_as_it_is() -> None:
    given: dict[str, Any] = {"calls": [{"token": CANARY}]}
    REDACTOR.value(given)

    assert given == {"calls": [{"token": CANARY}]}


@pytest.mark.parametrize(
    "card",
    [
        CARD,
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4111  1111\u00a01111\n1111",
        "0" + CARD,
        CARD * 2,
        "378282246310005",
        "".join(chr(ord(one) + 0xFEE0) for one in CARD),  # in full width
    ],
)
def test_a_card_number_is_masked_in_text_wherever_it_stands(card: str) -> None:
    for text in (card, f"paid with {card}.", f"x{card}x"):
        shown = REDACTOR.value({"note": [text], text: 1})
        assert not any(part in str(shown) for part in ("1111", "2822", card))
    assert REDACTOR.query(f"note={quote_plus(card)}") == f"note={MASK}"
    encoded = "".join(f"%{ord(one):02X}" for one in CARD)
    assert REDACTOR.query(f"note={encoded}") == f"note={MASK}"


def test_a_card_number_is_masked_as_a_json_number() -> None:
    body = f"[{CARD}, -{CARD}, {CARD}.0, 4.1e15, 1{'0' * 400}, Infinity]"

    shown = REDACTOR.body(body.encode(), "application/json")

    assert shown == [MASK] * 6


@pytest.mark.parametrize(
    "value",
    [
        1001,
        -1,
        0.1234567890123456,
        3.141592653589793,
        True,
        None,
        "1001",
        "1.5",
        [],
        {},
    ],
)
def test_ordinary_values_are_shown_as_they_are(value: object) -> None:
    assert REDACTOR.value(value) == value


def test_a_body_that_is_shown_can_be_written_as_json() -> None:
    shown = REDACTOR.body(b'[NaN, {"seconds": -Infinity}]', "application/json")

    assert json.dumps(shown, allow_nan=False) == f'["{MASK}", {{"seconds": "{MASK}"}}]'


def test_what_json_has_no_word_for_is_shown_by_its_type() -> None:
    assert REDACTOR.value([object(), CANARY.encode()]) == ["<object>", "<bytes>"]


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        (f"user%5Fpassword={CANARY}&a=1", f"user_password={MASK}&a=1"),
        (f"user%255Fpassword={CANARY}", f"user%5Fpassword={MASK}"),
        (f"a=1;token={CANARY}", f"a=1;token={MASK}"),
        (f"next=/login?token={CANARY}", f"next=/login?token={MASK}"),
        (f"next=%2Flogin%3Ftoken%3D{CANARY}", f"next=/login?token={MASK}"),
        (f"token={CANARY}&token={CANARY}2", f"token={MASK}&token={MASK}"),
        ("a=%0d%0aERROR", "a=\\r\\nERROR"),
        ("a=%ff&b=", "a=\\xff&b="),
        ("", ""),
    ],
)
def test_forms_and_query_strings_are_decoded_before_they_are_judged(
    query: str, shown: str
) -> None:
    assert REDACTOR.query(query) == shown
    form = "application/x-www-form-urlencoded; charset=utf-8"
    assert REDACTOR.body(query.encode(), form) == shown


@pytest.mark.parametrize(
    "name", ["X-Auth-Token", "Authorization", "Proxy-Authorization", "Cookie"]
)
def test_headers_that_carry_a_secret_are_masked(name: str) -> None:
    headers = [(name.encode(), CANARY.encode()), (b"Accept", b"*/*")]
    headers += [(b"accept", b"a"), (b"Referer", f"/?token={CANARY}".encode())]

    assert REDACTOR.headers(headers) == {
        name.lower(): MASK,
        "accept": "*/*, a",
        "referer": f"/?token={MASK}",
    }


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (f'{{"password": "{CANARY}'.encode(), "application/json"),
        (b'{"password": "\xff' + CANARY.encode() + b'"}', "application/json"),
        (f"password is {CANARY}".encode(), "text/plain"),
        (f"<password>{CANARY}</password>".encode(), "application/xml"),
        (CANARY.encode(), ""),
        (f'--a\r\nname="password"\r\n\r\n{CANARY}'.encode(), "multipart/form-data"),
        (b"[" * 9000 + CANARY.encode(), "application/json"),
        (b"[" * 5000 + b"]" * 5000, "application/json"),
        (b"1" * 5000, "application/json"),
    ],
)
def test_what_cannot_be_read_is_shown_by_its_size(
    body: bytes, content_type: str
) -> None:
    assert REDACTOR.body(body, content_type) == f"<{len(body)} bytes>"


def test_a_part_of_a_body_is_shown_by_the_size_of_the_whole() -> None:
    for kind in ("application/json", "application/x-www-form-urlencoded"):
        assert REDACTOR.body(b"7", kind, size=70) == "<70 bytes>"


def test_json_is_read_also_as_an_array_and_by_a_type_of_its_own() -> None:
    body = f'[{{"\\u0070assword": "{CANARY}"}}, [{{"token": 1}}]]'.encode()

    for kind in ("application/json", "Application/Problem+JSON; charset=utf-8"):
        shown = REDACTOR.body(body, kind)
        assert shown == [{"password": MASK}, [{"token": MASK}]]


@settings(max_examples=100)
@given(st.text("a1=&;?%0d \r\n\t\x00\x1b\x85\u2028\u202e\ud800\\'\"é"))
def test_what_comes_out_is_one_line_that_can_be_printed(text: str) -> None:
    for shown in (REDACTOR.text(text), REDACTOR.query(text)):
        assert shown.isprintable()
        assert len(shown.splitlines()) <= 1


PIECES = ["1 ", "1", " ", "a", "a=", "=", "token=", "1" * 12 + " " * 500, "&", "é"]
PIECES += ["%25", "%3D", "25", '"', "'", "\\", '\\"', "{", ":", "://", "@", "token =  "]
PIECES += ["'token':", '"token": "', 'token="', "token%253D"]
LENGTH, SECONDS = 200_000, 10


@pytest.mark.parametrize("piece", PIECES)
def test_hostile_text_takes_time_by_its_length_only(piece: str) -> None:
    text = piece * (LENGTH // len(piece))
    began = process_time()
    for hostile in (text, f"={text}", f"://{text}:", f"%25{text}%"):
        assert REDACTOR.text(hostile).isprintable()

    assert process_time() - began < SECONDS  # by its square it would be minutes


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"a=b=token={CANARY}=c?d, e=f", f"a=b=token={MASK}, e=f"),
        (f"/?next=/login?token={CANARY}&page=2", f"/?next=/login?token={MASK}&page=2"),
        (f"p%61ssword={CANARY} kept", f"p%61ssword={MASK} kept"),
        (f"token= {CANARY} kept", f"token= {MASK} kept"),
        (f"token = {CANARY}, kept", f"token = {MASK}, kept"),
        ("token=", f"token={MASK}"),
        (f"a%3dtoken%3d{CANARY}&a", f"a%3dtoken%3d{MASK}&a"),
        (f"api%255Fkey%253D{CANARY}", f"api%255Fkey%253D{MASK}"),
        ("=kept", "=kept"),
        ("12:30 kept: http://kept:80/?a", "12:30 kept: http://kept:80/?a"),
    ],
)
def test_pairs_in_text_are_masked_to_their_end(text: str, shown: str) -> None:
    assert REDACTOR.text(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f'password="my {CANARY}" kept', f"password={MASK} kept"),
        (f"password='my {CANARY}' kept", f"password={MASK} kept"),
        (f'password="my \\"{CANARY}" kept', f"password={MASK} kept"),
        (f'password="my {CANARY}', f"password={MASK}"),
        (f'{{"password": "my {CANARY}", "a": 1}}', f'{{"password": {MASK}, "a": 1}}'),
        (f"{{'api_key': '{CANARY}', 'a': 1}}", f"{{'api_key': {MASK}, 'a': 1}}"),
        (f'{{"token" :{CANARY}', f'{{"token" :{MASK}'),
        (f'{{"token": [1, "{CANARY}"]}}', f'{{"token": {MASK}'),
        (f'{{"token": {{"a": "{CANARY}"}}}}', f'{{"token": {MASK}'),
    ],
)
def test_quoted_values_are_masked_to_the_quote_that_ends_them(
    text: str, shown: str
) -> None:
    assert REDACTOR.text(text) == shown


def test_json_in_a_string_in_json_is_searched_however_often_it_is_wrapped() -> None:
    value: object = {"password": f'my "own {CANARY}" \\', "kept": 1001}
    for _ in range(4):
        value = {"payload": json.dumps(value)}
        shown = str(REDACTOR.body(json.dumps(value).encode(), "application/json"))
        assert CANARY not in shown
        assert "1001" in shown


@pytest.mark.parametrize("times", range(4))
def test_an_address_in_an_address_is_searched_however_often_it_is_encoded(
    times: int,
) -> None:
    address = f"/login?api_key={CANARY}"
    for _ in range(times):
        address = f"/login?next={quote(address, safe='')}"

    headers = [(b"referer", f"https://test{address}".encode())]
    for shown in (
        REDACTOR.text(address),
        REDACTOR.query(address.partition("?")[2]),
        str(REDACTOR.headers(headers)),
        str(REDACTOR.value({"url": address})),
    ):
        assert CANARY not in shown
        assert "api" in shown


@pytest.mark.parametrize("scheme", ["https", "postgresql+asyncpg", "redis"])
def test_who_logs_in_at_an_address_is_not_shown(scheme: str) -> None:
    text = f"failed: {scheme}://ada:{CANARY}@pbx@test/a@b, kept"

    assert REDACTOR.text(text) == f"failed: {scheme}://{MASK}@test/a@b, kept"


@pytest.mark.parametrize(
    "text",
    [
        "the password is hunter2",
        "Authorization: Basic aHVudGVyMg==",
        "authorization=Basic aHVudGVyMg",
        "token: hunter2",
        "note=hunter2",
    ],
)
def test_what_no_name_with_a_sign_announces_is_shown(text: str) -> None:
    assert REDACTOR.text(text)[-6:] == text[-6:]


@pytest.mark.parametrize(
    ("path", "template", "parameters", "shown"),
    [
        ("/v1/calls/007", "/calls/{call_id:int}", {"call_id": 7}, "/v1/calls/007"),
        ("/", "/", {}, "/"),
        (f"/reset/{CANARY}", "/reset/{token:uuid}", {"token": 7}, f"/reset/{MASK}"),
        (f"/{CANARY}/open", "/open", {"inviteToken": 7}, "/open"),
        (f"/u/7/t/{CANARY}", "/u/{u}/t/{t_key}", {"u": 7, "t_key": 7}, None),
        (f"/raw/{CANARY}", "/raw/{path}", {}, f"/raw/{MASK}"),
        (f"/reset/{CANARY}", None, {}, f"/reset/{MASK}"),
        (f"/reset/{CANARY}/", "unmatched", {"tenant": "a"}, f"/reset/{MASK}"),
        (f"//reset/{CANARY}", None, {}, f"//{MASK}"),
        (f"/reset\\{CANARY}\n", None, {}, f"/reset\\{MASK}"),
        (f"reset/{CANARY}", None, {}, f"reset/{MASK}"),
        ("/nothing", None, {}, "/nothing"),
        ("/nothing/", None, {}, "/nothing/"),
        ("*", None, {}, "*"),
        ("", None, {}, ""),
    ],
)
def test_a_path_is_shown_where_its_route_is_known_and_has_no_secret(
    path: str, template: str | None, parameters: dict[str, object], shown: str | None
) -> None:
    redactor = Redactor(names=[*SECRET_NAMES, "tkey"])

    result = redactor.path(path, template, parameters)

    assert result == shown if shown is not None else CANARY not in result


def test_other_names_can_be_given() -> None:
    shown = Redactor(names={"greeting"}).value({"Greeting": CANARY, "token": "shown"})

    assert shown == {"Greeting": MASK, "token": "shown"}
    assert "greeting" not in SECRET_NAMES


@pytest.mark.parametrize("name", ["X-Pin", "api_key", "Greeting", "", "-"])
def test_a_name_that_would_never_or_always_be_found_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no name contains"):
        Redactor(names={name})


def test_the_naive_way_knows_only_exact_names(proof: Proof) -> None:
    body = {"client_secret": CANARY, "userPassword": CANARY, "password": "masked"}

    assert naive.mask(body) == {**body, "password": "***"}
    proof.breaks("A field is called client_secret", "it is logged in clear")


def test_the_naive_way_does_not_look_into_lists(proof: Proof) -> None:
    body = {"users": [{"password": CANARY}]}

    assert naive.mask(body) == body
    proof.breaks("A list holds objects with passwords", "they are logged in clear")


def test_the_naive_way_shows_card_numbers(proof: Proof) -> None:
    body = {"note": f"paid with {CARD}", "card": int(CARD)}

    assert naive.mask(body) == body
    proof.breaks("A card number stands in a note or a number", "it is logged in clear")


def test_the_naive_way_cannot_take_an_array(proof: Proof) -> None:
    body: Any = [{"password": CANARY}]
    with pytest.raises(AttributeError):
        naive.mask(body)
    proof.breaks("The body is a JSON array", "the request fails in its own log")
