"""openpi's policy protocol: msgpack over a websocket, as openpi's clients and servers speak it.

The server greets with a map of metadata; each request is a map of arrays and texts, each reply a map with "actions".

Source:
    Physical-Intelligence/openpi 15a9616: packages/openpi-client (websocket_client_policy.py, msgpack_numpy.py) and
    src/openpi/serving/websocket_policy_server.py.
"""
