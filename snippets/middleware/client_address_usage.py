"""See who asks, through two proxies, when the client invents entries of its own."""

from snippets.middleware.client_address import client_address, client_network

CLIENT, OUTER, INNER = "2001:db8:7:1::99", "198.51.100.1", "10.0.0.2"


def main() -> None:
    """Ask for the address with and without trust in the proxies."""
    forwarded = f"203.0.113.66, {CLIENT}, {OUTER}"
    scope = {
        "client": (INNER, 40000),
        "headers": [(b"x-forwarded-for", forwarded.encode())],
    }
    print("trusting nobody:", client_address(scope, trusted_proxies=0))
    # > trusting nobody: 10.0.0.2
    print("trusting two proxies:", client_address(scope, trusted_proxies=2))
    # > trusting two proxies: 2001:db8:7:1::99
    print("counted as:", client_network(scope, trusted_proxies=2))
    # > counted as: 2001:db8:7:1::/64

    scope["headers"] = [(b"x-forwarded-for", b"203.0.113.66")]
    print("past the outer proxy:", client_address(scope, trusted_proxies=2))
    # > past the outer proxy: 10.0.0.2


if __name__ == "__main__":
    main()
