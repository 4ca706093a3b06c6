"""What goes over the wire. Whoever imports it imports gRPC after it: these are read when gRPC starts."""

import os

os.environ.setdefault("GRPC_DNS_RESOLVER", "native")  # the system's, which knows .local and what changed in /etc/hosts
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its lines say less than our errors, twenty times over
