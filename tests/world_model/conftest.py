from __future__ import annotations

from gymnast_core.policies.processor import use_threads

use_threads()
