"""Rename the column of recommended ids, which old databases call movies."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Rename the column of the recommended ids."""
    op.alter_column("events", "movies", new_column_name="item_ids")


def downgrade() -> None:
    """Restore the old name."""
    op.alter_column("events", "item_ids", new_column_name="movies")
