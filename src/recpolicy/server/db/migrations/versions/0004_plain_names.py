"""Columns get the names of the API: policy_digest, type and rating_difference."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

RENAMED = (
    ("events", "content", "policy_digest"),
    ("versions", "content", "policy_digest"),
    ("feedback", "kind", "type"),
    ("variant_health", "gap", "rating_difference"),
)
KEYS = ("uq_feedback_event_id_position_kind", "uq_feedback_event_id_position_type")


def upgrade() -> None:
    """Rename the columns, and the unique key that contains one of them."""
    for table, old, new in RENAMED:
        op.alter_column(table, old, new_column_name=new)
    _rename_key(*KEYS)


def downgrade() -> None:
    """Restore the old names."""
    for table, old, new in RENAMED:
        op.alter_column(table, new, new_column_name=old)
    _rename_key(*reversed(KEYS))


def _rename_key(old: str, new: str) -> None:
    """Rename a unique key; SQLite matches keys by their columns and cannot rename one without a copy of the table."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER TABLE feedback RENAME CONSTRAINT {old} TO {new}")
