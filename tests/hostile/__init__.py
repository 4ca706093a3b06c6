"""Attacks from outside: own clients against the wire, the page, files and topics; one module a kind."""
