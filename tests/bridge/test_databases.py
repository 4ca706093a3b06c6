"""The whole service behaves alike on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest

from tests.contracts.service_contract import ServiceContract
from tests.postgres import database_of_ones_own


class TestSqliteService(ServiceContract):
    @pytest.fixture
    def database_url(self):
        return None


class TestPostgresService(ServiceContract):
    @pytest.fixture
    def database_url(self, postgres_url):
        with database_of_ones_own(postgres_url) as url:
            yield url
