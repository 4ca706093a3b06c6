#!/bin/sh
# Draws docs/diagrams/*.dot into docs/images/*.svg; needs Graphviz (apt-get install graphviz).
set -eu
cd "$(dirname "$0")/.."
for source in docs/diagrams/*.dot; do
    dot -Tsvg "$source" -o "docs/images/$(basename "$source" .dot).svg"
done
