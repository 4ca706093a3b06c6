"""What goes over the wire. Import it before gRPC, which reads these variables when it starts."""

import os

os.environ.setdefault("GRPC_DNS_RESOLVER", "native")  # the system's, which knows .local and what changed in /etc/hosts
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its lines hold less than our errors, twenty times over
