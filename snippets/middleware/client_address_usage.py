"""See who asks, through two proxies and past them, when the client invents entries."""

from ipaddress import ip_network

from snippets.middleware.client_address import client_address, client_network

CLIENT, OUTER, INNER = "2001:db8:7:1::99", "198.51.100.1", "10.0.0.2"
PROXIES = [ip_network("10.0.0.0/24"), ip_network(OUTER)]


def main() -> None:
    """Ask for the address with and without trust in the proxies."""
    forwarded = f"203.0.113.66, {CLIENT}, {OUTER}"
    scope = {
        "client": (INNER, 40000),
        "headers": [(b"x-forwarded-for", forwarded.encode())],
    }
    print("trusting nobody:", client_address(scope, trusted_proxies=[]))
    # > trusting nobody: 10.0.0.2
    print("trusting two proxies:", client_address(scope, trusted_proxies=PROXIES))
    # > trusting two proxies: 2001:db8:7:1::99
    print("counted as:", client_network(scope, trusted_proxies=PROXIES))
    # > counted as: 2001:db8:7:1::/64

    scope["client"] = ("192.0.2.44", 40000)
    print("past the proxies:", client_address(scope, trusted_proxies=PROXIES))
    # > past the proxies: 192.0.2.44


if __name__ == "__main__":
    main()
