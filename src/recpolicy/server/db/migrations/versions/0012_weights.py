"""Events have the weights of the ranking formula that ranked their lists; of earlier events none are known."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("events", sa.Column("weights", sa.Text(), nullable=True))


def downgrade() -> None:
    """Remove the column."""
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_column("weights")
