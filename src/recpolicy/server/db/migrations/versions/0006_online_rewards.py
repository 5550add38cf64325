"""A reward says if online learning may learn from it; those of before may."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("rewards", sa.Column("online", sa.Boolean(), nullable=False, server_default=sa.true()))


def downgrade() -> None:
    """Remove the column."""
    with op.batch_alter_table("rewards", schema=None) as batch_op:
        batch_op.drop_column("online")
