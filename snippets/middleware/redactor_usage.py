"""Show what of a new user, a form and a request may stand in a log."""

import json

from snippets.middleware.redactor import Redactor


def main() -> None:
    """Redact one of each."""
    redactor = Redactor()
    user = {
        "name": "Ada",
        "new_password": "lovelace",
        "extensions": [{"number": "1001", "sip-secret": "s3cr3t"}],
        "payment": {"card": 4111111111111111, "note": "or 4111 1111 1111 1111"},
    }
    for name, value in json.loads(json.dumps(redactor.value(user))).items():
        print(f"{name}: {value}")
        # > name: Ada
        # > new_password: ***
        # > extensions: [{'number': '1001', 'sip-secret': '***'}]
        # > payment: {'card': '***', 'note': 'or ***'}

    print(redactor.query("user%5Fpassword=lovelace&extension=1001"))
    # > user_password=***&extension=1001
    print(redactor.headers([(b"x-auth-token", b"abc"), (b"accept", b"*/*")]))
    # > {'x-auth-token': '***', 'accept': '*/*'}
    print(redactor.text("GET /\r\nERROR all is lost"))
    # > GET /\r\nERROR all is lost
    print(redactor.body(b'{"password": "lovel', "application/json"))
    # > <19 bytes>

    strict = Redactor(names=[*redactor.names, "greeting"])
    print(strict.value({"voicemail_greeting": "hello", "calls": 3}))
    # > {'voicemail_greeting': '***', 'calls': 3}


if __name__ == "__main__":
    main()
