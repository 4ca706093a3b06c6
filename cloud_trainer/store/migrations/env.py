"""What Alembic runs to migrate: on the connection, and in the transaction, that cloud_trainer.store.schema gives it."""

from alembic import context

from cloud_trainer.store.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
