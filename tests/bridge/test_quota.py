"""What a tenant may still store: exact for what this service commits, and not asked of the catalogue each time."""

import pytest

from cloud_trainer.service import Limits
from cloud_trainer.service.quota import Quota
from cloud_trainer.store.database import Database
from cloud_trainer.store.protocols import EpisodeRow
from cloud_trainer.store.sql_meta import SqlMetaStore
from gymnast_core.wire.errors import QuotaError


@pytest.fixture
def meta(tmp_path):
    store = SqlMetaStore(Database(f"sqlite:///{tmp_path / 'store.db'}"))
    yield store
    store.close()


def row(number: int, size: int, tenant: str = "lab") -> EpisodeRow:
    return EpisodeRow(0, tenant, f"ep-{number}", "wx-1", f"{number:064x}", size, 0)


def test_bytes_and_episodes_under_way_count(meta):
    quota = Quota(meta, Limits(tenant_bytes=100, tenant_episodes=3))
    quota.check("lab", [60, 40])
    with pytest.raises(QuotaError, match="2 episodes of 101 bytes"):
        quota.check("lab", [60, 41])
    with pytest.raises(QuotaError, match="4 episodes"):
        quota.check("lab", [1, 1, 1, 1])


def test_what_was_committed_since_the_catalogue_was_asked_counts(meta):
    quota = Quota(meta, Limits(tenant_bytes=100, tenant_episodes=2))
    quota.check("lab", [100])
    meta.add_episodes([row(1, 70)])
    quota.add([row(1, 70)])
    quota.check("lab", [30])
    quota.check("other", [100])
    with pytest.raises(QuotaError, match="101 bytes"):
        quota.check("lab", [31])


def test_what_was_there_before_counts(meta):
    meta.add_episodes([row(1, 70)])
    with pytest.raises(QuotaError, match="lab"):
        Quota(meta, Limits(tenant_bytes=100)).check("lab", [31])
