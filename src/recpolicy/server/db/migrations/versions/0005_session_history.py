"""The session that a session policy saw is stored with the event; events of before have none."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("events", sa.Column("history", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Remove the column."""
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_column("history")
