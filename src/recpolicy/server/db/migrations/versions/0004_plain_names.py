"""Rename columns to the names of the API: policy_digest, type and rating_difference."""

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


def upgrade() -> None:
    """Rename the columns; the unique key of feedback keeps its name, because SQLite cannot rename keys."""
    for table, old, new in RENAMED:
        op.alter_column(table, old, new_column_name=new)


def downgrade() -> None:
    """Restore the old names."""
    for table, old, new in RENAMED:
        op.alter_column(table, new, new_column_name=old)
